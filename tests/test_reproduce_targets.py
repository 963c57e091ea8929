"""What the Snakefile is asked for, without Snakemake."""

import subprocess
import sys
from pathlib import Path

from reproduce import commands, targets

ROOT = Path(__file__).parents[1]


def test_nothing_but_the_standard_library_is_needed():
    """Snakemake's environment has none of the project's requirements."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from reproduce import targets"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_table_waits_for_its_students(tmp_path):
    (table,), reasons = targets.tables(
        ["backbones", "schedule"], {"dataset": "digits", "seeds": [0, 1], "output_dir": tmp_path},
        checks_folders=True)
    assert table.name == "table3"
    assert set(reasons) == {"table1", "table2", "table_dap", "ablation_dap"}
    assert {command.stage for command in table.last} == {"validate"}
    assert len(table.last) == 4 * 2
    assert table.outputs == (tmp_path / "table3.csv", tmp_path / "table3.txt")
    assert table.collect[:2] == ("reproduce.run", "table3")
    assert table.collect[-1] == "--collect"


def test_missing_folders_are_a_reason_unless_nothing_runs(tmp_path):
    settings = {"output_dir": tmp_path, "val_dir": tmp_path}
    made, reasons = targets.tables(["r18", "ipc10", "prism"], settings, checks_folders=True)
    assert not made
    assert reasons["table1"].startswith("no folder of images was given. Set TRAIN_DIR")
    made, _ = targets.tables(["r18", "ipc10", "prism"], settings, checks_folders=False)
    assert [target.name for target in made] == ["table1"]


def test_a_laboratory_is_one_graph_of_its_parts(tmp_path):
    settings = {"train_dir": tmp_path, "output_dir": tmp_path / "out", "csv_dir": tmp_path / "csv",
                "seeds": [0]}
    (both,), _ = targets.laboratories("fashion_mnist", ["methods", "ipc"], settings, True)
    parts = [targets.laboratories("fashion_mnist", [name], settings, True)[0][0]
             for name in ("methods", "ipc")]
    assert set(both.graph) == set().union(*(part.graph for part in parts))
    assert both.outputs == (tmp_path / "csv/fashion_methods.csv", tmp_path / "csv/fashion_ipc.csv",
                            tmp_path / "out/report.md")
    assert {command.stage for command in both.last} == set(commands.STUDENTS)

    (teachers,), _ = targets.laboratories("fashion_mnist", ["teachers"], settings, True)
    assert {command.stage for command in teachers.last} == {"squeeze"}
    assert teachers.outputs == ()


def test_an_unknown_part_is_a_reason():
    made, reasons = targets.laboratories("digits", ["table1"], {}, False)
    assert not made
    assert "the laboratory of digits has no such part" in reasons["digits"]
