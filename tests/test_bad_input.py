"""A user's mistakes at every stage: one sentence, exit status 2, nothing half-written.

The commands run in this process through run_entry, as `python -m` does.
"""

import importlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys

import pytest
import tiny
import torch
from PIL import Image
from stages import CLASSES, MODULES, NET, ROOT, STAGES, command, contents, main_of, make_inputs

from data import image_set
from utils import options
from utils.errors import run_entry

OPTIONS = {"recover": "recover.options", "relabel": "relabel.options",
           "validate": "validate.options", "pretrain": "models.pretrain_options"}


def cut_short(path):
    path.write_bytes(path.read_bytes()[:200])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Good inputs, and variants of them with one thing wrong."""
    root = make_inputs(tmp_path_factory.mktemp("bad_input"))
    tiny.image_folder(root / "two_classes", CLASSES[:2], 1, size=(40, 36))
    tiny.teacher_folder(root / "of_four", [NET], ("a", "b", "c", "d"))
    tiny.teacher_folder(root / "squeezenet", ["squeezenet1_1"], CLASSES)
    second = {"train": f"{CLASSES[1]}/img_001.JPEG", "val": f"{CLASSES[1]}/img_001.JPEG",
              "run": "images/new001/class001_id001.png"}
    for name, image in second.items():
        for mistake in ("empty", "short", "corrupt", "changed"):
            shutil.copytree(root / name, root / f"{mistake}_{name}")
        for path in (root / f"empty_{name}" / image).parent.iterdir():
            path.unlink()
        (root / f"short_{name}" / image).unlink()
        cut_short(root / f"corrupt_{name}" / image)
        Image.new("RGB", (32, 32)).save(root / f"changed_{name}" / image)
    return root


def refused(stage, arguments, sentence, capsys):
    """Run a stage, which must end with status 2 and one sentence (a regular expression)."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as raised:
        run_entry(main_of(stage), arguments)
    assert raised.value.code == 2
    check_sentence(capsys.readouterr().err, sentence)


def check_sentence(stderr, sentence):
    """Exactly one line of stderr is an error, the last one, and it says `sentence`."""
    assert "Traceback" not in stderr
    lines = re.split(r"[\r\n]+", stderr.strip())
    assert [line for line in lines if "error: " in line] == lines[-1:]
    assert lines[-1].startswith("error: ")
    assert lines[-1].endswith((".", "?", "lists the options)"))
    assert ".tmp" not in lines[-1]
    assert re.search(sentence, lines[-1]), lines[-1]


# {stage: [(options, sentence)]}; a path with a slash lies in the folder of inputs
CASES = {
    "recover": [
        ("--train-dir ./no", "/no: no such folder. Expected one sub-folder of images per class"),
        ("--teacher-weights ./no", "no such folder of teacher weights. Train teachers with"),
        ("--train-dir ./empty_train", f"no images in 1 of 3 .* is {CLASSES[1]}. Add images or"),
        ("--train-dir ./short_train", f"class {CLASSES[1]} has 1 images, IPC slice 1 needs 2. "
                                      "Lower --ipc-end, add images, or give --allow-short"),
        ("--train-dir ./corrupt_train", "img_001.JPEG: not a readable image .* Remove or replace"),
        ("--primary-teacher resnet81", "resnet81: no such network. Did you mean resnet18"),
        ("--teacher-weights ./of_four", "the teacher has 4 classes, the data has 3. Choose"),
        ("--teacher-weights ./squeezenet --primary-teacher squeezenet1_1 --image-size 8",
         "squeezenet1_1: cannot take images of 8 px"),
    ],
    "relabel": [
        ("--train-dir ./no", "/no: no such folder of distilled images. Run recover first"),
        ("--train-dir ./empty_run/images", "no images in 1 of 3 .* the first is new001"),
        ("--train-dir ./corrupt_run/images", "class001_id001.png: not a readable image"),
        ("--teachers timm/resnet81", "timm/resnet81: no such network. Did you mean timm/resnet"),
        ("--teachers resnet18", "/teachers: no resnet18.safetensors .or .pth.; found shuffle"),
        ("--teacher-weights ./of_four", "the teacher has 4 classes, the data has 3. Choose"),
        ("--train-dir ./changed_run/images --fkd-path ./run/labels", "was made with images = "),
        ("--fkd-path ./run/labels --batch-size 5", "batch_size = 4, now batch_size = 5. Give the"),
    ],
    "validate": [
        ("--train-dir ./no", "/no: no such folder of distilled images. Run recover first"),
        ("--val-dir ./no", "/no: no such folder. Expected one sub-folder of images per class"),
        ("--fkd-path ./no", "no/labels.json: not found. It is written by relabel"),
        ("--evaluate ./no.safetensors", "no.safetensors: no such file"),
        ("--train-dir ./empty_run/images", "no images in 1 of 3 .* the first is new001"),
        ("--val-dir ./empty_val", f"no images in 1 of 3 .* the first is {CLASSES[1]}"),
        ("--train-dir ./corrupt_run/images --loss-type ce", "class001_id001.png: not a readable"),
        ("--val-dir ./corrupt_val", "img_001.JPEG: not a readable image .* Remove or replace"),
        ("--student mobilenetv2", "mobilenetv2: no such network. Did you mean mobilenet_v2"),
        (f"--evaluate ./of_four/{NET}.safetensors", "expected the 4|has 4 classes"),
        ("--val-dir ./two_classes", "has 2 class folders, expected the 3 that were distilled"),
        ("--train-dir ./changed_run/images", "renamed or changed since .* Put the images back"),
        ("--train-dir ./short_run/images", "labels are for 6 images, .*/images has 5"),
        ("--epochs 4", "3 of 4 epochs, the first missing is epoch 3. Was relabel.* --epochs 4"),
        ("--batch-size 5", "made with --batch-size 4, found --batch-size 5. Leave it out, or run"),
        ("--input-resize 0", "expected a side in pixels"),
    ],
    "pretrain": [
        ("--train-dir ./no", "/no: no such folder"),
        ("--train-dir ./empty_train", f"no images in 1 of 3 .* the first is {CLASSES[1]}"),
        ("--train-dir ./corrupt_train", "img_001.JPEG: not a readable image .* Remove or replace"),
        ("--val-dir ./corrupt_val", "img_001.JPEG: not a readable image .* Remove or replace"),
        ("--teachers qqqq", "qqqq: no such network. Give a torchvision name such as resnet18"),
        ("--val-dir ./two_classes", "has 2 class folders, expected the 3 that were distilled"),
        ("--batch-size 1", f"{NET}: --batch-size 1 and 6 .* BatchNorm needs more. Raise"),
        (f"--epochs-for {NET}=0", f"--epochs-for: for {NET}: found 0, expected at least 1"),
    ],
}
# What a stage has written before it can meet a mistake; it is whole and hinders nothing.
HARMLESS = {"images.json", f"{NET}.json", f"{NET}.state.pt"}


@pytest.mark.parametrize(("stage", "more", "sentence"),
                         [(stage, *case) for stage in CASES for case in CASES[stage]])
def test_refused(made, tmp_path, capsys, monkeypatch, stage, more, sentence):
    monkeypatch.setenv("CALLER_DIR", str(made))
    refused(stage, command(stage, made, tmp_path / "out", *more.split()), sentence, capsys)
    assert set(contents(tmp_path / "out")) <= HARMLESS


# A number that no option of this type takes
BAD = {options.positive_int: "0", options.seed: "-1", options.thread_count: "1025",
       options.worker_count: "1025", options.positive_float: "nan", options.count: "-1",
       options.positive_fraction: "0", options.weight: "-1", options.fraction: "1.1"}


@pytest.mark.parametrize("stage", STAGES)
def test_every_number_is_checked(made, tmp_path, capsys, stage):
    module = importlib.import_module(OPTIONS[stage])
    checked = set()
    for field in options.option_fields(module.Options):
        flag, kind = options.flag(field.name), field.metadata["argument"].get("type")
        kind = getattr(kind, "number", kind)  # of a type that takes names of rules as well
        if kind in BAD:
            sentence = f"{flag}: found {BAD[kind]}, expected (at least|more than)"
            refused(stage, command(stage, made, tmp_path, flag, BAD[kind]), sentence, capsys)
            checked.add(flag)
        else:
            assert kind not in (int, float), f"{flag}: is any number good?"
    assert checked >= {"--threads", "--workers"}


@pytest.mark.parametrize("stage", ["recover", "relabel", "pretrain"])
def test_works_once_the_corrupt_image_is_replaced(made, tmp_path, capsys, stage):
    source = made / ("run/images" if stage == "relabel" else "train")
    images = shutil.copytree(source, tmp_path / "images")
    broken = sorted(path for path in images.rglob("*") if path.is_file())[-1]
    good = broken.read_bytes()
    cut_short(broken)

    arguments = command(stage, made, tmp_path / "out", "--train-dir", images)
    refused(stage, arguments, f"{broken}: not a readable image", capsys)
    broken.write_bytes(good)
    run_entry(main_of(stage), arguments)
    main_of(stage)(command(stage, made, tmp_path / "whole", "--train-dir", images))
    assert contents(tmp_path / "out").keys() == contents(tmp_path / "whole").keys()


# The disk

@pytest.mark.parametrize(("stage", "limit", "name"), [
    ("recover", 64, "unfinished_slice.*safetensors"), ("relabel", 16, "preview.png"),
    ("validate", 2048, "state.pt"), ("pretrain", 256, "state.pt")])
def test_a_write_that_fails(made, tmp_path, capsys, stage, limit, name):
    """The system lets no file become larger than `limit` kB, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit * 1024, before[1]))
    try:
        refused(stage, command(stage, made, tmp_path / "out"),
                f"{name}: the file is larger than allowed here", capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / "out").rglob("*.tmp"))
    run_entry(main_of(stage), command(stage, made, tmp_path / "out"))
    main_of(stage)(command(stage, made, tmp_path / "whole"))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize(("stage", "advice"), [
    ("recover", "Choose another --output-dir, a smaller --ipc-end"), ("relabel", "fewer --epochs"),
    ("validate", "Free some space, or choose another --output-dir")])
def test_a_disk_that_is_too_small_is_foreseen(made, tmp_path, capsys, monkeypatch, stage, advice):
    monkeypatch.setattr("utils.files.free_bytes", lambda _: 100)
    sentence = f"about .* will be written, the disk has .* free. .*{advice}"
    refused(stage, command(stage, made, tmp_path / "out"), sentence, capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stage", STAGES)
def test_a_folder_below_a_file(made, tmp_path, capsys, stage):
    (tmp_path / "file").write_text("x")
    sentence = "cannot be written .Not a directory.. Choose another folder"
    refused(stage, command(stage, made, tmp_path / "file/out"), sentence, capsys)


# Memory

@pytest.mark.parametrize(("stage", "step", "advice"), [
    ("recover", "recover.inversion.print_plan", "--units-per-step 2, try --units-per-step 1: few"),
    ("relabel", "relabel.labelling.Labelling.run", "--batch-size 4, try --batch-size 2: the stud"),
    ("validate", "validate.training.Training.one_epoch", "try --micro-batches apart: a pass for"),
    ("pretrain", "models.teacher_epochs.train_step", f"Try --batch-size-for {NET}=1 .found 3")])
def test_a_full_gpu_names_what_to_try(made, tmp_path, capsys, monkeypatch, stage, step, advice):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(step, full)
    sentence = f"error: out of GPU memory. .*{advice}"
    refused(stage, command(stage, made, tmp_path), sentence, capsys)


def test_a_killed_data_worker(made, tmp_path, capsys, monkeypatch):
    """SIGKILL of a process that decodes images, as the kernel sends it when memory runs out."""
    parent, decode = os.getpid(), image_set.decode

    def killed(path):
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(path)

    monkeypatch.setattr(image_set, "decode", killed)
    sentence = "error: a process that decodes images was killed, .* Give fewer --workers"
    refused("pretrain", command("pretrain", made, tmp_path, "--workers", 1, "--augment", "crop"),
            sentence, capsys)


def test_as_a_process(made, tmp_path):
    """Paths are relative to the folder that the command was typed in."""
    arguments = command("pretrain", made, tmp_path, "--train-dir", "corrupt_train", "--workers", 2)
    done = subprocess.run([sys.executable, "-m", MODULES["pretrain"], *arguments], cwd=ROOT,
                          env={**os.environ, "CALLER_DIR": str(made)}, capture_output=True,
                          text=True)
    assert done.returncode == 2
    check_sentence(done.stderr, f"{made}/corrupt_train/.*img_001.JPEG: not a readable image")
