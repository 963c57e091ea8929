"""The shape of the house: imports go one way, options are read, --help is quick, scripts are sh."""

import ast
import functools
import importlib
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from utils import options

ROOT = Path(__file__).parents[1]
# From the ground up: a room imports itself and the rooms named here, which are all before it.
GROUND = ("utils", "data", "models")
IMPORTS = {
    "utils": (),
    "data": ("utils",),
    "models": ("utils", "data"),
    "recover": GROUND,
    "relabel": GROUND,
    "validate": GROUND,
    "report": GROUND,
    "exchange": ("utils", "data"),
    "reproduce": (*GROUND, "recover", "relabel", "validate", "report"),
    "benchmarks": (*GROUND, "recover", "relabel", "validate", "report", "reproduce"),
}
SCRIPTS = sorted(path.relative_to(ROOT) for path in [*ROOT.rglob("*.sh"), ROOT / ".ci/run"]
                 if ".venv" not in path.parts)


@functools.cache
def parsed(file):
    return ast.parse(file.read_text())


def sources(room):
    return sorted((ROOT / room).rglob("*.py"))


# Imports

def imported(tree):
    """Names of the modules that a file imports, at its top or inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize("room", IMPORTS)
def test_imports_go_one_way(room):
    for file in sources(room):
        for name in imported(parsed(file)):
            first = name.split(".")[0]
            assert first not in IMPORTS or first in (room, *IMPORTS[room]), (
                f"{file.relative_to(ROOT)} imports {name}")


def test_only_one_file_needs_diffusers():
    files = {str(file.relative_to(ROOT)) for room in IMPORTS for file in sources(room)
             for name in imported(parsed(file)) if name.split(".")[0] == "diffusers"}
    assert files == {"models/diffusion.py"}


# Options

OPTIONS = {"recover.options": ["Options"], "recover.dap.options": ["Options"],
           "relabel.options": ["Options"], "validate.options": ["Options"],
           "validate.hard_options": ["Options"], "models.pretrain_options": ["Options"],
            "models.diffusion_options": ["Options"], "reproduce.compare": ["Options"],
            "report.options": ["Fig1", "Fig4", "Fig5", "Course", "Losses", "Verify",
                               "DiversityOptions", "Page"],
            "exchange.options": ["FkdExport", "FkdImport", "RdedExport", "RdedImport",
                                 "HuggingFaceExport", "HuggingFaceImport", "HuggingFacePush",
                                 "DDRankingExport", "DDRankingImport"]}


def names_read(files):
    """Every X of .X, ["X"] and .get("X") in files, which is how options are read."""
    names = set()
    for file in files:
        for node in ast.walk(parsed(file)):
            if isinstance(node, ast.Attribute):
                names.add(node.attr)
            elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                names.add(node.slice.value)
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".get"):
                names.add(getattr(node.args[0], "value", None))
    return names


@pytest.mark.parametrize("module", OPTIONS)
def test_every_option_is_read_and_has_help(module):
    # labels.json keeps relabel's options, and data.labels reads them there.
    room = [*sources(module.split(".")[0]), ROOT / "data/labels.py"]
    for kind in (getattr(importlib.import_module(module), name) for name in OPTIONS[module]):
        groups = [Path(inspect.getsourcefile(group.type)) for group in options._groups(kind)]
        read = names_read({*room, *groups})
        for field in options.option_fields(kind):
            name = field.name.removesuffix("_for")  # lr_for: of single networks, read beside lr
            assert name in read, f"{module}: {options.flag(name)} is not read"
            assert field.metadata["help"], f"{module}: {options.flag(name)} has no help"


# --help

ENTRIES = [".".join(file.relative_to(ROOT).with_suffix("").parts) for room in IMPORTS
           for file in sources(room) if '__name__ == "__main__"' in file.read_text()]
HEAVY = ("torch", "torchvision", "timm", "diffusers", "numpy", "scipy", "sklearn", "PIL",
         "matplotlib", "safetensors", "umap", "tensorboard", "wandb")
HELP = """
import runpy, sys, time
sys.argv = ["entry", "--help"]
try:
    runpy.run_module({entry!r}, run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print("heavy:", set({heavy}) & set(sys.modules), "seconds:", time.process_time())
"""


@pytest.mark.parametrize("entry", ENTRIES)
def test_help_answers_at_once(entry):
    run = subprocess.run([sys.executable, "-c", HELP.format(entry=entry, heavy=HEAVY)], cwd=ROOT,
                         capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "usage: " in run.stdout
    heavy, seconds = re.search(r"heavy: (.*) seconds: ([\d.]+)", run.stdout).groups()
    assert heavy == "set()"
    assert float(seconds) < 1


@pytest.mark.parametrize("entry", [name for name in ENTRIES if name.split(".")[0] in
                                   ("models", "recover", "relabel", "validate")])
def test_an_entry_of_a_stage_is_also_a_program(entry):
    """python data_synthesis.py, in its folder, finds the project."""
    file = (ROOT / entry.replace(".", "/")).with_suffix(".py")
    run = subprocess.run([sys.executable, file.name, "--no-such"], cwd=file.parent,
                         capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr.startswith("error: ")
    assert f"(python -m {entry} --help lists the options)" in run.stderr


# Scripts

@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_scripts_are_posix_sh(script):
    shell, text = shutil.which("dash") or "sh", (ROOT / script).read_text()
    assert subprocess.run([shell, "-n", ROOT / script], capture_output=True).returncode == 0
    assert not re.search(r"\[\[|^\s*source |pipefail|\bfunction \w+|<\(", text, re.M)
    assert not re.search(r'(?<!CDPATH= )cd "\$\(', text)
    assert not [line for line in text.splitlines() if len(line) > 100]


@pytest.mark.parametrize("siblings", ["recover/recover_r*.sh", "relabel/*.sh",
                                      "validate/train_FKD_*.sh", "validate/train_hard_*.sh",
                                      "reproduce/*[tn]*_dap.sh", "reproduce/table*.sh"])
def test_sibling_scripts_differ_only_above_the_line(siblings):
    line = "# ---- nothing to edit below ----"
    below = {path.read_text().split(line)[1] for path in ROOT.glob(siblings)}
    assert len(below) == 1
