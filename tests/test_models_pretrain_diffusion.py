import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import tiny
import torch
from PIL import Image

pytest.importorskip("diffusers")

from data.images import square_crop
from data.opening import open_real
from models import diffusion, diffusion_training, pretrain_diffusion
from utils.checkpoint import load_state, read_header, save_state
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS, MANIFEST, STATE = (diffusion.PIXEL_FILE, "pixel_dit.json", "pixel_dit.state.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.image_folder(tmp_path_factory.mktemp("data"), size=(40, 36))


def command(folder, out, *more):
    return ["--train-dir", str(folder), "--sample-size", "8", "--width", "16", "--layers", "2",
            "--heads", "2", "--steps", "6", "--batch-size", "4", "--workers", "1", "--device",
            "cpu", "--threads", "1", "--output-dir", str(out), *more]


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    pretrain_diffusion.main(command(folder, out))
    return out


def stopped_in(monkeypatch, step, arguments):
    """Run the command with a Ctrl-C in this step, counted from 0."""
    whole = diffusion_training.average_decay

    def average_decay(now, decay):
        if now == step:
            raise KeyboardInterrupt
        return whole(now, decay)

    with monkeypatch.context() as patch:
        patch.setattr(diffusion_training, "average_decay", average_decay)
        with pytest.raises(KeyboardInterrupt):
            pretrain_diffusion.main(arguments)


def same_bytes(a, b):
    return all((a / name).read_bytes() == (b / name).read_bytes()
               for name in (WEIGHTS, MANIFEST, "samples.png"))


def test_what_is_written(finished):
    assert sorted(p.name for p in finished.iterdir()) == sorted([MANIFEST, WEIGHTS, "samples.png"])
    model = diffusion.load("pixel-dit", finished)
    assert model.classes == tiny.WNIDS
    assert (model.network.config.in_channels, model.network.config.sample_size) == (3, 8)

    about = read_header(finished / WEIGHTS)["about"]
    content = json.loads((finished / MANIFEST).read_text())
    assert len(about.pop("loss")) == 6
    assert about == content
    assert content["options"]["steps"] == 6
    assert content["identity"]["classes"] == list(tiny.WNIDS)
    assert len(content["identity"]["train_images"]) == 64  # a hash
    grid = Image.open(finished / "samples.png")
    assert grid.height == 3 * (96 + 2) + 2  # a row for each class


def test_the_average_is_kept(folder, finished, tmp_path):
    pretrain_diffusion.main(command(folder, tmp_path, "--ema", "0"))
    kept, last = (diffusion.load("pixel-dit", out).fingerprint() for out in (finished, tmp_path))
    assert kept != last


def test_same_command_same_bytes(folder, finished, tmp_path):
    torch.rand(7)
    pretrain_diffusion.main(command(folder, tmp_path, "--workers", "3"))
    assert same_bytes(tmp_path, finished)


def test_another_seed_another_model(folder, finished, tmp_path):
    pretrain_diffusion.main(command(folder, tmp_path, "--seed", "1"))
    a, b = (diffusion.load("pixel-dit", out).fingerprint() for out in (finished, tmp_path))
    assert a != b


@pytest.mark.parametrize(("save_seconds", "left"), [("0", [4, 5]), ("1000", [0, 1, 2, 3, 4, 5])])
def test_stopped_and_resumed_equals_uninterrupted(folder, finished, tmp_path, monkeypatch,
                                                  save_seconds, left):
    arguments = command(folder, tmp_path, "--save-seconds", save_seconds)
    stopped_in(monkeypatch, 4, arguments)
    assert (tmp_path / STATE).exists() == (save_seconds == "0")
    assert not (tmp_path / WEIGHTS).exists()

    steps, whole = [], diffusion_training.average_decay
    monkeypatch.setattr(diffusion_training, "average_decay",
                        lambda step, decay: (steps.append(step), whole(step, decay))[1])
    pretrain_diffusion.main(arguments)
    assert steps == left
    assert same_bytes(tmp_path, finished)
    assert not (tmp_path / STATE).exists()


@pytest.mark.parametrize("part", ["network", "average", "optimizer", "losses", "step", None])
def test_a_state_that_cannot_be_taken_over(folder, tmp_path, monkeypatch, part):
    arguments = command(folder, tmp_path, "--save-seconds", "0")
    stopped_in(monkeypatch, 1, arguments)
    state = load_state(tmp_path / STATE)
    save_state(tmp_path / STATE, {**state, part: "?"} if part else ["?"])
    with pytest.raises(UserError, match=f"{STATE}: damaged .*run models.pretrain_diffusion again"):
        pretrain_diffusion.main(arguments)


def test_a_finished_model_is_skipped(folder, finished, monkeypatch, capsys):
    monkeypatch.setattr(diffusion_training, "noise_loss", lambda *_: pytest.fail("trained again"))
    before = {p.name: p.read_bytes() for p in finished.iterdir()}
    pretrain_diffusion.main(command(folder, finished))
    assert {p.name: p.read_bytes() for p in finished.iterdir()} == before
    assert "pixel-dit: 6 steps, loss " in capsys.readouterr().out


@pytest.mark.parametrize(("more", "sentence"), [
    (("--lr", "0.02"), "lr = 0.0001, now lr = 0.02"), (("--seed", "5"), "seed = 0, now seed = 5"),
    (("--precision", "bf16"), 'precision = "fp32", now precision = "bf16"'),
    (("--channels", "grey"), 'channels = "auto", now channels = "grey"')])
def test_other_options_are_refused_by_name(folder, finished, more, sentence):
    with pytest.raises(UserError, match=sentence):
        pretrain_diffusion.main(command(folder, finished, *more))


def test_a_model_that_another_command_made(folder, finished, tmp_path):
    (tmp_path / WEIGHTS).write_bytes((finished / WEIGHTS).read_bytes())
    with pytest.raises(UserError, match="was not made by this command. Remove it, or choose"):
        pretrain_diffusion.main(command(folder, tmp_path, "--seed", "3"))


def test_channels_and_precision(folder, tmp_path):
    pretrain_diffusion.main(command(folder, tmp_path / "a", "--channels", "grey"))
    pretrain_diffusion.main(command(folder, tmp_path / "b", "--precision", "bf16"))
    grey, bf16 = (diffusion.load("pixel-dit", tmp_path / name).network for name in "ab")
    assert grey.config.in_channels == 1
    assert {tensor.dtype for tensor in bf16.state_dict().values()} == {torch.float32}


def test_grey_images_are_noticed_and_classes_follow_a_list(folder, tmp_path):
    for name in tiny.WNIDS:
        (tmp_path / "grey" / name).mkdir(parents=True)
        image = Image.open(folder / name / "img_000.JPEG").convert("L")
        image.save(tmp_path / "grey" / name / "0.png")
    (tmp_path / "list.txt").write_text(f"{tiny.WNIDS[2]} last\n{tiny.WNIDS[0]} first\n")
    pretrain_diffusion.main(command(tmp_path / "grey", tmp_path / "out", "--classes",
                                    str(tmp_path / "list.txt")))
    model = diffusion.load("pixel-dit", tmp_path / "out")
    assert model.classes == (tiny.WNIDS[2], tiny.WNIDS[0])
    assert model.network.config.in_channels == 1


def test_images_are_cropped_as_diffusion_models_are_trained(folder, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(diffusion_training.DiffusionTraining, "finished",
                        lambda self: seen.append(self.images) or {"loss": [0.0], "seconds": None})
    pretrain_diffusion.main(command(folder, tmp_path))
    images = open_real("imagefolder", "train", folder, 8, crop="validation")
    assert torch.equal(seen[0].image(3), square_crop(images.picture(3), 8))
    assert not torch.equal(seen[0].image(3), images.image(3))


@pytest.mark.parametrize(("more", "sentence"), [
    (("--sample-size", "7"), "--sample-size 7 is not a multiple"),
    (("--train-dir", "/nowhere"), "no such folder"),
    (("--classes", "imagenette"), "missing .the first is n02102040")])
def test_mistakes_show_before_anything_is_trained(folder, tmp_path, more, sentence):
    with pytest.raises(UserError, match=sentence):
        pretrain_diffusion.main(command(folder, tmp_path / "out", *more))
    assert not (tmp_path / "out").exists()


def test_an_output_folder_among_the_images_is_refused(folder):
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError, match="--output-dir: found .* outside the images in"):
        pretrain_diffusion.main(command(folder, folder / "model"))
    assert sorted(folder.rglob("*")) == before


def test_several_processes_are_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="found 2 processes.*without torchrun"):
        pretrain_diffusion.main(command(folder, tmp_path))


def test_without_diffusers(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match="need the package diffusers.*requirements-dap.txt"):
        pretrain_diffusion.main(command(folder, tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_not_finite(folder, tmp_path):
    with pytest.raises(UserError, match="the loss is not finite after 6 steps.*--lr 1e"):
        pretrain_diffusion.main(command(folder, tmp_path, "--lr", "1e25"))
    assert not (tmp_path / WEIGHTS).exists()


def test_the_digits_script(tmp_path):
    """From another folder, with a relative output folder, a variable and trailing options."""
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, "OUTPUT_DIR": "mine",
                   "SEED": "2"}
    done = subprocess.run(["sh", str(ROOT / "models/pretrain_diffusion_digits.sh"), "--steps", "3",
                           "--batch-size", "8", "--threads", "1"], cwd=tmp_path,
                          capture_output=True, text=True, check=False, timeout=120,
                          env=environment)
    assert done.returncode == 0, done.stderr
    model = diffusion.load("pixel-dit", tmp_path / "mine")
    assert model.classes == tuple(map(str, range(10)))
    assert (model.network.config.in_channels, model.network.config.sample_size) == (1, 8)
    assert json.loads((tmp_path / "mine" / MANIFEST).read_text())["options"]["seed"] == 2


def test_the_loss_is_shown_as_a_curve(folder, tmp_path, monkeypatch):
    """--report-to: the mean losses that the bar shows."""
    shown, module = [], ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = lambda _, purge_step: SimpleNamespace(
        add_scalar=lambda name, number, step: shown.append((name, step, number)),
        flush=lambda: None, close=lambda: shown.append(purge_step))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(diffusion_training, "_REPORT", 3)
    pretrain_diffusion.main(command(folder, tmp_path, "--report-to", "tensorboard"))
    assert [(name, step) for name, step, _ in shown[:-1]] == [("loss", 2), ("loss", 5)]
    assert shown[-1] == 0
