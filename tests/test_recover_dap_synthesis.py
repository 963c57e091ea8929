"""DAP from the command to the run folder, with tiny random models of diffusers' own classes."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

pytest.importorskip("diffusers")

import tiny_diffusion  # noqa: E402

from data.opening import open_distilled  # noqa: E402
from models import diffusion  # noqa: E402
from recover import dap_synthesis, data_synthesis  # noqa: E402
from recover.dap import latents  # noqa: E402
from recover.dap.options import Sampling  # noqa: E402
from utils.errors import run_entry  # noqa: E402
from utils.seeding import stable_seed, stream  # noqa: E402

ROOT = Path(__file__).parents[1]
CLASSES = ("n01440764", "n01443537")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("dap")
    tiny.image_folder(root / "train", (*CLASSES, "n01484850"), per_class=5)
    tiny_diffusion.dit_folder(root / "dit")
    tiny_diffusion.sd_folder(root / "sd")
    tiny_diffusion.pixel_file(root / "digits", [str(d) for d in range(10)], size=8, channels=1)
    (root / "two.txt").write_text(f"{CLASSES[1]} goldfish\n{CLASSES[0]} tench\n")
    return root


def command(made, out, *more, kind="dit"):
    """Arguments for two classes of the folder (or the digits); a later option wins."""
    own = ["--backbone", kind, "--weights", made / kind, "--train-dir", made / "train",
           "--classes", made / "two.txt", "--reals", 4]
    if kind == "digits":
        own = ["--backbone", "pixel-dit", "--weights", made / kind, "--dataset", "digits",
               "--reals", 6]
    words = [*own, "--ipc-end", 2, "--steps", 4, "--device", "cpu", "--threads", 1,
             "--workers", 1, "--output-dir", out, *more]
    return [str(word) for word in words]


def files(out, folder="images"):
    return {str(p.relative_to(out)): p.read_bytes()
            for p in sorted((out / folder).rglob("*")) if p.is_file()}


def pixels(out):
    return {name: np.asarray(Image.open(out / name)).astype(int) for name in files(out)}


def assert_near(out, expected):
    """The same images, equal within one grey level."""
    a, b = pixels(out), pixels(expected)
    assert sorted(a) == sorted(b)
    for name in a:
        assert np.abs(a[name] - b[name]).max() <= 1, name


def seeds(out):
    """{image: seed} of all records."""
    return {name: word for path in (out / "units").glob("*.json")
            for name, word in json.loads(path.read_text())["start"].items()}


def test_what_lies_on_disk_and_the_same_bytes_twice(made, tmp_path, capsys):
    for name in ("a", "b"):
        dap_synthesis.main(command(made, tmp_path / name))
    a, b = tmp_path / "a", tmp_path / "b"
    assert files(a) == files(b)
    assert files(a, "previews") == files(b, "previews")
    assert sorted(files(a)) == [f"images/new00{c}/class00{c}_id00{i}.png"
                                for c in range(2) for i in range(2)]

    manifest = json.loads((a / "images.json").read_text())
    assert manifest["identity"]["classes"] == [CLASSES[1], CLASSES[0]]
    assert manifest["identity"]["backbone"] == diffusion.load("dit", made / "dit").fingerprint()
    assert "CC-BY-NC-4.0" in manifest["licence"]
    assert manifest["asked"] == [0, 2]
    assert {"gamma": 1.0, "layer": "1", "guide_to": 2, "cfg_channels": 3, "image_size": 64,
            "sample_size": 64}.items() <= manifest["options"].items()

    record = json.loads((a / "units/class00001_id00000_to_00001.json").read_text())
    assert list(record["start"].values()) == [f"noise {stable_seed(0, 'dap', 1, i)}"
                                              for i in range(2)]
    assert [term["t"] for term in record["terms"]] == [999, 666]
    assert all(term["distance"] > 0 and term["push_over_sigma"] > 0 for term in record["terms"])

    images = open_distilled(a / "images")
    assert images.classes == [CLASSES[1], CLASSES[0]]
    assert images.image_size == 64
    text = capsys.readouterr().out
    assert "4 images, about" in text
    assert "non-commercial" in text


def test_digits_are_enlarged_as_the_real_ones_are(made, tmp_path):
    dap_synthesis.main(command(made, tmp_path, kind="digits"))
    images = open_distilled(tmp_path / "images")
    assert (images.dataset, images.image_size, len(images)) == ("digits", 32, 20)
    assert json.loads((tmp_path / "images.json").read_text())["licence"] is None


def test_stable_diffusion_is_told_class_names(made, tmp_path):
    more = ["--guidance-scale-by", "rms", "--gamma", "0.01", "--prompt", "a photo of a {}",
            "--image-size", "48", "--image-format", "jpg"]
    dap_synthesis.main(command(made, tmp_path, *more, kind="sd"))
    assert open_distilled(tmp_path / "images").image_size == 48
    assert "OpenRAIL" in json.loads((tmp_path / "images.json").read_text())["licence"]


def test_gamma_zero_needs_no_real_images(made, tmp_path, monkeypatch):
    monkeypatch.setattr(latents.RealLatents, "latents", lambda *_: pytest.fail("encoded"))
    dap_synthesis.main(command(made, tmp_path / "plain", "--gamma", 0, "--reals", 400))
    assert len(files(tmp_path / "plain")) == 4


def test_noise_of_the_real_images_goes_to_a_gpu_without_a_wait(monkeypatch):
    copied = []
    monkeypatch.setattr(latents, "to_device",
                        lambda noise, device: copied.append((noise, device)) or noise)
    backbone = SimpleNamespace(diffuse=lambda x0, noise, _: x0 + noise,
                               features=lambda x, *_: x.flatten(1))
    x0, key = torch.ones(3, 2, 4, 4), (0, "dap real noise", 7)
    reals = latents.RealFeatures(backbone, x0, None, key, Sampling(batch_size=2))(5)
    ((noise, device),) = copied
    assert device == x0.device
    assert torch.equal(noise, torch.randn(x0.shape, generator=stream(*key, 5)))
    torch.testing.assert_close(reals.mean, (x0 + noise).flatten(1).mean(0))


# Prefixes, batches, shards

def test_few_images_are_the_first_of_many(made, tmp_path):
    dap_synthesis.main(command(made, tmp_path / "many", "--ipc-end", 5))
    dap_synthesis.main(command(made, tmp_path / "few"))
    few = files(tmp_path / "few")
    dap_synthesis.main(command(made, tmp_path / "few", "--ipc-end", 5))
    after = files(tmp_path / "few")
    assert {name: after[name] for name in few} == few  # they are not made again
    assert_near(tmp_path / "few", tmp_path / "many")
    assert seeds(tmp_path / "few") == seeds(tmp_path / "many")


@pytest.mark.parametrize("more", [["--batch-size", 1], ["--batch-size", 7], ["--unit-images", 3]])
def test_batches_and_units_change_rounding_alone(made, tmp_path, more):
    dap_synthesis.main(command(made, tmp_path / "a", "--ipc-end", 7))
    dap_synthesis.main(command(made, tmp_path / "b", "--ipc-end", 7, *more))
    assert_near(tmp_path / "b", tmp_path / "a")
    assert seeds(tmp_path / "b") == seeds(tmp_path / "a")


def test_two_shards_make_the_bytes_of_one(made, tmp_path):
    """A unit is sampled whole by one process, so here not even a last bit differs."""
    dap_synthesis.main(command(made, tmp_path / "one"))
    for part in ("1/2", "0/2"):
        dap_synthesis.main(command(made, tmp_path / "two", "--shard", part))
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert seeds(tmp_path / "two") == seeds(tmp_path / "one")


def test_torchrun_and_the_script(made, tmp_path):
    words = command(made, tmp_path / "two")
    run = subprocess.run(["sh", ROOT / "recover/recover_dap.sh", *words], capture_output=True,
                         text=True, env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable,
                                         "NGPU": "2", "OMP_NUM_THREADS": "1"})
    assert run.returncode == 0, run.stderr
    dap_synthesis.main(command(made, tmp_path / "one"))
    assert files(tmp_path / "two") == files(tmp_path / "one")


# Going on after a stop

@pytest.mark.parametrize("place", [2, 5])
def test_killed_and_started_again_gives_the_same_bytes(made, tmp_path, place):
    dap_synthesis.main(command(made, tmp_path / "whole"))
    words = command(made, tmp_path / "killed")
    run = subprocess.run([sys.executable, ROOT / "tests/killed.py", "SIGKILL", str(place),
                          "recover.dap_synthesis", *words], capture_output=True, cwd=ROOT)
    assert run.returncode == -9
    dap_synthesis.main(words)
    for folder in ("images", "previews"):
        assert files(tmp_path / "killed", folder) == files(tmp_path / "whole", folder)
    assert not list((tmp_path / "killed").rglob("*.tmp"))


KILL = """
import os, signal, sys
sys.path.insert(0, {root!r})
from recover import dap_synthesis
from recover.dap.generation import UnitSampling
step_of = UnitSampling.after_step
def after_step(self, step, *rest):
    if self.unit.label == 1 and step == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    step_of(self, step, *rest)
UnitSampling.after_step = after_step
dap_synthesis.main({words!r})
"""


def test_killed_while_it_samples_and_started_again(made, tmp_path):
    dap_synthesis.main(command(made, tmp_path / "whole"))
    words = command(made, tmp_path / "killed")
    code = KILL.format(root=str(ROOT), words=words)
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == -9
    assert len(files(tmp_path / "killed")) == 2  # of the first class
    dap_synthesis.main(words)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_a_second_start_does_nothing_and_a_lost_image_is_made_again(made, tmp_path, monkeypatch):
    dap_synthesis.main(command(made, tmp_path, "--ipc-end", 3))
    dap_synthesis.main(command(made, tmp_path, "--ipc-end", 5))
    before = files(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("recover.dap.generation.sample", lambda *_: pytest.fail("worked again"))
        patch.setattr("utils.files.free_bytes", lambda _: 0)  # nothing is left to be written
        dap_synthesis.main(command(made, tmp_path, "--ipc-end", 5))
    # It is sampled beside the images that it was first sampled with, so its bytes are the same.
    (tmp_path / "images/new001/class001_id001.png").unlink()
    (tmp_path / "images/new000/class000_id004.png").unlink()
    dap_synthesis.main(command(made, tmp_path, "--ipc-end", 5))
    assert files(tmp_path) == before


def test_a_damaged_record_is_named(made, tmp_path, capsys):
    dap_synthesis.main(command(made, tmp_path))
    record = tmp_path / "units/class00001_id00000_to_00001.json"
    record.write_text('{"units_together": []}')
    with pytest.raises(SystemExit) as end:
        run_entry(dap_synthesis.main, command(made, tmp_path))
    assert end.value.code == 2
    assert f"{record}: damaged" in capsys.readouterr().err


def test_numbers_that_are_not_finite_are_never_kept(made, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        run_entry(dap_synthesis.main, command(made, tmp_path, "--gamma", "1e30"))
    assert end.value.code == 2
    assert "not finite from step" in capsys.readouterr().err
    assert files(tmp_path) == {}
    assert not list((tmp_path / "units").glob("*"))


# Real images

def test_latents_are_encoded_once_and_the_file_is_what_encoding_gives(made, tmp_path, monkeypatch):
    dap_synthesis.main(command(made, tmp_path / "a"))
    cached = sorted((tmp_path / ".cache").glob("latents_*.safetensors"))
    assert len(cached) == 2
    with monkeypatch.context() as patch:
        patch.setattr("recover.dap.backbones.Backbone.encode", lambda *_: pytest.fail("encoded"))
        dap_synthesis.main(command(made, tmp_path / "b", "--gamma", 2))
    for file in cached:
        file.unlink()
    dap_synthesis.main(command(made, tmp_path / "c", "--gamma", 2))
    assert files(tmp_path / "b") == files(tmp_path / "c")

    # Other images of a class, another file of that class
    train = shutil.copytree(made / "train", tmp_path / "train")
    for path in (train / CLASSES[0]).iterdir():
        Image.new("RGB", (70, 70), "red").save(path)
    dap_synthesis.main(command(made, tmp_path / "d", "--train-dir", train))
    assert len(list((tmp_path / ".cache").glob("latents_*"))) == 3


def test_class_mean_and_rbf_and_all_reals(made, tmp_path):
    sets = []
    for name, more in (("exact", ["--reals", "all"]), ("mean", ["--mean-form", "class-mean"]),
                       ("rbf", ["--kernel", "rbf"])):
        dap_synthesis.main(command(made, tmp_path / name, *more))
        sets.append(files(tmp_path / name))
        assert len(sets[-1]) == 4
    assert sets[0] != sets[1] != sets[2]


# PRISM from DAP's images

def test_prism_starts_from_daps_images(made, tmp_path):
    dap_synthesis.main(command(made, tmp_path / "dap"))
    tiny.teacher_folder(tmp_path / "teachers", ["shufflenet_v2_x0_5"], CLASSES, image_size=64)
    train = shutil.copytree(made / "train", tmp_path / "train")
    shutil.rmtree(train / "n01484850")
    data_synthesis.main([str(word) for word in (
        "--train-dir", train, "--start-dir", tmp_path / "dap/images", "--image-size", 64,
        "--primary-teacher", "shufflenet_v2_x0_5", "--bn-slots", 0, "--teacher-weights",
        tmp_path / "teachers", "--iteration", 0, "--ipc-end", 2, "--min-teacher-accuracy", 0,
        "--image-format", "png", "--output-dir", tmp_path / "prism")])
    # PRISM's classes are sorted, DAP's are in the order of the list.
    start = np.asarray(Image.open(tmp_path / "prism/images/new000/class000_id001.png"))
    made_by_dap = np.asarray(Image.open(tmp_path / "dap/images/new001/class001_id001.png"))
    assert np.array_equal(start, made_by_dap)


# Refusals

@pytest.mark.parametrize(("more", "words"), [
    (["--reals", 9], "class n01443537 has 5 training images, found --reals 9"),
    (["--reals", 0], "found 0, expected at least 1, or all"),
    (["--gamma", "-1"], "found -1, expected at least 0"),
    (["--layer", "28"], "--layer 28: the dit backbone has no such layer"),
    (["--sample-size", 100], "trained at 64 px"),
    (["--guide-to", 9], "within the 4 steps"),
    (["--kernel", "rbf", "--reals", 1], "--kernel rbf takes its bandwidth"),
    (["--kernel", "rbf", "--mean-form", "class-mean"], "has no bandwidth"),
    (["--steps", 2000], "at most 1000"),
    (["--prompt", "a {}"], "reads no prompt"),
    (["--ipc-start", 2], "no image in between"),
    (["--weights", "/nowhere"], "/nowhere: no such folder"),
    (["--classes", "/nowhere.txt"], "/nowhere.txt: cannot be read as a list"),
    (["--backbone", "sd"], "unet/config.json; found transformer, vae"),
    (["--backbone", "pixel-dit"], "pixel_dit.safetensors: no such file"),
    (["--train-dir", "/nowhere"], "/nowhere: no such folder"),
    (["--train-dir", "/nowhere", "--output-dir", "/nowhere/run"],
     "--output-dir: found /nowhere/run/images, expected a folder outside the images in /nowhere,"),
])
def test_mistakes_are_one_sentence(made, tmp_path, capsys, more, words):
    with pytest.raises(SystemExit) as end:
        run_entry(dap_synthesis.main, command(made, tmp_path / "out", *more))
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    assert re.search(re.escape(words), error), error
    assert not (tmp_path / "out").exists()


def test_other_options_or_weights_are_refused_and_nothing_is_lost(made, tmp_path, capsys):
    dap_synthesis.main(command(made, tmp_path / "out"))
    before = files(tmp_path / "out")
    tiny_diffusion.dit_folder(tmp_path / "other", seed=1)
    for more, words in ((["--gamma", 2], "gamma = 1.0, now gamma = 2.0"),
                        (["--weights", tmp_path / "other"], "other weights of backbone")):
        with pytest.raises(SystemExit):
            run_entry(dap_synthesis.main, command(made, tmp_path / "out", *more))
        assert words in capsys.readouterr().err
    assert files(tmp_path / "out") == before


def test_a_class_that_imagenets_dit_does_not_know(made, tmp_path, capsys):
    tiny.image_folder(tmp_path / "train", ("cat", "dog"), per_class=4)
    words = command(made, tmp_path / "out", "--train-dir", tmp_path / "train")
    place = words.index("--classes")
    with pytest.raises(SystemExit):
        run_entry(dap_synthesis.main, words[:place] + words[place + 2:])
    error = capsys.readouterr().err
    assert "'cat' is none that the dit model knows" in error
    assert "models.pretrain_diffusion" in error


def test_diffusers_is_missing(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(SystemExit) as end:
        run_entry(dap_synthesis.main, command(made, tmp_path / "out"))
    assert end.value.code == 2
    assert "pip install -r requirements-dap.txt" in capsys.readouterr().err


@pytest.mark.gpu
def test_on_a_gpu(made, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    dap_synthesis.main(command(made, tmp_path / "gpu", "--device", "cuda"))
    dap_synthesis.main(command(made, tmp_path / "cpu"))
    assert seeds(tmp_path / "gpu") == seeds(tmp_path / "cpu")
    gpu, cpu = pixels(tmp_path / "gpu"), pixels(tmp_path / "cpu")
    assert sorted(gpu) == sorted(cpu)
    for name in gpu:  # rounding differs, and four steps let it grow
        assert np.abs(gpu[name] - cpu[name]).mean() < 3, name


def test_units_show_their_guided_steps(made, tmp_path, monkeypatch):
    """--report-to: the terms of a unit's record."""
    shown, module = [], ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = lambda folder, **_: SimpleNamespace(
        add_scalar=lambda name, number, step: shown.append((Path(folder).name, step, name, number)),
        flush=lambda: None, close=lambda: None)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    dap_synthesis.main(command(made, tmp_path, "--report-to", "tensorboard"))
    records = {path.stem: json.loads(path.read_text())
               for path in sorted((tmp_path / "units").glob("*.json"))}
    assert len(records) == 2
    assert shown == [(unit, term["step"], name, term[name]) for unit, record in records.items()
                     for term in record["terms"] for name in ("distance", "push_over_sigma")
                     if term[name] is not None]
