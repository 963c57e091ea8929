import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch

from models import pretrain
from models.networks import build, fingerprint, head, load_network
from models.pretrain_args import get_args_parser, make_plans
from models.teachers import load_teachers
from utils.errors import UserError
from utils.files import read_json, write_json

ROOT = Path(__file__).resolve().parents[1]
SMALL = "shufflenet_v2_x0_5"
CLASSES = ("n01440764", "n01443537", "n01484850")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.image_folder(tmp_path_factory.mktemp("data"), CLASSES, per_class=4)


def options(folder, out, *more):
    return ["--train-dir", str(folder), "--val-dir", str(folder), "--image-size", "32", "--epochs", "3", "--batch-size", "5",
            "--lr", "0.01", "--workers", "0", "--device", "cpu", "--threads", "2", "--output-dir", str(out),
            *(() if "--teachers" in more else ("--teachers", SMALL)), *more]


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    pretrain.main(options(folder, out))
    return out


def stop_before(monkeypatch, epoch):
    """Ctrl-C before this epoch, like a process that is killed there."""
    whole = pretrain.train_epoch

    def train_epoch(*args):
        if args[4][-1] == epoch:
            raise KeyboardInterrupt
        return whole(*args)

    monkeypatch.setattr(pretrain, "train_epoch", train_epoch)


def test_what_is_written(folder, finished):
    assert sorted(p.name for p in finished.iterdir()) == [f"{SMALL}.json", f"{SMALL}.safetensors"]
    network, about = load_network(finished / f"{SMALL}.safetensors")
    assert network.classes == list(CLASSES)
    assert about["options"]["epochs"] == 3
    assert about["accuracy"]["count"] == 12
    result = json.loads((finished / f"{SMALL}.json").read_text())
    assert result["result"]["seconds"] > 0
    assert {k: result["result"][k] for k in about["accuracy"]} == about["accuracy"]
    assert about["options"] == result["options"]
    untrained = build(SMALL, 3, seed=(0, "squeeze", SMALL, "init"), image_size=32)
    assert fingerprint(network) != fingerprint(untrained)
    assert SMALL in load_teachers([SMALL], finished, [p.name for p in sorted(folder.iterdir())], torch.device("cpu"), 32)


def test_same_command_same_bytes_whatever_the_workers_and_the_other_nets(folder, finished, tmp_path):
    pretrain.main([*options(folder, tmp_path, "--teachers", "mobilenet_v3_small", SMALL), "--workers", "2"])
    assert (tmp_path / f"{SMALL}.safetensors").read_bytes() == (finished / f"{SMALL}.safetensors").read_bytes()


def test_another_seed_another_teacher(folder, finished, tmp_path):
    pretrain.main(options(folder, tmp_path, "--seed", "1"))
    a, b = (fingerprint(load_network(d / f"{SMALL}.safetensors")[0]) for d in (tmp_path, finished))
    assert a != b


@pytest.mark.parametrize("save_seconds", ["0", "1000"])
def test_stopped_and_resumed_equals_uninterrupted(folder, finished, tmp_path, monkeypatch, save_seconds):
    command = options(folder, tmp_path, "--save-seconds", save_seconds)
    with monkeypatch.context() as patch:
        stop_before(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            pretrain.main(command)
    assert (tmp_path / f"{SMALL}.state.pt").exists() == (save_seconds == "0")
    epochs = []
    whole = pretrain.train_epoch
    monkeypatch.setattr(pretrain, "train_epoch", lambda *args: (epochs.append(args[4][-1]), whole(*args))[1])
    pretrain.main(command)
    assert epochs == ([2] if save_seconds == "0" else [0, 1, 2])
    assert (tmp_path / f"{SMALL}.safetensors").read_bytes() == (finished / f"{SMALL}.safetensors").read_bytes()
    assert not (tmp_path / f"{SMALL}.state.pt").exists()


def test_dropout_and_clipping_resume_too(folder, tmp_path, monkeypatch):
    """MobileNetV2 has dropout, so a resumed epoch needs the random numbers of an uninterrupted one."""
    more = ("--teachers", "mobilenet_v2", "--epochs-for", "mobilenet_v2=2", "--clip-norm", "0.5", "--save-seconds", "0")
    pretrain.main(options(folder, tmp_path / "whole", *more))
    with monkeypatch.context() as patch:
        stop_before(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            pretrain.main(options(folder, tmp_path / "parts", *more))
    torch.rand(7)
    pretrain.main(options(folder, tmp_path / "parts", *more))
    whole, parts = ((tmp_path / d / "mobilenet_v2.safetensors").read_bytes() for d in ("whole", "parts"))
    assert whole == parts


def test_a_finished_net_is_skipped_and_another_added(folder, finished, monkeypatch, capsys):
    monkeypatch.setattr(pretrain, "train_epoch", lambda *_: pytest.fail("trained again"))
    before = {p.name: p.read_bytes() for p in finished.iterdir()}
    pretrain.main(options(folder, finished))
    assert {p.name: p.read_bytes() for p in finished.iterdir()} == before
    assert f"{SMALL}: top-1" in capsys.readouterr().out


def test_killed_between_the_two_files(folder, tmp_path):
    pretrain.main(options(folder, tmp_path))
    manifest = tmp_path / f"{SMALL}.json"
    content = read_json(manifest, "pretrain")
    del content["result"]
    write_json(manifest, content)
    pretrain.main(options(folder, tmp_path))
    assert json.loads(manifest.read_text())["result"]["top1"] >= 0
    manifest.unlink()
    with pytest.raises(UserError, match="was not made by this command"):
        pretrain.main(options(folder, tmp_path, "--seed", "3"))


@pytest.mark.parametrize(("more", "text"), [(("--lr", "0.02"), "lr = 0.01, now lr = 0.02"),
                                            (("--seed", "5"), "seed = 0, now seed = 5"),
                                            (("--stem", "small"), 'stem = "imagenet", now stem = "small"'),
                                            (("--epochs-for", f"{SMALL}=4"), "epochs = 3, now epochs = 4")])
def test_other_options_are_refused_by_name(folder, finished, more, text):
    with pytest.raises(UserError, match=text):
        pretrain.main(options(folder, finished, *more))


def test_min_accuracy(folder, finished):
    with pytest.raises(UserError, match=rf"{SMALL} gets .* below --min-accuracy 100.*--epochs-for {SMALL}"):
        pretrain.main(options(folder, finished, "--min-accuracy", "100.1"))


def test_mistakes_show_before_anything_is_trained(folder, tmp_path):
    for more, text in ((("--teachers", SMALL, "alexnet"), "alexnet: cannot take images of 32 px.*--input-resize alexnet=64"),
                       (("--teachers", "alexnet", "--stem", "small"), "stem 'small' is not defined"),
                       (("--teachers", "resnet81"), "no such network"),
                       (("--input-resize", "alexnet=64"), "alexnet is not among --teachers"),
                       (("--epochs-for", SMALL), "expected NAME=VALUE"),
                       (("--epochs-for", f"{SMALL}=0"), "at least 1"),
                       (("--lr", "-1"), "more than 0"),
                       (("--train-dir", str(tmp_path / "none")), "no such folder")):
        with pytest.raises(UserError, match=text):
            pretrain.main(options(folder, tmp_path / "out", *more))
        assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_a_loss_that_is_not_finite(folder, tmp_path):
    with pytest.raises(UserError, match=f"{SMALL}: the loss is not finite .*--lr-for {SMALL}"):
        pretrain.main(options(folder, tmp_path, "--lr", "1e25"))


def plans(*more):
    args = get_args_parser().parse_args(["--output-dir", "x", *more])
    return make_plans(args, 32, lambda name: name != "alexnet")


def test_which_value_a_net_gets():
    """For this net, for all nets, the net's recipe, the dataset's recipe: the first that is given."""
    both = ("--dataset", "digits", "--teachers", "resnet50", "alexnet", "alexnet")
    resnet, alexnet = plans(*both)
    assert (resnet.lr, resnet.epochs, resnet.pad, resnet.input_resize, resnet.init) == (0.05, 10, 2, None, "own")
    assert (alexnet.input_resize, alexnet.init, alexnet.dropout) == (64, "he", 0.0)
    resnet, alexnet = plans(*both, "--epochs", "1", "--lr-for", "alexnet=0.5", "--lr-for", "alexnet=0.25",
                            "--input-resize", "alexnet=96")
    assert (resnet.epochs, resnet.lr, alexnet.epochs, alexnet.lr, alexnet.input_resize) == (1, 0.05, 1, 0.25, 96)
    resnet, alexnet = plans("--teachers", "resnet50", "alexnet")
    assert (resnet.lr, alexnet.lr, resnet.batch_size, resnet.pad) == (0.1, 0.01, 256, None)


def test_he_initialisation_starts_at_chance():
    network = build("alexnet", 10, input_resize=64, seed=("he",))
    pretrain.he_initialisation(network)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            fan_in = module.weight[0].numel()
            expected = 0.01 if module is head(network) else (2 / fan_in) ** 0.5
            assert float(module.weight.detach().std()) == pytest.approx(expected, rel=0.05)
            assert not module.bias.any()


def test_the_digits_script(tmp_path):
    """From another folder, a relative output folder, overridden from the environment and by a trailing option."""
    done = subprocess.run(["sh", str(ROOT / "models/pretrain_digits.sh"), "--epochs", "1", "--batch-size", "432", "--threads", "2"],
                          cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
                          env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, "TEACHERS": SMALL, "OUTPUT_DIR": "mine",
                               "MIN_ACCURACY": "0"})
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "mine" / f"{SMALL}.json").read_text())
    assert content["identity"]["train_images"] == 1297
    assert content["result"]["count"] == 500
