import json
import shlex

import pytest
import tiny
from PIL import Image

from reproduce import own_images, quickstart
from reproduce.own_images import settle_plan
from utils import options
from utils.errors import UserError
from utils.files import write_json

CLASSES = ("cat", "dog", "newt")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Options that name a training and a test folder of tiny coloured images."""
    root = tmp_path_factory.mktemp("pets")
    tiny.image_folder(root / "train", CLASSES, 6, size=(36, 32))
    tiny.image_folder(root / "test", CLASSES, 2, size=(36, 32), seed=1)
    return ["--train-dir", root / "train", "--val-dir", root / "test"]


def run(*arguments):
    quickstart.main([str(argument) for argument in arguments])


def test_a_folder_of_images_ends_in_a_page(folders, tmp_path, capsys):
    command = [*folders, "--fast", "--output-dir", tmp_path, "--device", "cpu", "--threads", "1"]
    run(*command)
    printed = capsys.readouterr().out
    assert "3 classes, 6 images each, 6 to test\n  short side  32 px" in printed
    assert "The plan for --minutes 30 on cpu with 1 threads\n  image size  32 px, stem " in printed
    assert "mirroring   yes (--mirror no where " in printed

    page = (tmp_path / "report.md").read_text()
    for part in ("# pets", ", distilled to 6 images", "| PRISM | ",
                 "on 6 real images", "--flip-prob 0.5", "python -m models.pretrain --train-dir "):
        assert part in page, part
    # Two images of a class: where they started, by PRISM, by SRe2L and random real ones.
    for row in ("start0", "set0", "set1", "set2"):
        assert Image.open(tmp_path / f"report_files/class002_{row}.png").size == (2 * 32, 32)
    assert f"\nPage: {tmp_path / 'report.html'}\n" in printed

    # The plan is kept, so the same command finds everything done, however fast the machine is now.
    images = sorted(p.stat().st_mtime_ns for p in (tmp_path / "prism/images").rglob("*.png"))
    run(*command)
    assert capsys.readouterr().out.count("already finished") == 6
    assert images == sorted(
        p.stat().st_mtime_ns for p in (tmp_path / "prism/images").rglob("*.png"))
    with pytest.raises(UserError, match="was made with ipc = null, now ipc = 1. Give the same"):
        run(*command, "--ipc", "1")


def test_a_dry_run_prints_plan_and_commands_and_writes_nothing(folders, tmp_path, capsys):
    run(*folders, "--dry-run", "--mirror", "no", "--output-dir", tmp_path / "out", "--threads", "1")
    printed = capsys.readouterr().out
    commands = [shlex.split(line) for line in printed.splitlines() if line.startswith("python -m")]
    assert len(commands) == 1 + 3 + 3 + 6
    assert all(command[command.index("--flip-prob") + 1] == "0" for command in commands
               if "--flip-prob" in command)
    assert not (tmp_path / "out").exists()


def test_the_digits_have_a_recipe_of_their_own(tmp_path, capsys):
    run("--fast", "--dry-run", "--output-dir", tmp_path)
    printed = capsys.readouterr().out
    assert printed.count("--dataset digits") == 4
    assert "--teachers resnet18 mobilenet_v2 shufflenet_v2_x0_5 alexnet --epochs 1 " in printed


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["--train-dir", "here"], "--train-dir was given without --val-dir. Give both"),
    (["--mirror", "no"], "--mirror: digits have a recipe of their own"),
    (["--image-size", "48"], "--image-size: digits have a recipe of their own"),
    (["--minutes", "5"], "--minutes: digits have a recipe of their own")])
def test_options_that_do_not_fit_together(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        run(*arguments)


def test_images_that_cannot_be_distilled(folders, tmp_path):
    with pytest.raises(UserError, match="class cat has 6 training images to start from. Give "):
        run(*folders, "--ipc", "7", "--output-dir", tmp_path)
    with pytest.raises(UserError, match="need [0-9]+ minutes at least on this machine"):
        run(*folders, "--minutes", "0.001", "--output-dir", tmp_path)
    with pytest.raises(UserError, match="--image-size 20000: expected 16 to 1024 pixels"):
        run(*folders, "--image-size", "20000")

    tiny.image_folder(tmp_path / "one", ("cat",), 2)
    with pytest.raises(UserError, match="has one class folder, cat. A classifier needs two"):
        run("--train-dir", tmp_path / "one", *folders[2:])
    tiny.image_folder(tmp_path / "two", ("cat", "dog"), 2)
    with pytest.raises(UserError, match="newt is a class in .* alone"):
        run(*folders[:2], "--val-dir", tmp_path / "two")


def test_folders_that_cannot_be_meant(folders, tmp_path):
    train = folders[1]
    with pytest.raises(UserError, match="--val-dir .*: is the folder of the training images"):
        run(*folders[:2], "--val-dir", train, "--output-dir", tmp_path)
    with pytest.raises(UserError, match=f"Did you mean {train}"):
        run("--train-dir", train.parent, *folders[2:], "--output-dir", tmp_path)
    with pytest.raises(UserError, match="expected a folder outside the images"):
        run(*folders, "--output-dir", train / "out")
    assert sorted(path.name for path in train.iterdir()) == sorted(CLASSES)


def test_a_subset_of_imagenet_and_all_of_its_test_images(tmp_path, capsys):
    tiny.image_folder(tmp_path / "train", tiny.WNIDS[:2], 3)
    tiny.image_folder(tmp_path / "val", tiny.WNIDS, 4)
    run("--train-dir", tmp_path / "train", "--val-dir", tmp_path / "val", "--dry-run", "--fast",
        "--threads", "1")
    assert "2 classes, 3 images each, 8 to test" in capsys.readouterr().out


def test_a_damaged_plan(folders, tmp_path):
    command = [*folders, "--fast", "--threads", "1", "--output-dir", tmp_path]
    o = options.parse(quickstart.Options, [str(word) for word in command], prog="", description="")
    settle_plan(o.quickstart, tmp_path)
    kept = json.loads((tmp_path / "plan.json").read_text())
    for damaged in ({**kept, "plan": {"ipc": 1}},
                    {key: value for key, value in kept.items() if key != "machine"}):
        write_json(tmp_path / "plan.json", damaged)
        with pytest.raises(UserError, match="plan.json: damaged"):
            run(*command)


@pytest.mark.parametrize(("folder", "name"), [
    ("/data/pets/train", "pets"), ("/data/pets/Train", "pets"), ("/data/pets", "pets"),
    ("/train", "train"), ("/data/digits/train", "digits-images")])
def test_where_the_results_go(folder, name):
    o = quickstart.Quickstart(train_dir=quickstart.Path(folder))
    assert quickstart.default_folder(o).name == name


def test_a_busy_machine_is_named(capsys):
    own_images.note_load(0.9, 2)
    assert capsys.readouterr().out == ""
    own_images.note_load(5.25, 2)
    assert "whose 2 cores had a load of 5.2 in the last minute" in capsys.readouterr().out
