import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch

from models import pretrain
from models.networks import build, fingerprint, load_network
from models.teacher_epochs import TeacherEpochs
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


class Killed(BaseException):
    """As kill -9: nobody can save anything any more."""


def stopped_after(monkeypatch, steps, arguments, how=KeyboardInterrupt):
    """Run the command, and stop it after this number of steps."""
    whole, calls = TeacherEpochs._step, []

    def step(*given):
        if len(calls) == steps:
            raise how
        calls.append(whole(*given))

    with monkeypatch.context() as patch:
        patch.setattr(TeacherEpochs, "_step", step)
        with pytest.raises(how):
            pretrain.main(arguments)


def steps_of(monkeypatch, arguments):
    """Run the command. Returns how many steps that took."""
    whole, calls = TeacherEpochs._step, []
    with monkeypatch.context() as patch:
        patch.setattr(TeacherEpochs, "_step", lambda *given: calls.append(whole(*given)))
        pretrain.main(arguments)
    return len(calls)


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


@pytest.mark.parametrize("augment", ["shift", "crop"])
def test_same_command_same_bytes_whatever_the_workers_and_the_other_networks(folder, finished,
                                                                             tmp_path, augment):
    if augment == "crop":
        alone = tmp_path / "alone"
        pretrain.main(command(folder, alone, "--augment", augment))
        assert not same_bytes(alone, finished)
    both = ("--teachers", "mobilenet_v3_small", SMALL, "--augment", augment)
    pretrain.main([*command(folder, tmp_path, *both), "--workers", "2"])
    assert same_bytes(tmp_path, finished if augment == "shift" else alone)


def test_an_estimate_first_and_a_test_after_every_epoch_which_change_nothing(folder, finished,
                                                                             tmp_path, monkeypatch,
                                                                             capsys):
    pretrain.main(command(folder, tmp_path / "said"))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(SMALL + ":")]
    assert re.fullmatch(rf"{SMALL}: \d+ ms a step of 5 images, about \d+ s for 6 steps", lines[-2])

    monkeypatch.setattr("models.teacher_epochs._TESTED", 7)
    pretrain.main(command(folder, tmp_path / "few"))
    epochs = re.findall(r"epoch (\d)/3, loss \d\.\d+, top-1 [\d.]+ % of (\d+) test images",
                        capsys.readouterr().out)
    assert epochs == [("1", "7"), ("2", "7")]

    monkeypatch.setattr(TeacherEpochs, "_print_estimate", lambda _: None)
    monkeypatch.setattr("models.teacher_epochs.write_above", lambda *_: None)
    pretrain.main(command(folder, tmp_path / "silent"))
    assert all(same_bytes(tmp_path / name, finished) for name in ("said", "few", "silent"))


def test_another_seed_another_teacher(folder, finished, tmp_path):
    pretrain.main(command(folder, tmp_path, "--seed", "1"))
    a, b = (fingerprint(load_network(d / WEIGHTS)[0]) for d in (tmp_path, finished))
    assert a != b


@pytest.fixture(scope="module")
def with_dropout(folder, tmp_path_factory):
    """Finished MobileNetV2s, whose dropout draws random numbers, by augmentation."""
    out = tmp_path_factory.mktemp("dropout")
    for augment in ("shift", "crop"):
        pretrain.main(dropout_command(folder, out / augment, augment))
    return out


@pytest.mark.parametrize("stopped", [True, False])
@pytest.mark.parametrize(("option", "words"), [("--train-dir", "training"), ("--val-dir", "test")])
def test_other_images_of_the_same_names_are_refused(folder, tmp_path, monkeypatch, stopped, option,
                                                    words):
    arguments = command(folder, tmp_path / "out", "--epochs", "2", "--save-seconds", "0")
    if stopped:
        stopped_after(monkeypatch, 3, arguments)
    else:
        pretrain.main(arguments)
    other = tiny.image_folder(tmp_path / "other", per_class=4, seed=1)
    with pytest.raises(UserError, match='was made with crop = "square", now crop = "validation"'):
        pretrain.main([*arguments, "--crop", "validation"])
    with pytest.raises(UserError, match=f"{MANIFEST}: was made with other {words} images than "
                       "those given now.*Use the same options, or another --output-dir"):
        pretrain.main([*arguments, option, str(other)])


def dropout_command(folder, out, augment, *more):
    return command(folder, out, "--teachers", "mobilenet_v2", "--epochs", "2", "--batch-size", "3",
                   "--clip-norm", "0.5", "--augment", augment, *more)


@pytest.mark.parametrize("augment", ["shift", "crop"])
@pytest.mark.parametrize(("how", "save_seconds", "done"), [
    (KeyboardInterrupt, "1000", 2), (Killed, "0", 6), (Killed, "0", 4), (Killed, "1000", 0)])
def test_stopped_in_an_epoch_and_resumed_equals_uninterrupted(
        folder, with_dropout, tmp_path, monkeypatch, augment, how, save_seconds, done):
    """Two epochs of four steps. A stop saves the state; a kill leaves the last saved one."""
    arguments = dropout_command(folder, tmp_path, augment, "--save-seconds", save_seconds)
    stopped_after(monkeypatch, done or 3, arguments, how)
    assert (tmp_path / "mobilenet_v2.state.pt").exists() == bool(done)
    torch.rand(7)
    assert steps_of(monkeypatch, arguments) == 8 - done
    assert same_bytes(tmp_path, with_dropout / augment, "mobilenet_v2.safetensors")
    assert not (tmp_path / "mobilenet_v2.state.pt").exists()


def test_stopped_in_the_last_test(folder, finished, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("models.teacher_epochs.dataset_accuracy", stop)
        with pytest.raises(KeyboardInterrupt):
            pretrain.main(command(folder, tmp_path))
    assert steps_of(monkeypatch, command(folder, tmp_path)) == 0
    assert same_bytes(tmp_path, finished)


def test_stopped_before_the_first_step_leaves_the_options_open(folder, tmp_path, monkeypatch):
    stopped_after(monkeypatch, 0, command(folder, tmp_path))
    assert not (tmp_path / STATE).exists()
    stopped_after(monkeypatch, 1, command(folder, tmp_path, "--seed", "1"))
    with pytest.raises(UserError, match="seed = 1, now seed = 2"):
        pretrain.main(command(folder, tmp_path, "--seed", "2"))


def test_a_folder_that_is_removed_meanwhile(folder, tmp_path, monkeypatch):
    whole = TeacherEpochs._step

    def step(*given):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        whole(*given)

    monkeypatch.setattr(TeacherEpochs, "_step", step)
    with pytest.raises(UserError, match=f"out: was removed while {SMALL} was trained. Run the sa"):
        pretrain.main(command(folder, tmp_path / "out", "--save-seconds", "0"))
    assert not (tmp_path / "out").exists()


def test_a_signal_to_all_processes_saves_the_state(folder, tmp_path):
    """With processes that decode, and a number of epochs that nothing may be made for."""
    arguments = [*command(folder, tmp_path, "--augment", "crop", "--epochs", str(10**9)),
                 "--workers", "2"]
    process = subprocess.Popen([sys.executable, "-m", "models.pretrain", *arguments], cwd=ROOT,
                               text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               start_new_session=True)
    for line in process.stdout:
        if f"{SMALL} epoch 2/" in line:
            os.killpg(process.pid, signal.SIGTERM)
            break
    text = process.communicate(timeout=60)[0]
    assert process.returncode == 143, text
    assert text.count("stopped. The same command goes on where it stopped.") == 1
    assert "error:" not in text
    state = load_state(tmp_path / STATE)
    assert state["epoch"] > 0
    assert not list(tmp_path.glob(".*"))


def forged(state, part):
    """A state with something in it that no training can have left."""
    nan = float("nan")
    weights, momentum = dict(state["network"]), list(state["momentum"])
    first = next(iter(weights))
    weights[first] = weights[first] * nan
    momentum[0] = momentum[0][:1]
    changed = {
        "epochs": {"epoch": 10**30}, "epoch": {"epoch": "1"}, "no epoch": {"epoch": True},
        "negative": {"done": -1}, "steps": {"done": 10**9}, "seconds": {"seconds": nan},
        "loss": {"loss": torch.tensor(nan)}, "no loss": {"loss": 1.0},
        "random": {"random": {"cpu": torch.zeros(5056, dtype=torch.uint8)}},
        "no random": {"random": {}}, "strange random": {"random": {"cpu": "x"}},
        "weights": {"network": weights}, "no weights": {"network": {}},
        "word": {"network": "?"}, "momentum": {"momentum": momentum},
        "no momentum": {"momentum": momentum[1:]}, "number": {"momentum": 3}}
    return {**state, **changed[part]} if part in changed else {
        "list": ["?"], "empty": {}, "none": None, "number of a state": 7}[part]


@pytest.mark.parametrize("part", [
    "epochs", "epoch", "no epoch", "negative", "steps", "seconds", "loss", "no loss", "random",
    "no random", "strange random", "weights", "no weights", "word", "momentum", "no momentum",
    "number", "list", "empty", "none", "number of a state"])
def test_a_state_that_cannot_be_taken_over(folder, stopped, tmp_path, part):
    for path in stopped.iterdir():
        shutil.copy(path, tmp_path)
    save_state(tmp_path / STATE, forged(load_state(tmp_path / STATE), part))
    with pytest.raises(UserError, match=f"{STATE}: damaged .*Remove it and run models.pretrain"):
        pretrain.main(command(folder, tmp_path))


@pytest.fixture(scope="module")
def stopped(folder, tmp_path_factory):
    """A training that was stopped in the middle of its second epoch."""
    out = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        stopped_after(patch, 3, command(folder, out))
    return out


def test_a_finished_network_is_skipped(folder, finished, monkeypatch, capsys):
    before = {p.name: p.read_bytes() for p in finished.iterdir()}
    assert steps_of(monkeypatch, command(folder, finished)) == 0
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
    """Weights that are not finite are never kept."""
    sentence = f"{SMALL}: the loss is not finite .*--lr-for {SMALL}=..., after removing .*{STATE}"
    with pytest.raises(UserError, match=sentence):
        pretrain.main(command(folder, tmp_path, "--lr", "1e25", "--save-seconds", "0"))
    state = load_state(tmp_path / STATE)
    assert all(torch.isfinite(weights).all() for weights in state["network"].values())


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
