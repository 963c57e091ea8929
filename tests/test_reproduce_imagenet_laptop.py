"""PRISM beside SRe2L with ImageNet networks: the commands, and all of it at tiny size."""

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest
import tiny
from timm.data import ImageNetInfo

from models.efficientnet_lite import NAMES
from reproduce import imagenet_laptop
from utils import options
from utils.errors import UserError

SCRIPT = Path(__file__).parents[1] / "reproduce/imagenet_laptop.sh"


def laptop(*argv):
    return options.parse(imagenet_laptop.Options, argv, prog="x", description="x").laptop


def commands(capsys, *argv):
    """{title word: {option: values}} of a dry run."""
    imagenet_laptop.main(["--dry-run", *argv])
    parsed = []
    for line in capsys.readouterr().out.splitlines():
        words, given = shlex.split(line)[3:], {}
        for word in words:
            if word.startswith("--"):
                values = given[word] = []
            else:
                values.append(word)
        parsed.append(given)
    return dict(zip(("convert", "prism", "sre2l", "verify"), parsed, strict=True))


def test_both_methods_are_told_the_same_but_for_their_teachers(capsys, tmp_path):
    told = commands(capsys, "--output-dir", str(tmp_path), "--seed", "7", "--threads", "1")
    assert told["convert"]["--networks"] == list(NAMES)
    prism, sre2l = told["prism"], told["sre2l"]
    only_prism = {"--bn-teachers": [NAMES[1]], "--bn-law": ["exact"], "--bn-count": ["2"]}
    assert {key: prism.pop(key) for key in only_prism} == only_prism
    assert sre2l.pop("--preset") == ["sre2l"]
    assert prism.pop("--output-dir") == [f"{tmp_path}/prism"]
    assert sre2l.pop("--output-dir") == [f"{tmp_path}/sre2l"]
    assert prism == sre2l
    assert prism["--primary-teacher"] == [NAMES[0]]
    assert prism["--seed"] == ["7"]
    assert prism["--head"] == ["full"]
    assert prism["--bn-normalise"] == ["layers"]
    assert told["verify"]["--runs"] == [f"PRISM={tmp_path}/prism", f"SRe2L={tmp_path}/sre2l"]
    assert told["verify"]["--verifier"] == [NAMES[2]]
    assert not list(tmp_path.iterdir())


def test_all_bn_teachers_are_drawn_and_a_verifier_took_no_part(capsys):
    with pytest.raises(UserError, match="--verifier timm/tf_efficientnet_lite2: guides PRISM's "
                                        "images, so its answers would be no evidence."):
        imagenet_laptop.main(["--bn-teachers", *NAMES[1:]])
    with pytest.raises(UserError, match="--verifier timm/tf_efficientnet_lite0: guides"):
        imagenet_laptop.main(["--verifier", NAMES[0]])
    told = commands(capsys, "--bn-teachers", NAMES[2], "--verifier", NAMES[1])
    assert told["convert"]["--networks"] == [NAMES[0], NAMES[2], NAMES[1]]


def test_the_time_that_is_announced():
    """Two classes, three images each, ten steps; PRISM passes two networks, SRe2L one."""
    given = ("--classes", "n01443537,n01496331", "--ipc", "3", "--iteration", "10")
    seconds = imagenet_laptop.seconds(laptop(*given))
    assert seconds == pytest.approx(2 * 3 * 10 * (2 + 1) * imagenet_laptop.SECONDS)
    assert imagenet_laptop.seconds(laptop(*given, "--image-size", "112")) == pytest.approx(
        seconds / 4)


def test_the_classes_are_ten_of_imagenets():
    wnids = ImageNetInfo().label_names()
    assert len(set(imagenet_laptop.CLASSES) & set(wnids)) == 10


def test_all_of_it_at_tiny_size(tmp_path, capsys):
    """Random networks with ImageNet's 1000 outputs, two classes, one step at 32 px."""
    tiny.teacher_folder(tmp_path / "teachers", NAMES, ImageNetInfo().label_names())
    command = ["--classes", "n01443537,n01496331", "--ipc", "1", "--iteration", "1",
               "--image-size", "32", "--device", "cpu", "--threads", "1",
               "--output-dir", str(tmp_path)]
    imagenet_laptop.main(command)
    printed = capsys.readouterr().out
    assert printed.startswith("PRISM and SRe2L, about ")
    assert f"| PRISM | {NAMES[0]}, {NAMES[1]} | 2 | " in printed
    assert f"| SRe2L | {NAMES[0]} | 2 | " in printed
    assert f"{NAMES[2]} among its 1000 classes" in printed
    assert "no evidence" not in printed

    start = [json.loads((tmp_path / run / "images.json").read_text()) for run in
             ("prism", "sre2l")]
    assert start[0]["options"]["seed"] == start[1]["options"]["seed"]
    images = sorted(tmp_path.glob("*/images/*/*.png"))
    assert len(images) == 4
    made = [(path.read_bytes(), path.stat().st_mtime_ns) for path in images]
    picture = (tmp_path / "pictures.png").read_bytes()

    imagenet_laptop.main(command)
    assert capsys.readouterr().out.count("already there") == 3
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in images] == made
    assert (tmp_path / "pictures.png").read_bytes() == picture


def test_the_script_hands_its_variables_on(tmp_path):
    """From another folder; the packages count as installed."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\ncase "$1" in -|-c) ;; *) printf "<%s>" "$@" ;; esac\n')
    python.chmod(0o755)

    def run(*argv, **variables):
        env = {**os.environ, "PYTHON": str(python), **variables}
        done = subprocess.run(["sh", SCRIPT, *argv], cwd=tmp_path, env=env, capture_output=True,
                              text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    plain = run()
    assert plain.startswith("<-m><reproduce.imagenet_laptop><--ipc><2>")
    assert "<--classes>" not in plain
    assert "<--threads>" not in plain
    given = run("--seed", "3", CLASSES="a,b", BN_TEACHERS="x y", VERIFIER="z", THREADS="2",
                OUTPUT_DIR="my out", IPC="1", ITERATION="9")
    assert given == ("<-m><reproduce.imagenet_laptop><--classes><a,b><--ipc><1><--iteration><9>"
                     "<--bn-teachers><x><y><--verifier><z><--output-dir><my out><--threads><2>"
                     "<--seed><3>")
