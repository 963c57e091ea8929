"""report.check on a run that the stages made: each kind of damage is named, then repaired."""

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
from validate.train_fkd import main as validate

NET = "shufflenet_v2_x0_5"
IMAGE = "images/new001/class001_id001.png"
LABELS = "labels/epoch_001.safetensors"
STUDENT = "students/s"


def run_stage(stage, root, run):
    common = ["--device", "cpu", "--threads", "1", "--output-dir", str(run)]
    teachers = ["--teacher-weights", str(root / "teachers")]
    if stage == "recover":
        recover(["--train-dir", str(root / "train"), "--image-size", "32", "--primary-teacher", NET,
                 "--bn-slots", "0", "--ipc-end", "2", "--iteration", "1",
                 "--min-teacher-accuracy", "0", *teachers, *common])
    elif stage == "relabel":
        relabel(["--teachers", NET, "--epochs", "2", "--batch-size", "4", *teachers, *common])
    else:
        validate(["--val-dir", str(root / "train"), "--student", NET, "--student-name", "s",
                  "--epochs", "2", "--eval-every", "1", *common])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("check")
    tiny.image_folder(root / "train", tiny.WNIDS, 2, size=(40, 36))
    tiny.teacher_folder(root / "teachers", [NET], tiny.WNIDS)
    for stage in ("recover", "relabel", "validate"):
        run_stage(stage, root, root / "run")
    return root


@pytest.fixture
def run(root, tmp_path):
    shutil.copytree(root / "run", tmp_path / "run")
    return tmp_path / "run"


def problems(folder, capsys):
    """The problems that check prints; its exit status must be right."""
    capsys.readouterr()
    try:
        check([str(folder)])
        status = 0
    except SystemExit as end:
        status = end.code
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("problem: ")]
    assert status == (1 if lines else 0)
    return lines


def test_a_good_folder(root, capsys):
    files = {path: path.stat().st_mtime_ns for path in (root / "run").rglob("*")}
    capsys.readouterr()
    check([str(root / "run"), "--workers", "3"])
    assert capsys.readouterr().out == (
        "images: 6 of 3 classes\nlabels: 2 epochs\nstudents: 1\n"
        f"{root / 'run'}: no problem\n")
    assert {path: path.stat().st_mtime_ns for path in (root / "run").rglob("*")} == files


def remove(name):
    return lambda run: (run / name).unlink()


def flip_last_byte(name):
    def damage(run):
        data = bytearray((run / name).read_bytes())
        data[-1] ^= 1
        (run / name).write_bytes(data)

    return damage


def other_picture(name):
    return lambda run: Image.new("RGB", (32, 32)).save(run / name)


def not_finite(run):
    path = run / STUDENT / "last.safetensors"
    tensors, about = checkpoint.load_tensors(path)
    tensors["conv1.0.weight"][0, 0, 0, 0] = float("nan")
    checkpoint.save_tensors(path, tensors, about)


def other_result(run):
    path = run / STUDENT / "result.json"
    result = json.loads(path.read_text())
    result["best"]["top1"] = 99.0
    path.write_text(json.dumps(result))


def other_plan(run):
    """labels.json and the file's header agree, the plan inside is another epoch's."""
    (tensors, about), (other, _) = (
        checkpoint.load_tensors(run / f"labels/epoch_00{epoch}.safetensors") for epoch in (1, 0))
    checkpoint.save_tensors(run / LABELS, {**tensors, "crops": other["crops"]}, about)


# damage to a run, the problems in order, and what repairs it: a file to remove and a stage to run
CASES = {
    "an image is cut short": (
        lambda run: (run / IMAGE).write_bytes((run / IMAGE).read_bytes()[:100]),
        ["id001.png: was changed since it was made. Remove it. Run the same recover",
         "labels: an image of .* was renamed or changed since", "s: was trained on other images"],
        IMAGE, "recover"),
    "an image is missing": (
        remove(IMAGE),
        ["id001.png: missing. Run the same recover command again", "images were removed",
         "other images"], None, "recover"),
    "an image too many": (
        other_picture("images/new001/class001_id002.png"),
        ["id002.png: no unit's record names it. Remove it", "images were added", "other images"],
        "images/new001/class001_id002.png", None),
    "an image is renamed": (
        lambda run: (run / IMAGE).rename(run / IMAGE.replace("id001", "id005")),
        ["id001.png: missing", "id005.png: no unit's record", "renamed or changed",
         "other images"], IMAGE.replace("id001", "id005"), "recover"),
    "a record is lost": (
        remove("units/slice00001_chunk000.json"),
        [f"class00{c}_id001.png: no unit's record names it" for c in range(3)], None, "recover"),
    "a checkpoint is left": (
        lambda run: (run / "units/unfinished_x.safetensors").touch(),
        ["unfinished_x.safetensors: units that are not finished. Run the same recover"],
        "units/unfinished_x.safetensors", None),
    "labels are damaged": (
        flip_last_byte(LABELS), ["epoch_001.safetensors: damaged .* Remove it"], LABELS,
        "relabel"),
    "labels have another plan": (
        other_plan, ["epoch_001.safetensors: its plan is not the one that labels.json gives"],
        LABELS, "relabel"),
    "an epoch is missing": (
        remove("labels/epoch_000.safetensors"), ["epoch_000.safetensors: missing. Was relabel"],
        None, "relabel"),
    "labels.json is damaged": (
        lambda run: (run / "labels/labels.json").write_text("{"), ["labels.json: damaged"],
        None, None),
    "weights are damaged": (
        flip_last_byte(f"{STUDENT}/best.safetensors"), ["best.safetensors: damaged"], None, None),
    "weights are not finite": (
        not_finite, ["last.safetensors: conv1.0.weight holds values that are not finite"], None,
        None),
    "another result": (
        other_result, ["best.safetensors: was tested with .*, result.json says .*99.0"], None,
        None),
    "a student is not finished": (
        remove(f"{STUDENT}/result.json"), ["s: is not finished. Run the same validate"],
        None, "validate"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_problem_is_named_and_repaired(root, run, capsys, case):
    damage, expected, remedy, stage = CASES[case]
    damage(run)
    lines = problems(run, capsys)
    assert len(lines) == len(expected), lines
    for line, sentence in zip(lines, expected, strict=True):
        assert re.search(sentence, line), line

    if remedy is not None:
        (run / remedy).unlink()
    if stage is not None:
        run_stage(stage, root, run)
    if remedy or stage:
        assert problems(run, capsys) == []


def test_images_of_another_tool(root, tmp_path, capsys):
    shutil.copytree(root / "run/images", tmp_path / "set/images")
    assert problems(tmp_path / "set", capsys) == []
    Image.new("RGB", (32, 30)).save(tmp_path / "set" / IMAGE)
    assert re.search("32x30 pixels, the others have 32x32", *problems(tmp_path / "set", capsys))


def test_bad_arguments(tmp_path):
    with pytest.raises(UserError, match="is no run folder"):
        check([str(tmp_path)])
    with pytest.raises(UserError, match="required: FOLDER"):
        check([])
