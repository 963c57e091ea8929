import json
import re
import shutil

import pytest
import tiny
from PIL import Image

from recover.data_synthesis import main as recover
from relabel.generate_soft_label import main as relabel
from report.check import main as check
from utils import checkpoint
from utils.errors import UserError
from utils.files import write_json
from validate.train_fkd import main as validate

NET = "shufflenet_v2_x0_5"
CLASSES = ("n01440764", "n01443537", "n01484850")
STUDENT = "students/s"


def commands(root, run):
    common = ["--device", "cpu", "--threads", "1", "--output-dir", str(run)]
    teachers = ["--teacher-weights", str(root / "teachers")]
    return {
        "recover": (recover, ["--train-dir", str(root / "train"), "--image-size", "32", "--primary-teacher", NET, "--bn-slots", "0",
                              "--ipc-end", "2", "--iteration", "1", "--min-teacher-accuracy", "0", *teachers, *common]),
        "relabel": (relabel, ["--teachers", NET, "--epochs", "2", "--batch-size", "4", *teachers, *common]),
        "validate": (validate, ["--val-dir", str(root / "train"), "--student", NET, "--student-name", "s", "--epochs", "2",
                                "--eval-every", "1", *common])}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("check")
    tiny.image_folder(root / "train", CLASSES, 2, size=(40, 36))
    tiny.teacher_folder(root / "teachers", [NET], CLASSES)
    for main, arguments in commands(root, root / "run").values():
        main(arguments)
    return root


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made / "run", tmp_path / "run")
    return tmp_path / "run"


def problems(folder, capsys, *more):
    """The lines that check prints; its exit status must be right."""
    capsys.readouterr()
    try:
        check([str(folder), *more])
        status = 0
    except SystemExit as end:
        status = end.code
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("problem: ")]
    assert status == (1 if lines else 0)
    return lines


def test_a_good_folder(made, capsys):
    before = {p: p.stat().st_mtime_ns for p in (made / "run").rglob("*")}
    check([str(made / "run"), "--workers", "3"])
    out = capsys.readouterr().out
    assert out.endswith("/run: 6 images of 3 classes, 2 epochs of labels, 1 student: no problem\n")
    assert {p: p.stat().st_mtime_ns for p in (made / "run").rglob("*")} == before


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    write_json(path, content)


def other_picture(path):
    Image.new("RGB", (32, 32)).save(path)


def flip_last_byte(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def not_finite(path):
    tensors, about = checkpoint.load_tensors(path)
    tensors["conv1.0.weight"][0, 0, 0, 0] = float("nan")
    checkpoint.save_tensors(path, tensors, about)


IMAGE = "images/new001/class001_id001.png"
# what is done to a file, words of the problems in order, the stage that repairs it (after what the line says to remove)
CASES = {
    "cut short": (lambda run: (run / IMAGE).write_bytes((run / IMAGE).read_bytes()[:100]),
                  ["id001.png: was changed since it was made, says slice00001_chunk000.json. rm '.*then run the same recover",
                   "labels: an image of .* was renamed or changed since", "students/s: was trained on other images"], "recover"),
    "another picture": (lambda run: other_picture(run / IMAGE), ["was changed since it was made", "renamed or changed",
                                                                 "other images"], "recover"),
    "an image is missing": (lambda run: (run / IMAGE).unlink(),
                            ["new001: 1 images, other classes have 2", "id001.png: missing. Run the same recover command again",
                             "images were removed", "other images"], "recover"),
    "an image too many": (lambda run: other_picture(run / "images/new001/class001_id002.png"),
                          ["new000: 2 images, other classes have 3", "new002: 2 images", "class001_id002.png: no unit's record",
                           "images were added", "other images"], None),
    "a record is lost": (lambda run: (run / "units/slice00001_chunk000.json").unlink(),
                         [f"class00{c}_id001.png: no unit's record names it. Run the same recover" for c in range(3)], "recover"),
    "a record names files elsewhere": (
        lambda run: edit_json(run / "units/slice00000_chunk000.json", lambda c: c["files"].update({"../../x.png": "0"})),
        ["slice00000_chunk000.json: does not name images of this folder. rm "] + ["no unit's record"] * 3, "recover"),
    "a checkpoint is left": (lambda run: (run / "units/unfinished_x.safetensors").write_bytes(b"x"),
                             ["unfinished_x.safetensors: units that are not finished. Run the same recover"], None),
    "a half-written file": (lambda run: (run / "labels/.epoch_001.safetensors.node-7.4711.tmp").write_bytes(b"x"),
                            [r"a file that was being written by a process on node-7. If that no longer runs: rm '/"], None),
    "labels damaged": (lambda run: flip_last_byte(run / "labels/epoch_001.safetensors"),
                       ["epoch_001: (plan|batch 1) does not match its checksum.* Remove it and run relabel"], "relabel"),
    "an epoch is missing": (lambda run: (run / "labels/epoch_000.safetensors").unlink(),
                            ["epoch 0 is missing. Run the same relabel"], "relabel"),
    "a stray file": (lambda run: (run / "labels/epoch_1.tar").touch(), ["epoch_1.tar: is no file of relabel. rm"], None),
    "labels.json damaged": (lambda run: (run / "labels/labels.json").write_text("{"), ["labels.json: damaged"], None),
    "weights damaged": (lambda run: flip_last_byte(run / STUDENT / "best.safetensors"),
                        ["best.safetensors: does not match its checksum"], None),
    "weights not finite": (lambda run: not_finite(run / STUDENT / "last.safetensors"),
                           ["last.safetensors: conv1.0.weight holds values that are not finite"], None),
    "another result": (lambda run: edit_json(run / STUDENT / "result.json", lambda c: c["best"].update(top1=99.0)),
                       ["result.json: says best = .*99.0.*, metrics.jsonl says", "result.json: .*best.safetensors says"], None),
    "a line of metrics is cut": (lambda run: (run / STUDENT / "metrics.jsonl").write_text('{"epoch": 0'),
                                 ["metrics.jsonl: cannot be read", "says best", "says last"], None),
    "not finished": (lambda run: (run / STUDENT / "result.json").unlink(), ["students/s: is not finished. Run the same validate"],
                     "validate"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_problem_is_named_and_repaired(made, run, capsys, case):
    damage, words, stage = CASES[case]
    damage(run)
    found = problems(run, capsys)
    assert len(found) == len(words), found
    for line, expected in zip(found, words, strict=True):
        assert re.search(expected, line), line
    if stage is not None:  # what the lines say to do
        for line in found:
            for name in re.findall(r"rm '([^']+)'", line):
                if (run / name).exists():
                    (run / name).unlink()
            if "Remove it and run relabel" in line:
                (run / "labels/epoch_001.safetensors").unlink()
        main, arguments = commands(made, run)[stage]
        main(arguments)
        assert problems(run, capsys) == []


def test_images_of_another_tool(made, tmp_path, capsys):
    shutil.copytree(made / "run/images", tmp_path / "set/images")
    assert problems(tmp_path / "set", capsys) == []
    Image.new("RGB", (32, 30)).save(tmp_path / "set/images/new002/class002_id001.png")
    assert re.search("32x30 pixels, the others have 32x32", problems(tmp_path / "set", capsys)[0])


def test_bad_arguments(tmp_path):
    with pytest.raises(UserError, match="is no run folder"):
        check([str(tmp_path)])
    with pytest.raises(UserError, match="no run folder"):
        check([str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match="required: FOLDER"):
        check([])
