"""report.check on a run that the stages made: each kind of damage is named, then repaired."""

import errno
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

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
METRICS = f"{STUDENT}/metrics.jsonl"
STRAY = "labels/epoch_99999999999999999999.safetensors"
ROOT = Path(__file__).parents[1]


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
    """The problems and what is not verified, as check prints it; its exit status must be right."""
    capsys.readouterr()
    try:
        check([str(folder)])
        status = 0
    except SystemExit as end:
        status = end.code
    lines = [line for line in capsys.readouterr().out.splitlines()
             if line.startswith(("problem: ", "not verified: "))]
    assert status == (1 if lines else 0)
    return lines


def assert_found(lines, expected):
    """lines match the regular expressions `expected`, one for one."""
    assert len(lines) == len(expected), lines
    for line, sentence in zip(lines, expected, strict=True):
        assert re.search(sentence, line), line


def test_a_good_folder(root, capsys):
    files = {path: path.stat().st_mtime_ns for path in (root / "run").rglob("*")}
    capsys.readouterr()
    check([str(root / "run"), "--workers", "3"])
    assert capsys.readouterr().out == (
        "images: 6 of 3 classes, each as its unit's record says\n"
        "labels: 2 of 2 epochs, each with its checksum and plan\nstudents: 1\n"
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


def removed(*names):
    def damage(run):
        for path in (path for name in names for path in run.glob(name)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def in_json(name, change):
    """Apply change(content) to a JSON file of the run."""
    def damage(run):
        content = json.loads((run / name).read_text())
        change(content)
        (run / name).write_text(json.dumps(content))

    return damage


def both(*damages):
    return lambda run: [damage(run) for damage in damages]


def not_finite(run):
    path = run / STUDENT / "last.safetensors"
    tensors, about = checkpoint.load_tensors(path)
    tensors["conv1.0.weight"][0, 0, 0, 0] = float("nan")
    checkpoint.save_tensors(path, tensors, about)


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
        remove("labels/epoch_000.safetensors"),
        ["labels: epoch 0 of 2 missing. Was relabel stopped"], None, "relabel"),
    "the last epoch is missing": (
        remove(LABELS), ["labels: epoch 1 of 2 missing. Was relabel stopped"], None, "relabel"),
    "all epochs are missing": (
        removed("labels/epoch*"), ["labels: epochs 0 to 1 of 2 missing"], None, "relabel"),
    "an epoch too many": (
        lambda run: shutil.copy(run / LABELS, run / STRAY),
        ["9999.safetensors: .* Remove it"], STRAY, None),
    "a file of another name": (
        lambda run: shutil.copy(run / LABELS, run / "labels/epoch_0001.safetensors"),
        ["epoch_0001.safetensors: is no epoch of these labels. Remove it"],
        "labels/epoch_0001.safetensors", None),
    "labels.json is of before": (
        in_json("labels/labels.json", lambda content: content.pop("asked")),
        ["^not verified: labels/labels.json does not say how many epochs"], None, "relabel"),
    "labels.json is damaged": (
        lambda run: (run / "labels/labels.json").write_text("{"),
        ["labels.json: damaged", "^not verified: .*s: the labels that it was trained on are not"],
        None, None),
    "labels are gone": (
        removed("labels"), ["^not verified: .*s: the labels that it was trained on are not"],
        None, "relabel"),
    "a student of other labels": (
        in_json(f"{STUDENT}/options.json",
                lambda content: content["identity"]["labels"]["options"].update(fkd_seed=7)),
        ["^not verified: .*s: the labels that it was trained on are not"], None, None),
    "image and labels are damaged": (
        both(flip_last_byte(IMAGE), flip_last_byte(LABELS), not_finite),
        ["id001.png: was changed since", "renamed or changed since", "epoch_001.* damaged",
         "not finite", "other images"], None, None),
    "recover stopped": (
        removed("images/*/*_id001.png", "units/slice00001*"),
        ["images: 3 of 6 images. Was recover stopped. Run the same recover", "images were removed",
         "other images"], None, "recover"),
    "a class folder is empty": (
        removed("images/new001/*"),
        ["no images in 1 of 3 class folders", "class001_id000.png: missing", "id001.png: missing",
         "^not verified: .*labels: whether the labels", "^not verified: .*s: whether it was"],
        None, "recover"),
    "fewer images are allowed": (
        both(removed("images/*/*_id001.png", "units/slice00001*", "labels", "students"),
             in_json("images.json", lambda content: content["options"].update(
                 allow_short_classes=True))),
        ["^not verified: 3 of 6 images are there. Classes of fewer images are allowed"], None,
        None),
    "images.json is of before": (
        in_json("images.json", lambda content: content.pop("asked")),
        ["^not verified: images.json does not say how many images"], None, "recover"),
    "a record is damaged": (
        both(lambda run: (run / "units/slice00001_chunk000.json").write_text('{"files": 1}'),
             removed("labels", "students")),
        ["slice00001_chunk000.json: damaged", *["no unit's record names it"] * 3],
        "units/slice00001_chunk000.json", "recover"),
    "nothing but images is left": (
        both(removed("units", "labels", "students"), other_picture(IMAGE)),
        ["^not verified: there are no records in units/, so changed pixels would not be"], None,
        None),
    "weights are damaged": (
        flip_last_byte(f"{STUDENT}/best.safetensors"), ["best.safetensors: damaged"], None, None),
    "weights are not finite": (
        not_finite, ["last.safetensors: conv1.0.weight holds values that are not finite"], None,
        None),
    "another result": (
        in_json(f"{STUDENT}/result.json", lambda result: result["best"].update(top1=99.0)),
        ["best.safetensors: was tested with .*, result.json says .*99.0"], None,
        None),
    "a student is not finished": (
        remove(f"{STUDENT}/result.json"),
        ["result.json: missing: the student is not finished. Run the same validate"],
        None, "validate"),
    "a line of metrics is lost": (
        lambda run: (run / METRICS).write_text((run / METRICS).read_text().splitlines()[0] + "\n"),
        ["metrics.jsonl: no line has the last test"], None, None),
    "a line of metrics is a list": (
        lambda run: (run / METRICS).write_text("[]\n"), ["metrics.jsonl: damaged"], None, None),
    "metrics are gone": (remove(METRICS), ["metrics.jsonl: missing. Remove .*s and run"], None,
                         None),
    "a student is empty": (
        lambda run: (run / "students/empty").mkdir(), ["options.json: missing"], None, None),
    "a student does not say what it is": (
        in_json(f"{STUDENT}/options.json", lambda content: content.pop("identity")),
        ["options.json: damaged .it does not say 'images'"], None, None),
}


@pytest.mark.parametrize("case", CASES)
def test_a_problem_is_named_and_repaired(root, run, capsys, case):
    damage, expected, remedy, stage = CASES[case]
    damage(run)
    assert_found(problems(run, capsys), expected)

    if remedy is not None:
        (run / remedy).unlink()
    if stage is not None:
        run_stage(stage, root, run)
    if remedy or stage:
        assert problems(run, capsys) == []


# What is no file

ODD = {"a FIFO": os.mkfifo, "a socket": lambda path: os.mknod(path, stat.S_IFSOCK),
       "a folder": os.mkdir, "a device": lambda path: path.symlink_to("/dev/zero"),
       "a link to nothing": lambda path: path.symlink_to("nothing"),
       "a link to itself": lambda path: path.symlink_to(path.name)}
FILES = [IMAGE, "images/new000/class000_id000.png", "images.json", "units/slice00000_chunk000.json",
         LABELS, "labels/labels.json", "students/new.json",
         *(f"{STUDENT}/{name}" for name in ("options.json", "result.json", "best.safetensors",
                                            "last.safetensors", "metrics.jsonl"))]


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_file_is_named(run, capsys, kind):
    for name in FILES:
        if kind == "a folder" and name == "students/new.json":
            continue  # it would be a student's
        kept = run.parent / "kept"
        if (run / name).exists():
            (run / name).rename(kept)
        ODD[kind](run / name)
        lines = problems(run, capsys)
        assert re.search(rf"^problem: {re.escape(str(run / name))}: (is |cannot be read)",
                         "\n".join(lines), re.M), lines

        (run / name).rmdir() if (run / name).is_dir() else (run / name).unlink()
        if kept.exists():
            kept.rename(run / name)
    assert problems(run, capsys) == []


def test_what_may_not_be_read_is_named(run, capsys, monkeypatch):
    """The tests may run as root, who may read everything."""
    listdir = os.listdir

    def list_all_but_units(path):
        if path == run / "units":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listdir(path)

    monkeypatch.setattr(os, "listdir", list_all_but_units)
    monkeypatch.setattr(os, "access", lambda path, _: path != run / LABELS)
    assert_found(problems(run, capsys), [
        "^problem: .*units: no permission", "^not verified: there are no records",
        "epoch_001.safetensors: no permission to read it"])


FORKS = """
import os, torch
from report.findings import Findings
torch.randn(400, 400) @ torch.randn(400, 400)
tensors = [torch.randn(300, 300) for _ in range(50)]
for _ in range(30):
    child = os.fork()
    if not child:
        status = 1
        try:
            Findings().each(lambda tensor: torch.isfinite(tensor).all(), tensors, 8)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
"""


def test_in_a_fork_of_a_process_that_used_pytorch():
    end = subprocess.run([sys.executable, "-c", FORKS], cwd=ROOT, capture_output=True, text=True)
    assert end.returncode == 0, end.stderr


def test_images_of_another_tool(root, tmp_path, capsys):
    shutil.copytree(root / "run/images", tmp_path / "set/images")
    unknown = ["^not verified: there are no records in units/",
               "^not verified: there is no images.json, which says how many images"]
    assert_found(problems(tmp_path / "set", capsys), unknown)
    Image.new("RGB", (32, 30)).save(tmp_path / "set" / IMAGE)
    assert_found(problems(tmp_path / "set", capsys),
                 [unknown[0], "32x30 pixels, the others have 32x32", unknown[1]])


def test_labels_in_folders_of_other_names(run, capsys):
    """reproduce gives every kind of labels its folder."""
    (run / "labels").rename(run / "labels_prism2")
    (run / LABELS.replace("labels", "labels_prism2")).unlink()
    assert_found(problems(run, capsys), ["labels_prism2: epoch 1 of 2 missing"])


def test_two_folders(root, run, capsys):
    """A problem of the first one does not hide the second one."""
    (run / IMAGE).unlink()
    with pytest.raises(SystemExit):
        check([str(run), str(root / "run")])
    text = capsys.readouterr().out
    assert f"{run}: 3 problems\n" in text
    assert f"{root / 'run'}: no problem\n" in text


def test_bad_arguments(tmp_path):
    with pytest.raises(UserError, match="is no run folder"):
        check([str(tmp_path)])
    with pytest.raises(UserError, match="required: FOLDER"):
        check([])
