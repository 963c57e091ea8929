"""What finished cells say, and in what they are not as in the paper."""

import csv
import json
import math
from dataclasses import replace

import pytest

from reproduce import commands, departures, results, run, table3
from reproduce.sizes import Sizes

CELL = table3.TABLE.cell("schedule ssrs")


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def finish(cell, sizes, seed, best=50.0, last=50.0):
    """Store what the stages store for a cell at the paper's sizes."""
    for command in commands.cell_commands(cell, replace(sizes, seeds=(seed,))):
        options = departures.expected(command, departures.images_of(cell))
        classes = ["c"] * options.pop("class_count", 1000)
        content = {"options": options, "teacher_weights": options.pop("teacher_weights", None),
                   "identity": {"classes": classes}}
        if command.stage == "validate":
            content |= {"best": {"top1": best}, "last": {"top1": last}, "device": "NVIDIA X",
                        "seconds": 3600}
        write(command.folder / departures._MANIFEST[command.stage], content)


@pytest.fixture
def request_(tmp_path):
    """The last cell of Table 3, with finished students of the seeds 0 and 1 but not of seed 2."""
    request = run.parse(["table3", "schedule", "--output-dir", str(tmp_path)])
    finish(CELL, request.sizes, 0, best=49.0, last=48.0)
    finish(CELL, request.sizes, 1, best=50.0, last=49.5)
    units = commands.run_folder(CELL, request.sizes) / "units"
    for name, together, seconds in (("a", ["a", "b"], 1800), ("b", ["a", "b"], 3600),
                                    ("c", ["c"], 1800)):
        write(units / f"{name}.json", {"seconds": seconds, "units_together": together})
    write(tmp_path / "timings.json", {
        "relabel: prism_r18_ipc10/labels_prism": {"seconds": 3600, "command": ""}})
    return request


def rows(request):
    return list(csv.DictReader(results.write_csv(request).open()))


def test_mean_and_spread_of_a_finished_run(request_):
    outcome = results.read_outcome(CELL, request_.sizes)
    assert (outcome.best, outcome.last) == ([49.0, 50.0], [48.0, 49.5])
    # Students take 1 + 1 hours and labels 1. Units a and b share a clock (1), c takes half an hour.
    assert math.isclose(outcome.hours, 1 + 1 + 1 + 0.5 + 1)
    (line,) = results.lines([CELL], request_.sizes)[1:]
    assert line.split("  ")[0] == "schedule ssrs"
    for text in ("49.4", "49.5 ± 0.7", "48.8 ± 1.1", "4.5 GPU-hours"):
        assert text in line


def test_jobs_of_snakemake_give_the_seconds_of_labels(request_, tmp_path):
    (tmp_path / "timings.json").unlink()
    for part in (0, 1):
        path = tmp_path / f"snakemake/relabel.prism_r18_ipc10.labels_prism.{part}of2.tsv"
        path.parent.mkdir(exist_ok=True)
        path.write_text("s\th:m:s\n900.5\t0:15:00\n")
    assert math.isclose(results.read_outcome(CELL, request_.sizes).hours, 3.5 + 1801 / 3600)


def test_tables_have_the_cells_that_were_measured(request_, tmp_path, capsys):
    results.collect(replace(request_, cells=table3.TABLE.cells))
    (row,) = rows(request_)
    assert (row["cell"], row["paper"], row["ours"], row["ours_std"], row["seeds"]) == (
        "schedule ssrs", "49.4", "49.500", "0.707", "2")
    assert row["best_per_seed"] == "49.00 50.00"
    assert (row["hours"], row["device"], row["departures"]) == ("4.5000", "NVIDIA X", "")
    text = (tmp_path / "table3.txt").read_text()
    assert len(text.splitlines()) == 3  # caption, header and one cell
    assert text in capsys.readouterr().out


def test_seeds_of_other_starts_count_too(request_):
    finish(CELL, request_.sizes, 7, best=60.0)
    sizes = replace(request_.sizes, seeds=(0,))
    assert results.read_outcome(CELL, sizes).best == [49.0, 50.0, 60.0]


def test_full_seeds_are_found_in_their_run_folders(tmp_path):
    sizes = Sizes(output_dir=tmp_path, full_seeds=1, seeds=(0,))
    for seed in (0, 3):
        finish(CELL, sizes, seed, best=50.0 + seed)
    assert results.read_outcome(CELL, sizes).best == [50.0, 53.0]


def test_departures_come_from_what_was_stored(request_):
    """A short run cannot pass for the paper's, whatever a later call is told."""
    images = commands.run_folder(CELL, request_.sizes) / "images.json"
    content = json.loads(images.read_text())
    content["options"]["iteration"], content["identity"]["classes"] = 100, ["a", "b"]
    content["teacher_weights"] = str(images.parent / "teachers")
    write(images, content)
    student = commands.student_folder(CELL, request_.sizes, 0) / "result.json"
    content = json.loads(student.read_text())
    content["options"]["epochs"] = 5
    write(student, content)

    words = ["iteration 100 (paper 4000)", "class_count 2 (paper 1000)",
             "teacher_weights of a local folder (paper IMAGENET1K_V1)", "epochs 5 (paper 300)"]
    assert departures.departures(CELL, request_.sizes, 0) == words
    assert rows(request_)[0]["departures"] == "; ".join(words)
    assert "not as in the paper" in results.lines([CELL], request_.sizes)[1]


def test_images_per_class_and_online_teacher_are_departures(tmp_path):
    cell = run.TABLES["table1"].cell("r50 ipc10 prism-delt")
    sizes = Sizes(output_dir=tmp_path, online_teacher="student")
    finish(cell, sizes, 0)
    assert departures.departures(cell, sizes, 0) == ["teachers resnet50 (paper resnet18)"]

    cell, sizes = run.TABLES["table2"].cell("multi2"), Sizes(output_dir=tmp_path, ipc=7)
    finish(cell, sizes, 0)
    assert departures.departures(cell, sizes, 0) == ["ipc 7 (paper 1300)"]


@pytest.mark.parametrize(("table", "name", "words"), [
    ("table2", "sre2l", ["batch_size 25 (paper 256)", "lr 0.001 (paper 0.1)",
                         "min_scale_crops 0.25 (paper 0.08)", "momentum None (paper 0.9)",
                         "optimizer adamw (paper sgd)", "weight_decay 0.01 (paper 0.0001)",
                         "weight_decay_on matrices (paper all)"]),
    ("table1", "r18 ipc50 rded", ["mosaic_grid 1 (paper 2)"]),
    ("table1", "r18 ipc100 edc", ["mosaic_candidates 300 (paper 400)", "mosaic_grid 1 (paper 2)"]),
    ("table1", "r18 ipc10 rded", []),
    ("table1", "r18 ipc10 prism", [])])
def test_what_digits_replace_in_a_cell_is_a_departure(tmp_path, table, name, words):
    """The paper's cell is what counts: AdamW for SGD, one crop for mosaics of four."""
    cell, sizes = run.cells_for(run.TABLES[table], "digits").cell(name), Sizes(output_dir=tmp_path)
    finish(cell, sizes, 0)
    assert sorted(departures.departures(cell, sizes, 0)) == words
