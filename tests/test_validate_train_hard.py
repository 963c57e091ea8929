"""Students by a hard-label protocol from the command line: written, resumed, refused, summed up."""

import json
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from filelock import FileLock
from interrupting import interrupt
from PIL import Image

from data.images import square_crop
from report.run_checks import check
from utils.errors import UserError, run_entry
from validate import hard_training, student_folder
from validate.hard_experiment import spread, spread_words
from validate.hard_training import Training
from validate.train_hard import main

CLASSES = tiny.WNIDS
EPOCHS = 4
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of 9 distilled images of 3 classes in another order, and a real folder of 4 classes."""
    root = tmp_path_factory.mktemp("hard")
    classes = CLASSES[::-1]
    real = tiny.image_folder(root / "distil", classes, 3, size=(32, 32), seed=1)
    tiny.distilled_folder(root / "run", real, classes, 3)
    tiny.image_folder(root / "val", (*CLASSES, "n09999999"), 4, size=(44, 40), seed=2)
    return root


def command(made, name, *more, run=None):
    return ["--output-dir", str(run or made / "run"), "--val-dir", str(made / "val"), "--student",
            "convnet3", "--image-size", "16", "--epochs", str(EPOCHS), "--batch-size", "4",
            "--seeds", "0", "--device", "cpu", "--threads", "1", "--student-name", name, *more]


def weights(made, name):
    return [(made / f"run/students/{name}/{which}.safetensors").read_bytes()
            for which in ("last", "best")]


def metrics(made, name):
    lines = (made / f"run/students/{name}/metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"}
            for line in lines]


def read(made, name):
    return json.loads((made / "run/students" / name).read_text())


@pytest.fixture(scope="module")
def trained(made):
    main(command(made, "first"))
    return made


def test_everything_is_written(trained, capsys):
    folder = trained / "run/students/first_seed0"
    assert {file.name for file in folder.iterdir()} == {
        "options.json", "last.safetensors", "best.safetensors", "metrics.jsonl", "result.json",
        "curve.png"}
    lines, found = metrics(trained, "first_seed0"), read(trained, "first_seed0/result.json")
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3]
    # Milestones at 2/3 and 5/6 of 4 epochs
    assert [line["lr"] for line in lines] == pytest.approx([1e-3, 1e-3, 2e-4, 4e-5])
    assert found["top1"] == found["best"]["top1"] == max(line["top1"] for line in lines)
    assert found["last"]["top1"] == lines[-1]["top1"]
    assert (found["images"], found["test_images"]) == (9, 12)  # of three of the four classes
    assert (found["preset"], found["preset_changed"]) == (
        "igd", ["batch_size", "epochs", "image_size"])
    assert found["seeds"] == {"student": 0, "fkd": None, "images": 0}

    before = weights(trained, "first_seed0")
    main(command(trained, "first"))  # finished: printed, not trained again
    assert "already finished" in capsys.readouterr().out
    assert weights(trained, "first_seed0") == before


def test_report_finds_no_problem(trained, capsys):
    check(trained / "run", 1)
    assert "first_seed0: " not in capsys.readouterr().out


def test_mean_and_deviation_over_seeds(trained, capsys):
    main([*command(trained, "many"), "--seeds", "0", "1"])
    main([*command(trained, "many"), "--seeds", "2"])  # those of an earlier call count
    assert weights(trained, "many_seed0") == weights(trained, "first_seed0")
    assert weights(trained, "many_seed1")[0] != weights(trained, "many_seed0")[0]

    summary = read(trained, "many.json")
    for which in ("best", "last"):
        top1 = [read(trained, f"many_seed{seed}/result.json")[which]["top1"] for seed in range(3)]
        assert summary[which]["top1"] == top1
        assert summary[which]["mean"] == pytest.approx(sum(top1) / 3)
        assert summary[which]["std"] == pytest.approx(statistics.stdev(top1))
    assert spread_words(summary["best"]) in capsys.readouterr().out


def test_other_test_images_of_the_same_names_are_refused(trained, tmp_path):
    """A finished seed is refused, and does not count among other seeds."""
    other = tiny.image_folder(tmp_path / "val", (*CLASSES, "n09999999"), 4, size=(44, 40), seed=3)
    main([*command(trained, "tested"), "--epochs", "1"])
    again = [*command(trained, "tested", "--val-dir", str(other)), "--epochs", "1"]
    with pytest.raises(UserError, match="options.json: was made with other test images"):
        main(again)
    main([*again, "--seeds", "1"])
    assert read(trained, "tested.json")["seeds"] == [1]


def test_two_processes_share_the_seeds_out(trained):
    main([*command(trained, "alone"), "--seeds", "0", "1", "2", "--epochs", "1"])
    words = [*command(trained, "shared"), "--seeds", "0", "1", "2", "--epochs", "1"]
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone",
                           "--nproc_per_node", "2", "-m", "--", "validate.train_hard", *words],
                          cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for seed in range(3):
        assert weights(trained, f"shared_seed{seed}") == weights(trained, f"alone_seed{seed}")
    shared, alone = read(trained, "shared.json"), read(trained, "alone.json")
    assert (shared["best"], shared["last"]) == (alone["best"], alone["last"])


def test_spread_by_hand():
    assert spread([60.0, 63.0, 66.0]) == {"mean": 63.0, "std": 3.0, "top1": [60.0, 63.0, 66.0]}
    assert spread_words(spread([60.0, 63.0, 66.0])) == "63.0 ± 3.0"
    assert spread_words(spread([61.25])) == "61.2"


@pytest.mark.parametrize("epochs", [1, 2, 3])
@pytest.mark.parametrize("seconds", [-1, 1000])  # a state after every epoch, or none
def test_stopped_and_resumed_equals_uninterrupted(trained, epochs, seconds, monkeypatch):
    name = f"stopped{epochs}{seconds}"
    monkeypatch.setattr(hard_training, "SAVE_SECONDS", seconds)
    interrupt(monkeypatch, Training, "one_epoch", epochs)
    with pytest.raises(KeyboardInterrupt):
        main(command(trained, name))
    monkeypatch.undo()
    assert (trained / f"run/students/{name}_seed0/state.pt").exists() == (seconds < 0)
    # What a power loss may leave of the file: the state has its lines.
    file = trained / f"run/students/{name}_seed0/metrics.jsonl"
    file.write_bytes(bytes(file.stat().st_size) + b'[1]\n{"epoch": 3, "loss": 0.5}\n\xff{"epoch"')
    main(command(trained, name))
    assert weights(trained, f"{name}_seed0") == weights(trained, "first_seed0")
    assert metrics(trained, f"{name}_seed0") == metrics(trained, "first_seed0")


@pytest.mark.parametrize(("saved", "call"), [(4, 6), (3, 10), (5, 11)])
def test_stopped_between_tests(made, monkeypatch, saved, call):
    """The sums since the last test go on, and so does a best test that the state does not know."""
    few, name = ["--epochs", "13", "--batch-size", "9", "--tests", "5"], f"between{saved}"
    main([*command(made, "whole"), *few])
    lines = metrics(made, "whole_seed0")
    assert [line["epoch"] for line in lines] == [1, 3, 5, 7, 9, 11, 12]

    one_epoch = Training.one_epoch

    def saving(self, epoch):
        one_epoch(self, epoch)
        if epoch == saved:
            self.save(epoch)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "one_epoch", saving)
        interrupt(patch, Training, "one_epoch", call)
        with pytest.raises(KeyboardInterrupt):
            main([*command(made, name), *few])
    assert (made / f"run/students/{name}_seed0/state.pt").exists()
    main([*command(made, name), *few])
    assert metrics(made, f"{name}_seed0") == lines
    assert weights(made, f"{name}_seed0") == weights(made, "whole_seed0")


def test_a_state_that_cannot_be_taken_over_is_damaged(made, monkeypatch):
    monkeypatch.setattr(hard_training, "SAVE_SECONDS", -1)
    interrupt(monkeypatch, Training, "one_epoch", 2)
    with pytest.raises(KeyboardInterrupt):
        main(command(made, "damaged"))
    file = made / "run/students/damaged_seed0/state.pt"
    state = torch.load(file, weights_only=True)
    for changed in ({"net": {}}, {"hits": torch.zeros(3)}, {"seen": "9"}, {"epochs": "2"}):
        torch.save({**state, **changed}, file)
        with pytest.raises(UserError, match="state.pt: damaged.*Remove it"):
            main(command(made, "damaged"))


def test_one_process_trains_a_student_at_a_time(made, monkeypatch):
    monkeypatch.setattr(student_folder, "LOCK_SECONDS", 0)
    (made / "run/students/locked_seed0").mkdir(parents=True)
    with (FileLock(made / "run/students/locked_seed0/.training.lock"),
          pytest.raises(UserError, match="locked_seed0: another process trains this student")):
        main(command(made, "locked"))
    main(command(made, "locked"))


def test_test_images_keep_their_whole_short_side(made, monkeypatch):
    seen = []
    monkeypatch.setattr(hard_training, "accuracy", lambda _, pixels, labels, *__: seen.append(
        (pixels, labels)) or {"top1": 1.0, "top5": 1.0})
    main([*command(made, "square"), "--epochs", "1"])
    pixels, labels = seen[0]
    first = Image.open(made / f"val/{CLASSES[2]}/img_000.JPEG")  # images.json's order
    assert torch.equal(pixels[0], square_crop(first, 16))
    assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


@pytest.mark.parametrize(("protocol", "more"), [
    ("minimax", ["--student", "resnetap10", "--image-size", "64"]),
    ("dc", ["--student", "resnet18_in", "--stem", "small", "--augment", "dc"]),
    ("igd", ["--student", "shufflenet_v2_x0_5", "--precision", "bf16", "--image-size", "32"])])
def test_protocols_and_networks(made, protocol, more):
    main([*command(made, f"p_{protocol}"), "--protocol", protocol, "--epochs", "1", *more])
    assert read(made, f"p_{protocol}_seed0/result.json")["best"]["epoch"] == 0


def test_a_folder_of_any_tool(made, tmp_path):
    """--train-dir alone, with its classes by name; dc keeps the images' own size."""
    for number, name in enumerate(CLASSES[::-1]):
        shutil.copytree(made / f"run/images/new{number:03d}", tmp_path / "any" / name)
    main(["--output-dir", str(tmp_path / "out"), "--train-dir", str(tmp_path / "any"),
          "--val-dir", str(made / "val"), "--protocol", "dc", "--epochs", "1", "--seeds", "5",
          "--device", "cpu"])
    options = json.loads((tmp_path / "out/students/convnet3_dc_seed5/options.json").read_text())
    assert options["options"]["image_size"] == 32
    assert options["identity"]["classes"] == list(CLASSES)
    assert (tmp_path / "out/students/convnet3_dc.json").exists()


def test_another_option_in_the_same_folder_is_refused(trained):
    with pytest.raises(UserError, match="lr = 0.001, now lr = 0.01. Give another --student-name"):
        main([*command(trained, "first", "--lr", "0.01"), "--seeds", "7", "0"])
    assert not (trained / "run/students/first_seed7").exists()


def test_a_diverging_student_stops_with_one_sentence(made):
    with pytest.raises(UserError, match=r"the training loss is (nan|inf).*smaller --lr"):
        main([*command(made, "diverges"), "--protocol", "dc", "--lr", "1e30"])


@pytest.mark.parametrize(("more", "sentence"), [
    (["--student", "convnet33"], "convnet33: no such network. Did you mean convnet3"),
    (["--student", "convnet6"], "need 64 px or more; found 16 px. Choose a ConvNet of less depth"),
    (["--student", "resnetap10"], "resnetap10: cannot take images of 16 px. .*--input-resize"),
    (["--train-dir", "nowhere"], "nowhere: no such folder of distilled images. Run recover first"),
    (["--protocol", "dc", "--output-dir", "empty"], "empty/images: no such folder of distilled"),
    (["--val-dir", "distil"], "OTHER"), (["--stem", "small"], "stem 'small' is not defined"),
    (["--dataset", "digits"], "digits has the classes 0, 1"),
    (["--image-size", "99999999"], "--image-size 99999999: expected at most 4096 pixels"),
    (["--seeds", "-1"], "found -1, expected at least 0")])
def test_bad_input_in_one_sentence(made, tmp_path, monkeypatch, capsys, more, sentence):
    monkeypatch.setenv("CALLER_DIR", str(tmp_path))
    if sentence == "OTHER":
        tiny.image_folder(tmp_path / "distil", CLASSES[:2], 1)
        sentence = "has 2 class folders, expected the 3 that were distilled: 1 missing"
    with pytest.raises(SystemExit) as raised:
        run_entry(main, [*command(made, "refused"), *more])
    assert raised.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert re.search(sentence, lines[0]), lines[0]
    assert not (made / "run/students/refused_seed0").exists()
    assert not (tmp_path / "empty").exists()
