"""The shape of the project: which way imports go, that every option is read, that scripts are POSIX sh."""

import ast
import importlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("recover", "relabel", "validate", "models", "utils", "reproduce")
ALLOWED = {"recover": {"recover", "models", "utils"}, "relabel": {"relabel", "models", "utils"},
           "validate": {"validate", "models", "utils"}, "models": {"models", "utils"}, "utils": {"utils"},
           "reproduce": {"reproduce", "recover", "relabel", "validate", "models", "utils"}}
SCRIPTS = sorted(p.relative_to(ROOT) for p in ROOT.rglob("*.sh") if ".venv" not in p.parts) + [Path(".ci/run")]


def sources(room):
    return sorted((ROOT / room).glob("*.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_one_way(room):
    for file in sources(room):
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                first = name.split(".")[0]
                assert first not in ROOMS or first in ALLOWED[room], f"{file.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("stage", ["recover", "relabel", "validate"])
def test_every_option_is_read(stage):
    parser = importlib.import_module(f"{stage}.args").get_args_parser()
    code = "\n".join(f.read_text() for room in (stage, "utils") for f in sources(room) if f.name != "args.py")
    for action in parser._actions:
        if action.dest != "help":
            read = re.search(rf"\b(args|arguments)\.{action.dest}\b|[\"']{action.dest}[\"']", code)
            assert read, f"{stage}: {action.dest} is read nowhere"
            assert action.help, f"{stage}: {action.dest} has no help"


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_scripts_are_posix_sh(script):
    shell = shutil.which("dash") or "sh"
    assert subprocess.run([shell, "-n", ROOT / script], capture_output=True).returncode == 0
    assert not re.search(r"\[\[|^\s*source |pipefail|\bfunction \w+|<\(", (ROOT / script).read_text(), re.M)


@pytest.mark.parametrize("stage", ["recover", "relabel", "validate"])
def test_sibling_scripts_differ_only_above_the_line(stage):
    below = {p.read_text().split("# ---- nothing to edit below ----")[1] for p in (ROOT / stage).glob("*.sh")}
    assert len(below) == 1
