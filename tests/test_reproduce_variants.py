"""Every distinct way of the tables to make images, labels and students, for a step or two on a small image folder."""

import pytest
import tiny

from reproduce import commands, results, run
from reproduce.cells import pick
from reproduce.sizes import Sizes

NETS = ("resnet18", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5", "alexnet")
CLASSES = ("n01440764", "n01443537", "n01484850")


@pytest.fixture(scope="module")
def sizes(tmp_path_factory):
    root = tmp_path_factory.mktemp("tables")
    tiny.image_folder(root / "train", CLASSES, per_class=40, size=(40, 36))  # RDED takes four images for one
    tiny.image_folder(root / "val", CLASSES, per_class=2, size=(40, 36), seed=1)
    tiny.teacher_folder(root / "teachers", NETS, CLASSES, input_resize={"alexnet": 64})
    return Sizes(output_dir=root / "out", train_dir=root / "train", val_dir=root / "val", teacher_weights=str(root / "teachers"),
                 image_size=32, iteration=2, epochs=1, ipc=2, seeds=(0,), threads=1)


def variants():
    """(cell, stages to run): the first cell of each distinct recipe of images, labels and students."""
    seen, cells = set(), pick(run.TABLES["table1"], ["r18", "ipc10"]) + run.TABLES["table2"].cells + run.TABLES["table3"].cells
    for cell in cells:
        own = {"recover": cell.images.options, "relabel": cell.labels and {**cell.labels.options, "batch_size": None},
               "validate": cell.student.options}
        new = {stage for stage, options in own.items() if options is not None and (stage, str(options)) not in seen}
        seen |= {(stage, str(options)) for stage, options in own.items()}
        if new:
            yield pytest.param(cell, new, id=f"{cell.table} {cell.name}")


def make(command):
    """Run a command; teachers with random weights know no image."""
    extra = ["--min-teacher-accuracy", "0"] if command.stage == "recover" else []
    commands.ENTRIES[command.stage].main([*command.arguments, *extra])


@pytest.mark.parametrize(("cell", "stages"), list(variants()))
def test_variant_runs(cell, stages, sizes):
    """Cells that share images, labels or student with an earlier one need only what is new."""
    own = commands.cell_commands(cell, sizes)
    for command in own:
        missing = command.stage == "relabel" and "validate" in stages and not (command.folder / "labels.json").exists()
        if command.stage in stages or missing or (command.stage == "recover" and not (command.folder / "images.json").exists()):
            make(command)
    run_folder = commands.run_of(cell, sizes)
    ipc = cell.ipc if cell.table == "table1" else 2
    assert len(list((run_folder / "images").rglob("*.png"))) == 3 * ipc
    if "validate" in stages:
        found = results.outcome(cell, sizes)
        assert len(found.best) == 1
        assert 0 <= found.best[0] <= 100
        assert found.hours > 0


def test_finished_cells_are_skipped_and_reported(sizes, capsys):
    """What the script does at its end: paper beside ours, as text and as CSV."""
    cell = run.TABLES["table3"].cell("labels resnet18")
    for command in commands.cell_commands(cell, sizes):
        make(command)
    files = {p: p.stat().st_mtime_ns for p in sizes.output_dir.rglob("*.safetensors")}
    capsys.readouterr()
    given = ["--train-dir", sizes.train_dir, "--val-dir", sizes.val_dir, "--output-dir", sizes.output_dir, "--teacher-weights",
             sizes.teacher_weights, "--image-size", 32, "--iteration", 2, "--epochs", 1, "--ipc", 2, "--seeds", 0, "--threads", 1]
    run.main(["table3", "labels", "resnet18", *map(str, given)])
    text = capsys.readouterr().out
    assert "=== 3/3  validate: t3_baseline_ipc2/students/resnet18_b1024-kl-resnet18-seed0" in text
    assert "labels resnet18  21.22" in text
    assert files == {p: p.stat().st_mtime_ns for p in sizes.output_dir.rglob("*.safetensors")}
    assert len((sizes.output_dir / "table3.csv").read_text().splitlines()) == 1 + 25
