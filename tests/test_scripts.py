"""The three ImageNet stages through their shell scripts, on a small folder of JPEGs with random-weight teachers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

ROOT = Path(__file__).parents[1]
CLASSES = ("n01440764", "n01443537", "n01484850", "n01491361")
TEACHERS = "resnet18 shufflenet_v2_x0_5"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """JPEGs of 64 to 224 px, teachers for these four classes."""
    root = tmp_path_factory.mktemp("scripts")
    tiny.image_folder(root / "train", CLASSES, per_class=2, size=(224, 160))
    tiny.image_folder(root / "val", CLASSES, per_class=2, size=(64, 100), seed=1)
    tiny.teacher_folder(root / "teachers", TEACHERS.split(), CLASSES)
    return root


def run(script, cwd, *options, **variables):
    env = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "2", **variables}
    return subprocess.run(["sh", os.path.relpath(ROOT / script, cwd), *options], cwd=cwd, env=env, capture_output=True, text=True,
                          timeout=300)


def succeed(*args, **variables):
    done = run(*args, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def all_stages(data, cwd_of, out, image_size, relabel_script):
    """Run the three stages, each from its own working directory, every path relative to it."""
    def where(stage, path):
        return os.path.relpath(path, cwd_of(stage))

    succeed("recover/recover_r18.sh", cwd_of("recover"), "--image-size", image_size, "--min-teacher-accuracy", "0",
            IPC="2", ITERATION="3", BN_TEACHERS="shufflenet_v2_x0_5 alexnet", OUTPUT_DIR=where("recover", out),
            TRAIN_DIR=where("recover", data / "train"), TEACHER_WEIGHTS=where("recover", data / "teachers"))
    succeed(relabel_script, cwd_of("relabel"), "--batch-size", "4", "--fkd-path", where("relabel", out / "labels"),
            TEACHERS=TEACHERS, EPOCHS="2", OUTPUT_DIR=where("relabel", out),
            TEACHER_WEIGHTS=where("relabel", data / "teachers"))
    return succeed("validate/train_FKD_10_r18.sh", cwd_of("validate"), "--val-dir", where("validate", data / "val"),
                   STUDENT="shufflenet_v2_x0_5", EPOCHS="2", OUTPUT_DIR=where("validate", out))


def check(out, image_size):
    assert len(list((out / "images").rglob("*.jpg"))) == 8
    assert json.loads((out / "images.json").read_text())["options"]["image_size"] == image_size
    assert json.loads((out / "images.json").read_text())["identity"]["classes"] == list(CLASSES)
    (result,) = (out / "students").glob("*/result.json")
    result = json.loads(result.read_text())
    assert 0 <= result["best"]["top1"] <= 100
    assert result["test_images"] == 8


def test_from_each_stage_folder(data, tmp_path):
    """cd recover && sh recover_r18.sh; cd relabel && sh relabel_r18.sh; cd validate && sh train_FKD_10_r18.sh."""
    all_stages(data, lambda stage: ROOT / stage, tmp_path / "run", "64", "relabel/relabel_r18.sh")
    check(tmp_path / "run", 64)


def test_from_another_folder_at_224_px(data, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    all_stages(data, lambda _: tmp_path / "elsewhere", tmp_path / "run", "224", "relabel/relabel_r50.sh")
    check(tmp_path / "run", 224)


@pytest.mark.parametrize("script", ["recover/recover_r101.sh", "relabel/relabel_r50.sh", "validate/train_FKD_10_r101.sh"])
def test_missing_paths_are_one_sentence(script, tmp_path):
    done = run(script, tmp_path, OUTPUT_DIR="nothing-here")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "nothing-here" / "images").exists()


def test_two_processes_give_the_same_bytes_as_one(data, tmp_path):
    """NGPU=2: torchrun shares units and epochs out; nothing depends on who did what."""
    for count in ("1", "2"):
        out = tmp_path / count
        succeed("recover/recover_r18.sh", tmp_path, "--image-size", "32", "--min-teacher-accuracy", "0", "--threads", "1",
                "--batch-size", "2", "--primary-teacher", "shufflenet_v2_x0_5", NGPU=count, IPC="2", ITERATION="2",
                BN_TEACHERS="alexnet", OUTPUT_DIR=str(out), TRAIN_DIR="../" * 9 + str(data / "train")[1:],
                TEACHER_WEIGHTS=str(data / "teachers"))
        succeed("relabel/relabel_r18.sh", tmp_path, "--batch-size", "4", "--threads", "1", "--ensemble", "mean", NGPU=count,
                TEACHERS="shufflenet_v2_x0_5", EPOCHS="3", OUTPUT_DIR=out.name, TEACHER_WEIGHTS=str(data / "teachers"))

    def files(out):
        paths = [*(out / "images").rglob("*.png"), *(out / "labels").glob("*.safetensors")]
        return {p.relative_to(out): p.read_bytes() for p in paths}

    assert len(files(tmp_path / "1")) == 8 + 3
    assert files(tmp_path / "1") == files(tmp_path / "2")


@pytest.mark.parametrize(("script", "preset", "given", "absent"), [
    ("relabel/relabel_r18.sh", "prism", "--teachers resnet18 mobilenet_v2 alexnet shufflenet_v2_x0_5 --ensemble equal", None),
    ("relabel/relabel_r101.sh", "prism", "--teachers resnet101 mobilenet_v2 alexnet shufflenet_v2_x0_5 --ensemble prim", None),
    ("relabel/relabel_r50.sh", "edc", "--preset edc", "--teachers"),
    ("validate/train_FKD_10_r50.sh", "prism", "--epochs 300 --loss-type mse_gt", None),
    ("validate/train_FKD_10_r18.sh", "hard-label", "--preset hard-label --student resnet18", "--epochs"),
    ("recover/recover_r50.sh", "cda", "--preset cda --primary-teacher resnet50", "--iteration"),
])
def test_a_preset_fills_variables_that_are_left_empty(script, preset, given, absent, tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\n[ "$1" = -c ] || echo "$@"\n')
    python.chmod(0o755)
    env = {"PATH": os.environ["PATH"], "PRESET": preset, "PYTHON": str(python)}
    words = subprocess.run(["sh", ROOT / script], env=env, capture_output=True, text=True, check=True).stdout
    assert f"--preset {preset}" in words
    assert given in words
    assert absent is None or absent not in words
    assert f"results/{preset}_r" in words
