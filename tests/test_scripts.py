"""The three ImageNet stages through their shell scripts, on a small folder of JPEGs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

ROOT = Path(__file__).parents[1]
CLASSES = tiny.WNIDS
TEACHERS = "resnet18 shufflenet_v2_x0_5"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """JPEGs of 64 to 224 px, and teachers with random weights."""
    root = tmp_path_factory.mktemp("scripts")
    tiny.image_folder(root / "train", CLASSES, per_class=2, size=(224, 160))
    tiny.image_folder(root / "val", CLASSES, per_class=2, size=(64, 100), seed=1)
    tiny.teacher_folder(root / "teachers", TEACHERS.split(), CLASSES)
    return root


def run(script, cwd, *options, **variables):
    """Run a script by its path relative to the working directory."""
    env = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(["sh", os.path.relpath(ROOT / script, cwd), *options], cwd=cwd, env=env,
                          capture_output=True, text=True, timeout=300)


def succeed(script, cwd, *options, **variables):
    """Run a script; variables that are paths are given relative to the working directory."""
    given = {name: os.path.relpath(value, cwd) if isinstance(value, Path) else value
             for name, value in variables.items()}
    done = run(script, cwd, *options, **given)
    assert done.returncode == 0, done.stdout + done.stderr


def test_all_stages_from_different_folders(data, tmp_path):
    out, teachers = tmp_path / "run", data / "teachers"
    succeed("recover/recover_r18.sh", ROOT / "recover", "--min-teacher-accuracy", "0", IPC="2",
            ITERATION="3", BN_TEACHERS="shufflenet_v2_x0_5 alexnet", OUTPUT_DIR=out,
            TRAIN_DIR=data / "train", TEACHER_WEIGHTS=teachers)
    succeed("relabel/relabel_r50.sh", tmp_path, "--batch-size", "4", TEACHERS=TEACHERS, EPOCHS="2",
            OUTPUT_DIR=out, TEACHER_WEIGHTS=teachers, VAL_DIR=data / "val")
    succeed("validate/train_FKD_10_r18.sh", data, STUDENT="shufflenet_v2_x0_5", EPOCHS="2",
            OUTPUT_DIR=out, VAL_DIR=data / "val")

    assert len(list((out / "images").rglob("*.jpg"))) == 6
    accuracy = json.loads((out / "labels/labels.json").read_text())["accuracy"]
    assert all(scores["real"] is not None for scores in accuracy.values())
    manifest = json.loads((out / "images.json").read_text())
    assert manifest["options"]["image_size"] == 224
    assert manifest["identity"]["classes"] == list(CLASSES)
    (result,) = (out / "students").glob("*/result.json")
    result = json.loads(result.read_text())
    assert 0 <= result["best"]["top1"] <= 100
    assert result["test_images"] == 6


@pytest.mark.parametrize(("script", "sentence"), [
    ("recover/recover_r101.sh", "found no --train-dir (TRAIN_DIR in the scripts). Give it."),
    ("relabel/relabel_r50.sh", "nothing-here/images: no such folder of distilled images"),
    ("validate/train_FKD_10_r101.sh", "nothing-here/images: no such folder of distilled images"),
    ("validate/train_hard_nette.sh", "nothing-here/images: no such folder of distilled images")])
def test_missing_paths_are_one_sentence(script, sentence, tmp_path):
    """TRAIN_DIR and VAL_DIR are not set."""
    done = run(script, tmp_path, OUTPUT_DIR="nothing-here")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "nothing-here").exists()


@pytest.mark.parametrize(("script", "preset", "given", "absent"), [
    ("relabel/relabel_r18.sh", "prism",
     "--teachers resnet18 mobilenet_v2 alexnet shufflenet_v2_x0_5 --ensemble equal_energy", "--x"),
    ("relabel/relabel_r101.sh", "prism",
     "--teachers resnet101 mobilenet_v2 alexnet shufflenet_v2_x0_5 --ensemble primary_half", "--x"),
    ("relabel/relabel_r50.sh", "edc", "--preset edc --output-dir", "--teachers"),
    ("validate/train_FKD_10_r50.sh", "prism", "--epochs 300 --loss-type mse_gt", "--x"),
    ("validate/train_FKD_10_r18.sh", "hard-label", "--preset hard-label --student resnet18",
     "--epochs"),
    ("recover/recover_r50.sh", "cda", "--preset cda --primary-teacher resnet50", "--iteration"),
])
def test_a_preset_fills_variables_that_are_left_empty(script, preset, given, absent, tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\n[ "$1" = -c ] || echo "$@"\n')
    python.chmod(0o755)
    done = run(script, tmp_path, PRESET=preset, PYTHON=str(python))
    assert f"--preset {preset}" in done.stdout
    assert given in done.stdout
    assert absent not in done.stdout
    assert f"results/{preset}_r" in done.stdout


@pytest.mark.parametrize("script", ["recover/recover_r18.sh", "validate/train_FKD_10_r18.sh",
                                    "models/pretrain_digits.sh", "report/fig1.sh",
                                    "reproduce/table1.sh", "reproduce/job.sh"])
def test_cdpath_does_not_mislead(script, tmp_path):
    """With it, cd searches other folders and prints where it went."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\n[ "$1" = -c ] || echo "in $PWD:" "$@"\n')
    python.chmod(0o755)
    (tmp_path / script).parent.mkdir()  # what cd would find first
    done = run(script, ROOT, PYTHON=str(python), CDPATH=f"{tmp_path}:{ROOT}", TRAIN_DIR="a b",
               VAL_DIR="c d", CUDA_VISIBLE_DEVICES="")
    assert re.fullmatch(rf"in {ROOT}:.*\n", done.stdout), done.stdout + done.stderr


def test_folders_that_are_not_set_are_not_given(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\n[ "$1" = -c ] || printf "<%s>" "$@"\n')
    python.chmod(0o755)
    for script in ("recover/recover_r18.sh", "recover/recover_dap.sh", "reproduce/table3.sh",
                   "validate/train_FKD_10_r50.sh", "validate/train_hard_idc.sh"):
        without = run(script, tmp_path, PYTHON=str(python))
        assert "<--output-dir>" in without.stdout or "<reproduce.run>" in without.stdout
        assert "-dir><>" not in without.stdout
        assert not re.search("<--(train|val)-dir>", without.stdout)
        given = run(script, tmp_path, PYTHON=str(python), TRAIN_DIR="a b", VAL_DIR="a b")
        assert re.search("<--(train|val)-dir><a b>", given.stdout)


def test_seeds_of_the_hard_label_scripts(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\n[ "$1" = -c ] || echo "$@"\n')
    python.chmod(0o755)
    for variables, words in (
            ({}, "--protocol igd --student resnetap10 --output-dir .*/results/dap_imagewoof_ipc10 "
                 "--epochs 3"),
            ({"SEEDS": "0 7", "PROTOCOL": "minimax"}, "--protocol minimax .* --seeds 0 7 --epo")):
        done = run("validate/train_hard_woof.sh", tmp_path, "--epochs", "3", PYTHON=str(python),
                   **variables)
        assert re.search(words, done.stdout), done.stdout
