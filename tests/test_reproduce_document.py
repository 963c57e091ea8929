"""The generated parts of EXPERIMENTS.md, and the hours they state."""

import math

import pytest

from reproduce import commands, cost, document, lab_report, results, run, table2
from reproduce.sizes import Sizes
from utils.errors import UserError

TEXT = document.FILE.read_text()


def test_experiments_md_is_what_the_generator_writes():
    assert document.rewritten(TEXT) == TEXT, "run python -m reproduce.document"


def test_every_cell_stands_there_with_its_command():
    for table in run.TABLES.values():
        for cell in table.cells:
            assert TEXT.count(f"| `sh reproduce/{table.name}.sh {cell.name}` | {cell.title}") == 1
    assert "sh reproduce/table3.sh recovery varied` | + varied iterations <sup>1, 3</sup> | 31.30 | not run" in TEXT


def test_a_missing_part_is_one_sentence():
    with pytest.raises(UserError, match="its generated parts are none, expected table1, table2"):
        document.rewritten("# Experiments\n")


def test_full_size_numbers_are_shown_others_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(document, "TABLES_CSV", tmp_path)
    header = ",".join(results.COLUMNS)
    rows = ["table2,real,t,70.0,,69.500,0.250,3,student,x,69,0,120.0,NVIDIA X,",
            "table2,sre2l,t,17.9,,5.0,,1,student,x,5,,1,cpu,iteration 10 (paper 4000)"]
    (tmp_path / "table2.csv").write_text("\n".join([header, *rows]) + "\n")
    assert document.measured_cells("table2") == {"real": "69.5 ± 0.2 (3 seeds, 120.0 h on NVIDIA X)"}
    part = document.cells_part("table2")
    assert "| 70.0 | 69.5 ± 0.2 (3 seeds" in part
    assert part.count("not run") == 8


def test_measured_digits_are_shown_with_their_verdicts(tmp_path, monkeypatch):
    monkeypatch.setattr(document, "MEASURED", tmp_path)
    monkeypatch.setattr(document, "ROOT", tmp_path)
    assert document.digits_part("table2").endswith("not run yet.")
    lines = [{"row": cell.name, "seed": s, "ipc": 3, "iteration": 7, "epochs": 5, "best_top1": 10.0 * n + s, "last_top1": 1.0}
             for n, cell in enumerate(table2.TABLE.cells) for s in (0, 1)]
    lab_report.write_csv(lines, tmp_path / "digits_table2.csv")
    part = document.digits_part("table2")
    assert "IPC 3, 7 steps, 5 epochs, 2 seeds" in part
    assert "9 hold, 1 do not hold, 0 cannot be told" in part  # every row above the one before it, real data lowest


def hours(operations):
    """Of so many multiply-adds."""
    return 2 * operations / cost.OPERATIONS_PER_SECOND / 3600


def test_hours_by_hand():
    student = 3 * ((300 * 10_000 * 3 + 30 * 50_000) * 1.814e9)  # three students of 300 epochs, tested 30 times
    recover = 10_000 * 4000 * 2 * 1.814e9
    labels = 300 * 10_000 * 1.814e9
    of = {row: cost.gpu_hours(run.TABLES["table1"].cell(f"r18 ipc10 {row}")) for row in ("sre2l", "delt", "rded")}
    assert math.isclose(of["sre2l"], hours(recover + labels + student), rel_tol=1e-6)
    online = 3 * ((300 * 10_000 * 3 + 30 * 50_000) * 1.814e9 + 300 * 10_000 * 1.814e9)
    ranking = 1_281_167 * 1.814e9
    delt = ranking + recover * 4.5 / 8 + online  # a group joins every eighth: (8 + 7 + ... + 1) / 64 of the steps
    assert math.isclose(of["delt"], hours(delt), rel_tol=1e-6)
    rded = 1000 * 300 * 5 * 1.814e9 + 3 * ((300 * 10_000 * 3 + 6 * 50_000) * 1.814e9 + 300 * 10_000 * 1.814e9)
    assert math.isclose(of["rded"], hours(rded), rel_tol=1e-6)


def test_hours_follow_the_teachers_that_are_drawn():
    found = Sizes(output_dir=document.ROOT)
    of = {name: cost._recover(commands.cell_commands(table2.TABLE.cell(name), found)[0].arguments, 1000)
          for name in ("real", "sre2l", "multi4", "single-intra")}
    assert of["real"] == 0
    assert math.isclose(of["sre2l"], 1000 * 4000 * 2 * 1.814)
    assert math.isclose(of["multi4"], 1000 * 4000 * 2 * (1.814 + 0.301 + 0.386 + 0.04), rel_tol=1e-3)
    assert of["single-intra"] == pytest.approx(1000 * 4000 * 2 * (1.814 + 0.301 + 0.386 + 0.04) / 4, rel=0.1)
