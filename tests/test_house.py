"""The shape of the project: which way imports go, that every option is read, that scripts are POSIX sh."""

import ast
import importlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the ground up: a room imports itself and the rooms above it in this list.
BELOW = {
    "utils": (),
    "data": ("utils",),
    "models": ("utils", "data"),
    "recover": ("utils", "data", "models"),
    "relabel": ("utils", "data", "models"),
    "validate": ("utils", "data", "models"),
    "report": ("utils", "data", "models"),
    "reproduce": ("utils", "data", "models", "recover", "relabel", "validate", "report"),
    "benchmarks": ("utils", "data", "models", "recover", "relabel", "validate", "report", "reproduce"),
}
ROOMS = tuple(BELOW)
SCRIPTS = sorted(p.relative_to(ROOT) for p in ROOT.rglob("*.sh") if ".venv" not in p.parts) + [Path(".ci/run")]


def sources(room):
    return sorted((ROOT / room).rglob("*.py"))


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
                assert first not in ROOMS or first in (room, *BELOW[room]), f"{file.relative_to(ROOT)} imports {name}"


PARSERS = {"recover": "recover.args", "relabel": "relabel.args", "validate": "validate.args", "models": "models.pretrain_args",
           "reproduce": "reproduce.quickstart"}


def attributes_read(room):
    """Names X of every args.X in a room, and of what options are handed on as: settings["X"], recipe.X, a law's self.X."""
    found = set()
    for file in sources(room):
        for node in ast.walk(ast.parse(file.read_text())):
            holders = ("args", "self.args", "recipe", *(["self"] if file.name == "teacher_pool.py" else []))
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in holders:
                found.add(node.attr)
            elif isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("settings") and isinstance(
                    node.slice, ast.Constant):
                found.add(node.slice.value)
    return found


@pytest.mark.parametrize("room", PARSERS)
def test_every_option_is_read(room):
    read = attributes_read(room)
    if room == "models":
        from models.pretrain_args import PER_NET

        read |= set(PER_NET) | {f"{option}_for" for option in PER_NET}  # read by getattr in a loop over PER_NET
    for action in importlib.import_module(PARSERS[room]).get_args_parser()._actions:
        if action.dest != "help":
            assert action.dest in read, f"{room}: --{action.dest} is read nowhere"
            assert action.help, f"{room}: --{action.dest} has no help"


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_scripts_are_posix_sh(script):
    shell = shutil.which("dash") or "sh"
    assert subprocess.run([shell, "-n", ROOT / script], capture_output=True).returncode == 0
    assert not re.search(r"\[\[|^\s*source |pipefail|\bfunction \w+|<\(", (ROOT / script).read_text(), re.M)


@pytest.mark.parametrize("siblings", ["recover/*.sh", "relabel/*.sh", "validate/*.sh", "reproduce/table*.sh"])
def test_sibling_scripts_differ_only_above_the_line(siblings):
    below = {p.read_text().split("# ---- nothing to edit below ----")[1] for p in ROOT.glob(siblings)}
    assert len(below) == 1
