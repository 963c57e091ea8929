"""The digits laboratory with students that only wrote their numbers."""

import json

import pytest

from reproduce import commands, digits_lab, lab_report
from reproduce.steps import Failure
from utils.errors import UserError


@pytest.fixture
def ran(monkeypatch):
    """Instead of running cells: a result per cell and seed, better with every cell.

    Returns the calls: (names of cells, Sizes).
    """
    calls = []

    def run_cells(cells, sizes):
        calls.append(([cell.name for cell in cells], sizes))
        for place, cell in enumerate(cells):
            for seed in sizes.seeds:
                path = commands.student_folder(cell, sizes, seed) / "result.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps({"best": {"top1": 20.0 + place + seed / 10},
                                            "last": {"top1": 10.0}}))
        return [], 7

    monkeypatch.setattr(digits_lab, "run_cells", run_cells)
    return calls


def test_rows_csv_and_report(ran, tmp_path, capsys):
    out, csv = tmp_path / "out", tmp_path / "csv"
    digits_lab.main(["--seeds", "0", "4", "--output-dir", str(out), "--csv-dir", str(csv)])
    (rows2, sizes2), (rows3, sizes3) = ran
    assert (len(rows2), len(rows3)) == (9, 25 - 3)
    assert not {"batch b1024", "batch b64", "batch b128"} & set(rows3)
    assert (sizes2.ipc, sizes3.ipc, sizes2.full_seeds, sizes3.dataset) == (10, 5, 1, "digits")
    for name, rows in (("table2", rows2), ("table3", rows3)):
        lines = lab_report.read_csv(csv / f"digits_{name}.csv")
        assert [line["row"] for line in lines] == [row for row in rows for _ in range(2)]
        assert {line["seed"] for line in lines} == {0, 4}
    report = (out / "report.md").read_text()
    assert "## table2: IPC 10, 100 steps, 50 epochs, 2 seeds" in report
    assert (out / "digits_lab.png").read_bytes().startswith(b"\x89PNG")
    assert "does not hold: real data above 4 BN teachers" in capsys.readouterr().out


def test_one_table_with_other_sizes(ran, tmp_path):
    digits_lab.main(["table3", "--ipc", "2", "--epochs", "3", "--iteration", "7", "--seeds", "0",
                     "--output-dir", str(tmp_path)])
    ((_, sizes),) = ran
    assert (sizes.ipc, sizes.epochs, sizes.iteration, sizes.units_per_step) == (2, 3, 7, 2)
    assert [path.name for path in tmp_path.glob("*.csv")] == ["digits_table3.csv"]


def test_a_failed_row_ends_it_after_the_other_table(tmp_path, monkeypatch):
    """A report without a row would not be the tables'."""
    ran = []
    monkeypatch.setattr(digits_lab, "run_cells", lambda _, sizes: (
        ran.append(sizes.ipc) or [Failure("recover: x", 2)], 4))
    with pytest.raises(UserError, match=r"2 of 8 steps failed \(recover: x; recover: x\), 6 are"):
        digits_lab.main(["--output-dir", str(tmp_path)])
    assert ran == [10, 5]


@pytest.mark.parametrize(("name", "stages", "loss"), [("table2", 2, "ce"), ("table3", 3, "mse_gt")])
def test_every_seed_has_its_own_images_labels_and_student(tmp_path, name, stages, loss):
    args = digits_lab.get_args_parser().parse_args(
        ["--seeds", "0", "1", "--output-dir", str(tmp_path)])
    cell = digits_lab.lab_cells(name)[-1]
    made = commands.cell_commands(cell, digits_lab.lab_sizes(name, args))
    assert len({command.folder for command in made}) == len(made) == 2 * stages
    assert {c.resolved()["loss_type"] for c in made if c.stage == "validate"} == {loss}


def test_table1_is_not_in_the_laboratory():
    with pytest.raises(UserError, match="table1"):
        digits_lab.main(["table1"])
