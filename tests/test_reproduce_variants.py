"""Every distinct recipe of the tables for images, labels and students, for a step or two."""

import importlib

import pytest
import tiny

from reproduce import commands, results, run
from reproduce.cells import pick

NETS = ("resnet18", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5", "alexnet")
CLASSES = ("n01440764", "n01443537", "n01484850")


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """Options of the table scripts for a small folder of images."""
    root = tmp_path_factory.mktemp("tables")
    size = (40, 36)
    tiny.image_folder(root / "train", CLASSES, per_class=40, size=size)  # RDED takes four for one
    tiny.image_folder(root / "val", CLASSES, per_class=2, size=size, seed=1)
    tiny.teacher_folder(root / "teachers", NETS, CLASSES, input_resize={"alexnet": 64})
    return commands.as_arguments({
        "train_dir": root / "train", "val_dir": root / "val", "teacher_weights": root / "teachers",
        "output_dir": root / "out", "image_size": 32, "iteration": 2, "epochs": 1, "seeds": [0],
        "threads": 1})


def variants():
    """(cell, stages to run): the first cell of each recipe of images, labels and students."""
    cells = pick(run.TABLES["table1"], ["r18", "ipc10"])
    cells += run.TABLES["table2"].cells + run.TABLES["table3"].cells
    seen = set()
    for cell in cells:
        recipes = {"recover": cell.images.options, "validate": cell.student.options}
        if cell.labels:
            recipes["relabel"] = {**cell.labels.options, "batch_size": None}
        new = {stage for stage, values in recipes.items() if (stage, str(values)) not in seen}
        seen |= {(stage, str(values)) for stage, values in recipes.items()}
        if new:
            yield pytest.param(cell, new, id=f"{cell.table} {cell.name}")


def sizes_for(cell, arguments):
    ipc = [] if cell.table == "table1" else ["--ipc", "2"]
    return run.parse([cell.table, *arguments, *ipc]).sizes


def make(command):
    """Run a command; teachers with random weights know no image."""
    extra = ["--min-teacher-accuracy", "0"] if command.stage == "recover" else []
    importlib.import_module(command.module).main([*command.arguments, *extra])


@pytest.mark.parametrize(("cell", "stages"), list(variants()))
def test_variant_runs(cell, stages, arguments):
    """Cells that share images, labels or student with an earlier one need only what is new."""
    sizes = sizes_for(cell, arguments)
    for command in commands.cell_commands(cell, sizes):
        missing = {
            "recover": not (command.folder / "images.json").exists(),
            "relabel": "validate" in stages and not (command.folder / "labels.json").exists(),
            "validate": False}
        if command.stage in stages or missing[command.stage]:
            make(command)

    ipc = cell.ipc if cell.table == "table1" else 2
    images = commands.run_folder(cell, sizes) / "images"
    assert len(list(images.rglob("*.png"))) == 3 * ipc
    if "validate" in stages:
        outcome = results.read_outcome(cell, sizes)
        assert len(outcome.best) == 1
        assert 0 <= outcome.best[0] <= 100
        assert outcome.hours > 0


def test_finished_cells_are_skipped_and_reported(arguments, capsys):
    """At its end the script prints the paper's number beside ours, and writes it as CSV."""
    cell = run.TABLES["table3"].cell("labels resnet18")
    sizes = sizes_for(cell, arguments)
    for command in commands.cell_commands(cell, sizes):
        make(command)

    def written():
        return {p: p.stat().st_mtime_ns for p in sizes.output_dir.rglob("*.safetensors")}

    before = written()
    capsys.readouterr()
    run.main(["table3", "labels", "resnet18", *arguments, "--ipc", "2"])
    text = capsys.readouterr().out
    assert "=== 3/3  validate: t3_baseline_ipc2/students/resnet18_b1024-kl-resnet18-seed0" in text
    assert "labels resnet18  21.22" in text
    assert before == written()
    assert (sizes.output_dir / "table3.csv").exists()
    assert "labels resnet18" in (sizes.output_dir / "table3.txt").read_text()
