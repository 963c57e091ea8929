import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch

from models import pretrain, teacher_training
from models.networks import build, fingerprint, load_network
from models.teachers import load_teachers
from utils.checkpoint import load_state, save_state
from utils.errors import UserError
from utils.files import read_json, write_json

ROOT = Path(__file__).resolve().parents[1]
SMALL = "shufflenet_v2_x0_5"
WEIGHTS, MANIFEST, STATE = (SMALL + suffix for suffix in (".safetensors", ".json", ".state.pt"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.image_folder(tmp_path_factory.mktemp("data"), per_class=4)


def command(folder, out, *more):
    return ["--train-dir", str(folder), "--val-dir", str(folder), "--image-size", "32",
            "--epochs", "3", "--batch-size", "5", "--lr", "0.01", "--workers", "0",
            "--device", "cpu", "--threads", "1", "--output-dir", str(out),
            *(() if "--teachers" in more else ("--teachers", SMALL)), *more]


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    pretrain.main(command(folder, out))
    return out


def stopped_before(monkeypatch, epoch, arguments):
    """Run the command with a Ctrl-C before this epoch."""
    whole = teacher_training.train_epoch

    def train_epoch(*given):
        if given[4][-1] == epoch:
            raise KeyboardInterrupt
        return whole(*given)

    with monkeypatch.context() as patch:
        patch.setattr(teacher_training, "train_epoch", train_epoch)
        with pytest.raises(KeyboardInterrupt):
            pretrain.main(arguments)


def same_bytes(a, b, name=WEIGHTS):
    return (a / name).read_bytes() == (b / name).read_bytes()


def test_what_is_written(finished):
    assert sorted(p.name for p in finished.iterdir()) == [MANIFEST, WEIGHTS]
    network, about = load_network(finished / WEIGHTS)
    assert network.classes == list(tiny.WNIDS)
    assert about["options"]["epochs"] == 3
    assert about["options"]["crop"] == "square"  # below 64 px
    assert about["accuracy"]["count"] == 12
    content = json.loads((finished / MANIFEST).read_text())
    assert content["result"].pop("seconds") > 0
    assert content["result"] == about["accuracy"]
    assert content["options"] == about["options"]

    untrained = build(SMALL, 3, seed=(0, "squeeze", SMALL, "init"), image_size=32)
    assert fingerprint(network) != fingerprint(untrained)
    assert SMALL in load_teachers([SMALL], finished, tiny.WNIDS, torch.device("cpu"), 32)


def test_same_command_same_bytes_whatever_the_workers_and_the_other_networks(folder, finished,
                                                                             tmp_path):
    both = ("--teachers", "mobilenet_v3_small", SMALL)
    pretrain.main([*command(folder, tmp_path, *both), "--workers", "2"])
    assert same_bytes(tmp_path, finished)


def test_another_seed_another_teacher(folder, finished, tmp_path):
    pretrain.main(command(folder, tmp_path, "--seed", "1"))
    a, b = (fingerprint(load_network(d / WEIGHTS)[0]) for d in (tmp_path, finished))
    assert a != b


@pytest.mark.parametrize(("save_seconds", "left"), [("0", [2]), ("1000", [0, 1, 2])])
def test_stopped_and_resumed_equals_uninterrupted(folder, finished, tmp_path, monkeypatch,
                                                  save_seconds, left):
    arguments = command(folder, tmp_path, "--save-seconds", save_seconds)
    stopped_before(monkeypatch, 2, arguments)
    assert (tmp_path / STATE).exists() == (save_seconds == "0")

    epochs, whole = [], teacher_training.train_epoch
    monkeypatch.setattr(teacher_training, "train_epoch",
                        lambda *given: (epochs.append(given[4][-1]), whole(*given))[1])
    pretrain.main(arguments)
    assert epochs == left
    assert same_bytes(tmp_path, finished)
    assert not (tmp_path / STATE).exists()


@pytest.mark.parametrize("stopped", [True, False])
@pytest.mark.parametrize(("option", "words"), [("--train-dir", "training"), ("--val-dir", "test")])
def test_other_images_of_the_same_names_are_refused(folder, tmp_path, monkeypatch, stopped, option,
                                                    words):
    arguments = command(folder, tmp_path / "out", "--epochs", "2", "--save-seconds", "0")
    if stopped:
        stopped_before(monkeypatch, 1, arguments)
    else:
        pretrain.main(arguments)
    other = tiny.image_folder(tmp_path / "other", per_class=4, seed=1)
    with pytest.raises(UserError, match='was made with crop = "square", now crop = "validation"'):
        pretrain.main([*arguments, "--crop", "validation"])
    with pytest.raises(UserError, match=f"{MANIFEST}: was made with other {words} images than "
                       "those given now.*Use the same options, or another --output-dir"):
        pretrain.main([*arguments, option, str(other)])


def test_dropout_and_clipping_resume_too(folder, tmp_path, monkeypatch):
    """MobileNetV2 has dropout, whose random numbers a resumed epoch needs."""
    more = ("--teachers", "mobilenet_v2", "--epochs-for", "mobilenet_v2=2", "--clip-norm", "0.5",
            "--save-seconds", "0")
    pretrain.main(command(folder, tmp_path / "whole", *more))
    stopped_before(monkeypatch, 1, command(folder, tmp_path / "parts", *more))
    torch.rand(7)
    pretrain.main(command(folder, tmp_path / "parts", *more))
    assert same_bytes(tmp_path / "whole", tmp_path / "parts", "mobilenet_v2.safetensors")


@pytest.mark.parametrize("part", ["network", "optimizer", "epoch", None])
def test_a_state_that_cannot_be_taken_over(folder, tmp_path, monkeypatch, part):
    arguments = command(folder, tmp_path, "--save-seconds", "0")
    stopped_before(monkeypatch, 1, arguments)
    state = load_state(tmp_path / STATE)
    save_state(tmp_path / STATE, {**state, part: "?"} if part else ["?"])
    with pytest.raises(UserError, match=f"{STATE}: damaged .*Remove it and run models.pretrain"):
        pretrain.main(arguments)


def test_a_finished_network_is_skipped(folder, finished, monkeypatch, capsys):
    monkeypatch.setattr(teacher_training, "train_epoch", lambda *_: pytest.fail("trained again"))
    before = {p.name: p.read_bytes() for p in finished.iterdir()}
    pretrain.main(command(folder, finished))
    assert {p.name: p.read_bytes() for p in finished.iterdir()} == before
    assert f"{SMALL}: top-1" in capsys.readouterr().out


def test_stopped_between_the_two_files(folder, finished, tmp_path):
    (tmp_path / WEIGHTS).write_bytes((finished / WEIGHTS).read_bytes())
    content = read_json(finished / MANIFEST, "pretrain")
    expected = {**content.pop("result"), "seconds": None}
    write_json(tmp_path / MANIFEST, content)
    pretrain.main(command(folder, tmp_path))
    assert read_json(tmp_path / MANIFEST, "pretrain")["result"] == expected

    (tmp_path / MANIFEST).unlink()
    with pytest.raises(UserError, match="was not made by this command"):
        pretrain.main(command(folder, tmp_path, "--seed", "3"))


@pytest.mark.parametrize(("more", "sentence"), [
    (("--lr", "0.02"), "lr = 0.01, now lr = 0.02"), (("--seed", "5"), "seed = 0, now seed = 5"),
    (("--stem", "small"), 'stem = "imagenet", now stem = "small"'),
    (("--epochs-for", f"{SMALL}=4"), "epochs = 3, now epochs = 4")])
def test_other_options_are_refused_by_name(folder, finished, more, sentence):
    with pytest.raises(UserError, match=sentence):
        pretrain.main(command(folder, finished, *more))


def test_small_images_are_noted(tmp_path, capsys):
    small = tiny.image_folder(tmp_path / "small", per_class=2, size=(12, 12))
    pretrain.prepare(pretrain.parse(command(small, tmp_path / "out")))
    assert "note: the training images are about 12 px, --image-size is 32" in (
        capsys.readouterr().out)


def test_min_accuracy(folder, finished):
    sentence = rf"{SMALL} gets .* below --min-accuracy 100.*--epochs-for {SMALL}"
    with pytest.raises(UserError, match=sentence):
        pretrain.main(command(folder, finished, "--min-accuracy", "100.1"))


@pytest.mark.parametrize(("more", "sentence"), [
    (("--teachers", SMALL, "alexnet"), "alexnet: cannot take images of 32 px.*--input-resize"),
    (("--teachers", "alexnet", "--stem", "small"), "stem 'small' is not defined"),
    (("--teachers", "resnet81"), "no such network"),
    (("--batch-size", "1"), "make batches of one image"),
    (("--train-dir", "/nowhere"), "no such folder")])
def test_mistakes_show_before_anything_is_trained(folder, tmp_path, more, sentence):
    with pytest.raises(UserError, match=sentence):
        pretrain.main(command(folder, tmp_path / "out", *more))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--train-dir", "--val-dir"])
@pytest.mark.parametrize("inside", [".", "n01440764/teachers"])
def test_an_output_folder_among_the_images_is_refused(folder, tmp_path, option, inside):
    images = tiny.image_folder(tmp_path / "images", per_class=1)
    before = sorted(images.rglob("*"))
    with pytest.raises(UserError, match="--output-dir: found .* expected a folder outside the "
                       f"images in {images},"):
        pretrain.main(command(folder, images / inside, option, str(images)))
    assert sorted(images.rglob("*")) == before


def test_a_loss_that_is_not_finite(folder, tmp_path):
    with pytest.raises(UserError, match=f"{SMALL}: the loss is not finite .*--lr-for {SMALL}"):
        pretrain.main(command(folder, tmp_path, "--lr", "1e25"))


def test_the_digits_script(tmp_path):
    """From another folder, with a relative output folder, variables and a trailing option."""
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, "TEACHERS": SMALL,
                   "OUTPUT_DIR": "mine", "MIN_ACCURACY": "0"}
    done = subprocess.run(["sh", str(ROOT / "models/pretrain_digits.sh"), "--epochs", "1",
                           "--batch-size", "432", "--threads", "1"], cwd=tmp_path,
                          capture_output=True, text=True, check=False, timeout=120,
                          env=environment)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "mine" / MANIFEST).read_text())
    assert content["result"]["count"] == 500
