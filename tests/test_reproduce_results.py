"""What finished cells say, and what a few seeds can tell of the paper's orderings."""

import csv
import json
import math
import types
from dataclasses import replace
from pathlib import Path

import pytest

from report import verdicts
from reproduce import commands, departures, lab_report, results, run, steps, table2, table3
from reproduce.cells import Claim
from reproduce.sizes import Sizes
from utils.errors import UserError

CELL = table3.TABLE.cell("schedule ssrs")


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_stage(command, **more):
    """What a stage stores for a command at the paper's sizes."""
    options = departures.expected_of(command)
    classes = options.pop("classes", 1000)
    name = {"recover": "images.json", "relabel": "labels.json", "validate": "result.json"}[command.stage]
    write(command.folder / name, {"options": options, "teacher_weights": options.pop("teacher_weights", None),
                                  "identity": {"classes": ["c"] * classes}, **more})


def finish(cell, found, seed, best, last):
    for command in commands.cell_commands(cell, replace(found, seeds=(seed,))):
        more = {"best": {"top1": best}, "last": {"top1": last}, "device": "NVIDIA X", "seconds": 3600}
        write_stage(command, **(more if command.stage == "validate" else {}))


@pytest.fixture
def finished(tmp_path):
    """A cell whose students of seeds 0 and 1 are finished, on a GPU. Seed 2 is not."""
    found = Sizes(output_dir=tmp_path)
    for seed, (best, last) in enumerate([(49.0, 48.0), (50.0, 49.5)]):
        finish(CELL, found, seed, best, last)
    units = commands.run_of(CELL, found) / "units"
    for name, company, seconds in (("a", ["a", "b"], 1800), ("b", ["a", "b"], 3600), ("c", ["c"], 1800)):
        write(units / f"{name}.json", {"seconds": seconds, "units_together": company})
    write(tmp_path / "timings.json", {"relabel: prism_r18_ipc10/labels_prism": {"seconds": 3600, "command": ""}})
    return found


def test_mean_and_spread_of_a_finished_run(finished):
    found = results.outcome(CELL, finished)
    assert (found.best, found.last, found.device) == ([49.0, 50.0], [48.0, 49.5], "NVIDIA X")
    # students 1 + 1 hours; units a and b share a clock (1 hour), c half an hour; labels 1
    assert math.isclose(found.hours, 1 + 1 + 1 + 0.5 + 1)
    (line,) = results.lines([CELL], finished)[1:]
    assert line.split("  ")[0] == "schedule ssrs"
    for text in ("49.4", "49.5 ± 0.7", "48.8 ± 1.1", "4.5 GPU-hours"):
        assert text in line


def test_csv_lists_every_cell_and_says_what_was_not_run(finished):
    rows = list(csv.DictReader(results.write_csv(table3.TABLE, finished).open()))
    assert len(rows) == 25
    assert [r["cell"] for r in rows if r["ours"] != "not run"] == ["schedule ssrs"]
    row = rows[-1]
    assert (row["paper"], row["ours"], row["ours_std"], row["seeds"]) == ("49.4", "49.500", "0.707", "2")
    assert row["best_per_seed"] == "49.00 50.00"
    assert (row["hours"], row["device"], row["departures"]) == ("4.5000", "NVIDIA X", "")


def test_other_seeds_that_lie_there_count_too(finished):
    finish(CELL, finished, 7, 60.0, 60.0)
    assert results.outcome(CELL, replace(finished, seeds=(0,))).best == [49.0, 50.0, 60.0]


def test_departures_come_from_what_was_stored(finished):
    """A short run cannot pass for the paper's, whatever a later call is told."""
    path = commands.run_of(CELL, finished) / "images.json"
    content = json.loads(path.read_text())
    content["options"]["iteration"], content["identity"]["classes"] = 100, ["a", "b"]
    content["teacher_weights"] = str(finished.output_dir / "teachers")
    write(path, content)
    student = commands.student_folder(CELL, finished, 0) / "result.json"
    content = json.loads(student.read_text())
    content["options"]["epochs"] = 5
    write(student, content)
    words = ["iteration 100 (paper 4000)", "classes 2 (paper 1000)", "teacher_weights of a local folder (paper IMAGENET1K_V1)",
             "epochs 5 (paper 300)"]
    assert departures.departures(CELL, finished, 0) == words
    row = list(csv.DictReader(results.write_csv(table3.TABLE, finished).open()))[-1]
    assert row["departures"] == "; ".join(words)
    assert "not at the paper's sizes" in results.lines([CELL], finished)[1]


def test_another_online_teacher_is_a_departure(tmp_path):
    cell, found = run.TABLES["table1"].cell("r50 ipc10 prism-delt"), Sizes(output_dir=tmp_path, online_teacher="student")
    for command in commands.cell_commands(cell, replace(found, seeds=(0,))):
        write_stage(command)
    assert departures.departures(cell, found, 0) == ["teachers resnet50 (paper resnet18)"]


def digits_cell(table, name):
    return run.cells_for(run.TABLES[table], "digits").cell(name)


@pytest.mark.parametrize(("table", "name", "words"), [
    ("table2", "sre2l", ["batch_size 25 (paper 256)", "min_scale_crops 0.25 (paper 0.08)", "optimizer adamw (paper sgd)",
                         "weight_decay_on matrices (paper all)"]),
    ("table1", "r18 ipc50 rded", ["mosaic_grid 1 (paper 2)"]),
    ("table1", "r18 ipc100 edc", ["mosaic_candidates 300 (paper 400)", "mosaic_grid 1 (paper 2)"]),
    ("table1", "r18 ipc10 rded", []), ("table1", "r18 ipc10 prism", [])])
def test_what_digits_replace_in_a_cell_is_a_departure(tmp_path, table, name, words):
    """Even at the paper's sizes: AdamW for SGD, one crop for mosaics of four. The paper's cell is what counts, not the cell."""
    cell, found = digits_cell(table, name), Sizes(output_dir=tmp_path)
    for command in commands.cell_commands(cell, replace(found, seeds=(0,))):
        write_stage(command)
    assert sorted(departures.departures(cell, found, 0)) == words


def test_missing_folders_are_named_before_anything_runs(tmp_path):
    (tmp_path / "train/a").mkdir(parents=True)
    command = ["table1", "r18", "ipc10", "prism", "--train-dir", str(tmp_path / "train"), "--output-dir", str(tmp_path / "out")]
    with pytest.raises(UserError, match="no such folder of images. Set VAL_DIR"):
        run.main([*command, "--val-dir", str(tmp_path / "val")])
    assert not (tmp_path / "out").exists()


def test_numbers_as_the_paper_writes_them():
    assert results.paper_words(run.TABLES["table1"].cell("r50 ipc10 rded")) == "–"
    assert results.paper_words(run.TABLES["table1"].cell("r50 ipc10 prism")) == "51.1 ± 1.2"
    assert results.paper_words(table3.TABLE.cell("batch b16")) == "40.41"
    assert verdicts.spread([97.62]) == "97.6"


def test_verdicts_by_hand():
    # deviations from the means: (1, -1), (2, -2): sum of squares 10, freedom 2
    deviation = verdicts.pooled_deviation([[51.0, 49.0], [42.0, 38.0]])
    assert math.isclose(deviation, 5**0.5)
    # error of the difference: sqrt(5) * sqrt(1/2 + 1/2); 10 points are more than two of them, in either direction
    assert verdicts.verdict([51.0, 49.0], [42.0, 38.0], deviation) == (verdicts.HOLDS, 10.0, pytest.approx(5**0.5))
    assert verdicts.verdict([42.0, 38.0], [51.0, 49.0], deviation)[0] == verdicts.FAILS
    assert verdicts.verdict([51.0, 49.0], [48.0, 44.0], deviation)[0] == verdicts.UNSURE  # 4 < 2 * 2.24
    assert verdicts.verdict([51.0, 49.0], [47.0, 44.0], deviation)[0] == verdicts.HOLDS  # 4.5 > 4.47
    assert verdicts.verdict([51.0, 49.0, 50.0], [47.0], deviation)[2] == pytest.approx(5**0.5 * (4 / 3) ** 0.5)


def test_one_seed_or_equal_numbers_cannot_tell():
    assert verdicts.verdict([90.0], [10.0], verdicts.pooled_deviation([[90.0], [10.0]])) == (verdicts.UNSURE, 80.0, None)
    assert verdicts.verdict([50.0, 50.0], [50.0, 50.0], 0.0)[0] == verdicts.UNSURE
    assert verdicts.standard_error([1.0]) is None
    assert math.isclose(verdicts.standard_error([1.0, 3.0]), 1.0)


def test_claims_about_missing_rows_are_left_out():
    names = {"a": 50.0, "b": 40.0}
    found = verdicts.judge([Claim("a", "b"), Claim("b", "c")], {"a": [5.0, 5.2], "b": [9.0, 9.2]}, names, names)
    assert [(f["higher"], f["paper"], f["verdict"]) for f in found] == [(50.0, 10.0, verdicts.FAILS)]


def lab_lines():
    """Table 2's rows, real and multi4 far apart, the others equal."""
    lines = []
    for cell in table2.TABLE.cells:
        for seed in (0, 1):
            top1 = {"real": 90.0, "multi4": 70.0}.get(cell.name, 60.0) + seed
            lines.append({"row": cell.name, "seed": seed, "ipc": 10, "iteration": 100, "epochs": 50, "best_top1": top1,
                          "last_top1": top1 - 1})
    return lines


def test_report_of_the_laboratory(tmp_path):
    lab_report.write_csv(lab_lines(), tmp_path / "digits_table2.csv")
    lines = lab_report.read_csv(tmp_path / "digits_table2.csv")
    assert lines == lab_lines()
    assert lab_report.sizes_words(lines) == "IPC 10, 100 steps, 50 epochs, 2 seeds of images, labels and student"
    text = lab_report.markdown("table2", lines)
    assert "| real data | 70 | 90.5 ± 0.5 | 89.5 ± 0.5 |" in text
    assert "Of the paper's 10 orderings: 3 hold, 0 do not hold, 7 cannot be told." in text
    assert "- holds: real data above 4 BN teachers, pre-distillation (the paper +30.9, here +20.0 ± 0.7)" in text
    lab_report.draw({"table2": lines}, tmp_path / "lab.png")
    assert (tmp_path / "lab.png").read_bytes().startswith(b"\x89PNG")


def test_steps_count_the_time_of_stopped_starts(tmp_path, monkeypatch):
    clock = iter([0.0, 5.0, 100.0, 103.0, 200.0, 201.0])
    monkeypatch.setattr(steps.time, "perf_counter", lambda: next(clock))

    def fail(_):
        raise UserError("stopped")

    entry = types.SimpleNamespace(__spec__=types.SimpleNamespace(name="a.b"), main=fail)
    with pytest.raises(UserError):
        steps.Steps(1, tmp_path / "t.json").run("one", entry)
    entry.main = list
    for _ in range(2):  # the second finds it finished
        again = steps.Steps(1, tmp_path / "t.json")
        again.run("one", entry)
        assert again.timings.seconds["one"]["seconds"] == 8.0


def test_parts_of_a_step_add_up(tmp_path):
    """Side by side or not, stopped or not: each process's seconds count once, until all parts are done."""
    timings = steps.Timings(tmp_path / "t.json")
    timings.add("one", "x", 10.0, complete=False)
    assert not timings.is_complete("one", "x")
    again = steps.Timings(tmp_path / "t.json")
    again.add("one", "x", 5.0, complete=True)
    again.add("one", "x", 1.0, complete=True)  # found it finished
    assert again.is_complete("one", "x")
    assert json.loads((tmp_path / "t.json").read_text())["one"] == {"seconds": 15.0, "command": "x"}
    again.add("one", "y", 2.0, complete=False)  # another command: another run
    assert again.seconds["one"]["seconds"] == 2.0
    assert not again.is_complete("one", "y")
    assert not again.is_complete("two", "y")


def test_failures_end_in_one_sentence_and_a_status(capsys):
    steps.end([], 3)
    with pytest.raises(UserError, match=r"1 of 3 steps failed \(a\), 1 that need them were left out, 1 are done. The reasons"):
        steps.end([steps.Failure("a", 2), steps.Failure("b", None)], 3)
    with pytest.raises(SystemExit) as ended:
        steps.end([steps.Failure("a", 2), steps.Failure("b", -9)], 3)
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("error: 2 of 3 steps failed (a; b), 1 are done.")


def test_one_failed_step_does_not_keep_others_from_running(tmp_path, monkeypatch, capsys):
    """NGPU=1: RDED's images are refused, so EDC's, which start from them, are left out; SRe2L's run, until relabel crashes."""
    cells = [run.TABLES["table1"].cell(f"r18 ipc10 {row}") for row in ("rded", "edc", "sre2l")]
    found, ran, students = Sizes(output_dir=tmp_path, seeds=(0,)), [], []

    def stage(name):
        def main(options):
            ran.append(title := f"{name} {next(Path(o).name for o in options if str(tmp_path) in o and 'labels' not in o)}")
            if title == "recover rded_ipc10":
                raise UserError("was made with other options")
            if title == "relabel sre2l_ipc10":
                raise ZeroDivisionError
        return types.SimpleNamespace(__spec__=types.SimpleNamespace(name=name), main=main)

    monkeypatch.setattr(commands, "ENTRIES", {name: stage(name) for name in commands.ENTRIES})
    failures, total = run.run_cells(cells, found, after_student=lambda: students.append(1))
    assert ran == ["recover rded_ipc10", "recover sre2l_ipc10", "relabel sre2l_ipc10"]
    assert [(f.title.split(":")[0], f.status) for f in failures] == [
        ("recover", 2), ("validate", None), ("recover", None), ("relabel", None), ("validate", None), ("relabel", 1),
        ("validate", None)]
    assert (total, len(students)) == (8, 3)
    said = capsys.readouterr()
    assert "error: recover: rded_ipc10: was made with other options" in said.err
    assert "ZeroDivisionError" in said.err
    assert "8/8  validate: sre2l_ipc10/students/sre2l-sre2l-resnet18-seed0\nleft out: what it needs has failed" in said.out


def test_ctrl_c_ends_all_steps(tmp_path, monkeypatch):
    def stop(_):
        raise KeyboardInterrupt

    entry = types.SimpleNamespace(__spec__=types.SimpleNamespace(name="a"), main=stop)
    monkeypatch.setattr(commands, "ENTRIES", dict.fromkeys(commands.ENTRIES, entry))
    with pytest.raises(KeyboardInterrupt):
        run.run_cells([CELL], Sizes(output_dir=tmp_path))
