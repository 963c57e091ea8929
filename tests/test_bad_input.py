"""A user's mistakes at every stage, as the command line ends them: one sentence, exit status 2, nothing half-written.

The commands run in this process through run_entry, as `python -m` does; the last tests start true processes.
"""

import builtins
import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image

from data import datasets
from models import pretrain, pretrain_args
from recover import args as recover_args
from recover import data_synthesis
from relabel import args as relabel_args
from relabel import generate_soft_label
from utils import options
from utils.errors import run_entry
from utils.files import write_json
from validate import args as validate_args
from validate import train_fkd

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ("n01440764", "n01443537", "n01484850")
NET = "shufflenet_v2_x0_5"
MAIN = {"recover": data_synthesis.main, "relabel": generate_soft_label.main, "validate": train_fkd.main, "pretrain": pretrain.main}
PARSER = {"recover": recover_args, "relabel": relabel_args, "validate": validate_args, "pretrain": pretrain_args}
STAGES = list(MAIN)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Good and broken inputs by name, and the files that each stage makes of the good ones."""
    root = tmp_path_factory.mktemp("bad_input")
    tiny.image_folder(root / "train", CLASSES, 2, size=(40, 36))
    tiny.image_folder(root / "val", CLASSES, 2, size=(40, 36), seed=1)
    tiny.image_folder(root / "other_val", CLASSES[:2], 1, size=(40, 36))
    tiny.distilled_folder(root / "run", root / "train", CLASSES, 2)
    tiny.teacher_folder(root / "teachers", [NET, "squeezenet1_1"], CLASSES)
    tiny.teacher_folder(root / "teachers_of_four", [NET], ("a", "b", "c", "d"))
    for name in ("train", "val"):
        shutil.copytree(root / name, root / f"{name}_empty_class")
        shutil.rmtree(root / f"{name}_empty_class" / CLASSES[1])
        (root / f"{name}_empty_class" / CLASSES[1]).mkdir()
        shutil.copytree(root / name, root / f"{name}_corrupt")
        cut_short(root / f"{name}_corrupt" / CLASSES[2] / "img_001.JPEG")
    shutil.copytree(root / "train", root / "train_short")
    (root / "train_short" / CLASSES[1] / "img_001.JPEG").unlink()
    MAIN["relabel"](command("relabel", root, root / "labelled"))
    shutil.copytree(root / "labelled/labels", root / "run/labels")
    for name in ("corrupt", "empty_class", "changed", "fewer", "none_labelled"):
        shutil.copytree(root / "run", root / name)
    cut_short(root / "corrupt/images/new001/class001_id001.png")
    for image in (root / "empty_class/images/new001").iterdir():
        image.unlink()
    Image.new("RGB", (32, 32)).save(root / "changed/images/new001/class001_id001.png")
    (root / "fewer/images/new001/class001_id001.png").unlink()
    (root / "none_labelled/labels/epoch_001.safetensors").unlink()
    (root / "a_file").write_text("x")
    return root


@pytest.fixture(scope="module")
def whole(made):
    """{stage: {file: bytes}} of runs without mistakes."""
    found = {}
    for stage in STAGES:
        MAIN[stage](command(stage, made, made / f"whole_{stage}"))
        found[stage] = kept(made / f"whole_{stage}")
    return found


def cut_short(path):
    path.write_bytes(path.read_bytes()[:200])


def command(stage, made, out, *more):
    """Arguments that work, then those of a case: a later option wins."""
    own = {
        "recover": ["--train-dir", made / "train", "--image-size", 32, "--primary-teacher", NET, "--bn-slots", 0, "--ipc-end", 2,
                    "--iteration", 2, "--checkpoint-every", 1, "--teacher-weights", made / "teachers",
                    "--min-teacher-accuracy", 0],
        "relabel": ["--train-dir", made / "run/images", "--teachers", NET, "--teacher-weights", made / "teachers", "--epochs", 2,
                    "--batch-size", 4],
        "validate": ["--train-dir", made / "run/images", "--fkd-path", made / "run/labels", "--val-dir", made / "val",
                     "--student", NET, "--student-name", "s", "--epochs", 2, "--eval-every", 1],
        "pretrain": ["--train-dir", made / "train", "--val-dir", made / "val", "--image-size", 32, "--teachers", NET,
                     "--epochs", 2, "--batch-size", 3, "--lr", 0.01, "--save-seconds", 0],
    }[stage]
    run = ["--workers", 0 if stage == "pretrain" else 2, "--threads", 1, "--device", "cpu", "--output-dir", out]
    return [str(word) for word in (*own, *run, *more)]


def on_disk(out):
    """{relative name: bytes} of all files below a folder, hidden ones too."""
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()} if out.is_dir() else {}


def kept(out):
    """Those files that are the same in every run (no times in them), and names of all."""
    found = on_disk(out)
    return {name: data if name.endswith((".png", ".safetensors")) else None for name, data in found.items()}


def refused(stage, arguments, words, capsys):
    """Run a stage; it must end with status 2 and one sentence that holds `words` (a regular expression). Returns it."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        run_entry(MAIN[stage], arguments)
    assert exit_info.value.code == 2
    return one_sentence(capsys.readouterr().err, words)


def one_sentence(stderr, words):
    assert "Traceback" not in stderr
    lines = [line for line in re.split(r"[\r\n]", stderr) if "error: " in line]
    assert len(lines) == 1, stderr
    assert stderr.endswith(lines[0] + "\n")
    assert lines[0].startswith("error: ")
    assert lines[0].endswith((".", "?", "lists the options)"))
    assert re.search(words, lines[0]), lines[0]
    assert ".tmp" not in lines[0]
    return lines[0]


def works(stage, made, out, whole, *more):
    """The corrected command succeeds in the same folder and leaves what a run without mistakes leaves."""
    run_entry(MAIN[stage], command(stage, made, out, *more))
    assert kept(out) == whole[stage]


# stage, what is wrong, options ({} is the folder of inputs), what the sentence says
CASES = [
    ("recover", "wrong path", "--train-dir {}/nowhere", "/nowhere: no such folder. Expected one sub-folder of images per class"),
    ("recover", "a file as path", "--train-dir {}/a_file", "/a_file: no such folder"),
    ("recover", "wrong path of weights", "--teacher-weights {}/nowhere", "no such folder of teacher weights. Train teachers with"),
    ("recover", "name too long", "--train-dir {}/" + "x" * 300, "x: (this name is too long. Choose a shorter one|no such folder)"),
    ("relabel", "wrong path", "--train-dir {}/nowhere", "/nowhere: no such folder"),
    ("relabel", "wrong path of weights", "--teacher-weights {}/nowhere", "no such folder of teacher weights"),
    ("validate", "wrong path", "--train-dir {}/nowhere", "/nowhere: no such folder"),
    ("validate", "wrong path of test images", "--val-dir {}/nowhere", "/nowhere: no such folder"),
    ("validate", "wrong path of labels", "--fkd-path {}/nowhere", "nowhere/labels.json: not found. It is written by relabel"),
    ("validate", "wrong path of a student", "--evaluate {}/nowhere.safetensors", "nowhere.safetensors: no such file"),
    ("validate", "a folder as student", "--evaluate {}/train", "train: damaged or not safe to load"),
    ("validate", "wrong path of weights", "--labels online --teacher-weights {}/nowhere", "no such folder of teacher weights"),
    ("pretrain", "wrong path", "--train-dir {}/nowhere", "/nowhere: no such folder"),
    ("pretrain", "wrong path of test images", "--val-dir {}/nowhere", "/nowhere: no such folder"),
    ("recover", "empty class", "--train-dir {}/train_empty_class", f"no images in 1 of 3 class folders, the first is {CLASSES[1]}. "
                                                                   "Add images or remove the folder"),
    ("relabel", "empty class", "--train-dir {}/empty_class/images", "no images in 1 of 3 class folders, the first is new001"),
    ("validate", "empty class", "--train-dir {}/empty_class/images", "no images in 1 of 3 class folders, the first is new001"),
    ("validate", "empty test class", "--val-dir {}/val_empty_class", f"no images in 1 of 3 .* the first is {CLASSES[1]}"),
    ("pretrain", "empty class", "--train-dir {}/train_empty_class", f"no images in 1 of 3 .* the first is {CLASSES[1]}"),
    ("pretrain", "empty test class", "--val-dir {}/val_empty_class", f"no images in 1 of 3 .* the first is {CLASSES[1]}"),
    ("recover", "short class", "--train-dir {}/train_short", f"class {CLASSES[1]} has 1 images, IPC slice 1 needs 2. Lower "
                                                             "--ipc-end, add images, or give --allow-short-classes"),
    ("recover", "all classes short", "--ipc-start 2 --ipc-end 3 --allow-short-classes", "no class has an image"),
    ("recover", "corrupt image", "--train-dir {}/train_corrupt --ipc-start 1", "img_001.JPEG: not a readable .*[Rr]eplace"),
    ("recover", "corrupt image, teacher measured", "--train-dir {}/train_corrupt --min-teacher-accuracy 1", "img_001.JPEG: not a"),
    ("relabel", "corrupt image", "--train-dir {}/corrupt/images", "new001/class001_id001.png: not a readable image .*[Rr]eplace"),
    ("validate", "corrupt image", "--train-dir {}/corrupt/images", "an image of .*/corrupt/images was renamed or changed since"),
    ("validate", "corrupt image, hard labels", "--train-dir {}/corrupt/images --loss-type ce", "class001_id001.png: not a"),
    ("validate", "corrupt test image", "--val-dir {}/val_corrupt", f"{CLASSES[2]}/img_001.JPEG: not a readable image .*[Rr]eplace"),
    ("pretrain", "corrupt image", "--train-dir {}/train_corrupt", f"{CLASSES[2]}/img_001.JPEG: not a readable image .*[Rr]eplace"),
    ("pretrain", "corrupt image, workers", "--train-dir {}/train_corrupt --workers 1", r"error: /\S*/img_001.JPEG: not a readable"),
    ("pretrain", "corrupt test image", "--val-dir {}/val_corrupt", f"{CLASSES[2]}/img_001.JPEG: not a readable image .*[Rr]eplace"),
    ("recover", "unknown network", "--primary-teacher resnet81", "resnet81: no such network. Did you mean resnet18"),
    ("recover", "unknown network in the pool", "--bn-teachers shufflenet", "shufflenet: no such network. Did you mean shuffle"),
    ("relabel", "unknown network", "--teachers timm/resnet81", "timm/resnet81: no such network. Did you mean timm/resnet"),
    ("validate", "unknown network", "--student mobilenetv2", "mobilenetv2: no such network. Did you mean mobilenet_v2"),
    ("validate", "unknown online", "--evaluate {}/teachers/x.pth --student resnt18", "x.pth: no such file"),
    ("pretrain", "unknown network", "--teachers qqqq", "qqqq: no such network. Give a torchvision name such as resnet18"),
    ("recover", "teacher's classes", "--teacher-weights {}/teachers_of_four", "the teacher has 4 classes, the data has 3. Choose"),
    ("relabel", "teacher's classes", "--teacher-weights {}/teachers_of_four", "the teacher has 4 classes, the data has 3. Choose"),
    ("validate", "teacher's classes", "--labels online --teacher-weights {}/teachers_of_four", "the teacher has 4 classes,"),
    ("validate", "student's classes", f"--evaluate {{}}/teachers_of_four/{NET}.safetensors", "4 that were distilled|has 4 classes"),
    ("validate", "test classes", "--val-dir {}/other_val", "has 2 class folders, expected the 3 that were distilled: 1 missing"),
    ("pretrain", "test classes", "--val-dir {}/other_val", "has 2 class folders, expected the 3 "),
    ("relabel", "other images", "--train-dir {}/changed/images --fkd-path {}/run/labels", "labels.json: was made with images = "),
    ("validate", "changed image", "--train-dir {}/changed/images", "/changed/images was renamed or changed.* Put the images back"),
    ("validate", "removed image", "--train-dir {}/fewer/images", "labels are for 6 images, .*/images has 5: images were removed"),
    ("validate", "missing epoch", "--epochs 3", "2 of 3 epochs, the first missing is epoch 2. Was relabel stopped.*--epochs 3"),
    ("validate", "missing epoch file", "--fkd-path {}/none_labelled/labels", "1 of 2 epochs, the first missing is epoch 1"),
    ("relabel", "other batch size", "--fkd-path {}/run/labels --batch-size 5", "was made with batch_size = 4, now batch_size = 5"),
    ("validate", "other batch size", "--batch-size 5", "made with --batch-size 4, found --batch-size 5. Leave it out, or run"),
    ("recover", "too small for a teacher", "--primary-teacher squeezenet1_1 --image-size 8", "1_1: cannot take images of 8 px"),
    ("relabel", "teachers without weights", "--teachers resnet18", "/teachers: no resnet18.safetensors .or .pth.; found shuffle"),
    ("pretrain", "batches of one", "--batch-size 1", f"{NET}: --batch-size 1 and 6 training images .* BatchNorm needs more. Raise"),
]


@pytest.mark.parametrize(("stage", "more", "words"), [pytest.param(stage, more, words, id=f"{stage}: {name}")
                                                      for stage, name, more, words in CASES])
def test_refused(made, tmp_path, capsys, stage, more, words):
    inputs = on_disk(made / "run")
    refused(stage, command(stage, made, tmp_path / "out", *more.replace("{}", str(made)).split()), words, capsys)
    manifests = {"recover": {"images.json"}, "pretrain": {f"{NET}.json"}}.get(stage, set())  # whole, and no hindrance: see below
    assert not set(on_disk(tmp_path / "out")) - manifests - ({f"{NET}.state.pt"} if "val_corrupt" in more else set())
    assert on_disk(made / "run") == inputs


NUMBERS = {options.positive_int: ("0", "-1"), options.positive_float: ("0", "-1", "nan"), options.count: ("-1",),
           options.positive_fraction: ("0", "-0.5", "2"), options.weight: ("-1", "inf"), options.fraction: ("-0.1", "1.1"),
           validate_args.decay: ("-0.1", "1.1")}
NO_NUMBERS = {None, options.path, options.shard, validate_args.folder_name, validate_args.rand_augment,
              validate_args.folder_or_none, pretrain_args.initialisation}


@pytest.mark.parametrize("stage", STAGES)
def test_negative_and_zero_numbers(made, tmp_path, capsys, stage):
    """Every option of every stage that takes a number, as the parser lists them."""
    checked = set()
    for action in PARSER[stage].get_args_parser()._actions:
        of_a_net = isinstance(action, pretrain_args._PerNet)
        kind, (option, *_) = action.kind if of_a_net else action.type, action.option_strings
        kind = getattr(kind, "number", kind)  # of a type that also takes the name of a rule
        assert kind in NO_NUMBERS or kind in NUMBERS, f"{option}: how is its number checked?"
        for value in NUMBERS.get(kind, ()):
            given = f"{NET}={value}" if of_a_net else value
            words = f"{option}( for {NET})?: found {value}, expected (at least|more than) .*--help lists the options"
            refused(stage, command(stage, made, tmp_path / "out", option, given), words, capsys)
            checked.add(option)
    assert checked >= {"--threads", "--workers"}
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", ["0", "-64", f"{NET}=0"])
def test_zero_sides(made, tmp_path, capsys, value):
    refused("validate", command("validate", made, tmp_path, f"--input-resize={value}"), "expected a side in pixels", capsys)


def corrected(made, tmp_path, stage):
    """A copy of the inputs with one image cut short: its options, that image, and the whole one."""
    shutil.copytree(made / ("run" if stage == "relabel" else "train"), tmp_path / "mine")
    broken = next(p for p in sorted((tmp_path / "mine").rglob("*_*01.*")) if p.suffix in (".png", ".JPEG"))
    good = broken.read_bytes()
    cut_short(broken)
    return ["--train-dir", tmp_path / "mine" / ("images" if stage == "relabel" else "")], broken, good


@pytest.mark.parametrize("stage", ["recover", "relabel", "pretrain"])
def test_works_once_the_corrupt_image_is_replaced(made, whole, tmp_path, capsys, stage):
    more, broken, good = corrected(made, tmp_path, stage)
    refused(stage, command(stage, made, tmp_path / "out", *more), "Remove or replace this file", capsys)
    broken.write_bytes(good)
    works(stage, made, tmp_path / "out", whole, *more)


@pytest.mark.parametrize("stage", ["relabel", "pretrain"])
def test_works_once_the_corrupt_image_is_removed(made, tmp_path, capsys, stage):
    more, broken, _ = corrected(made, tmp_path, stage)
    refused(stage, command(stage, made, tmp_path / "out", *more), "Remove or replace this file", capsys)
    broken.unlink()
    run_entry(MAIN[stage], command(stage, made, tmp_path / "out", *more))


def test_short_classes_may_be_allowed(made, tmp_path):
    run_entry(MAIN["recover"], command("recover", made, tmp_path, "--train-dir", made / "train_short", "--allow-short-classes"))
    assert [p.name for p in sorted((tmp_path / "images").rglob("*_id001.png"))] == ["class000_id001.png", "class002_id001.png"]


def no_half_files(stage, out, whole):
    """All that is there belongs to a whole run, and images and labels have its bytes."""
    found = kept(out)
    unfinished = {n for n in found if n.endswith("state.pt") or Path(n).name.startswith("unfinished_")}
    assert set(found) - unfinished <= set(whole[stage])
    for name, data in found.items():
        if name.startswith(("images/", "labels/")):
            assert data == whole[stage][name]
    records = len(list(out.glob("units/slice*.json")))
    assert len(list(out.glob("images/*/*"))) in ({0, 3 * records, 3 * records + 3} if stage == "recover" else {0})


@pytest.mark.parametrize("stage", STAGES)
def test_full_disk_at_every_write(made, whole, tmp_path, capsys, monkeypatch, stage):
    """The disk is full at the first write, after that is mended at the second of the next start, and so on to the end."""
    sync, writes = os.fsync, []

    def full(descriptor):
        writes.append(1)
        if len(writes) > survive:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    for survive in range(40):  # noqa: B007 - read by full
        writes.clear()
        status = 0
        try:
            run_entry(MAIN[stage], command(stage, made, tmp_path))
        except SystemExit as end:
            status = end.code
        if status == 0:
            break
        assert status == 2
        one_sentence(capsys.readouterr().err, rf"error: {tmp_path}/\S+: the disk is full. Free some space and run the same")
        no_half_files(stage, tmp_path, whole)
    assert survive >= 3
    assert kept(tmp_path) == whole[stage]


def test_full_disk_at_a_line_of_metrics(made, whole, tmp_path, capsys, monkeypatch):
    """metrics.jsonl is the one file that is added to."""
    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, text):
            self.file.write(text[:7])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    real = builtins.open
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", lambda path, mode="r", *more, **kw: Full(real(path, mode, *more, **kw)) if mode == "a"
                      else real(path, mode, *more, **kw))
        refused("validate", command("validate", made, tmp_path), "the disk is full", capsys)
    assert (tmp_path / "students/s/metrics.jsonl").read_bytes() == b""
    works("validate", made, tmp_path, whole)


# the largest file that the system lets a stage write: what its libraries make of a write that fails
LIMITS = [("recover", 64, "unfinished_slice00000_chunk000.safetensors"), ("relabel", 16, "preview.png"),
          ("validate", 256, "best.safetensors"), ("validate", 2048, "state.pt"), ("pretrain", 256, "state.pt"),
          ("pretrain", 1024, "safetensors")]


@pytest.mark.parametrize(("stage", "limit", "name"), LIMITS)
def test_file_larger_than_allowed(made, whole, tmp_path, capsys, stage, limit, name):
    more = ["--save-seconds", "1000"] if name == "safetensors" else []
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit * 1024, before[1]))
    try:
        refused(stage, command(stage, made, tmp_path, *more), f"{name}: the file is larger than allowed here", capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    no_half_files(stage, tmp_path, whole)
    works(stage, made, tmp_path, whole)


@pytest.fixture
def small_disk(tmp_path):
    """A file system in memory: .folder, and .set(options) to mount it again. Where that is not permitted, a skip."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(given):
        how = ["-o", f"remount,{given}"] if os.path.ismount(folder) else ["-t", "tmpfs", "-o", given]
        try:
            done = subprocess.run(["mount", *how, "tmpfs", folder], capture_output=True, text=True)
        except OSError as error:
            pytest.skip(f"no mount here ({error})")
        if done.returncode:
            pytest.skip(f"a small file system cannot be mounted here ({done.stderr.strip()})")

    mount("size=16m")
    yield Namespace(folder=folder, set=mount)
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize(("stage", "size", "name"), [
    ("recover", "40k", "unfinished_slice00000_chunk000.safetensors"), ("relabel", "24k", "preview.png"),
    ("validate", "1m", "best.safetensors"), ("validate", "4m", "state.pt"), ("pretrain", "1m", "state.pt")])
def test_full_disk(made, whole, small_disk, capsys, monkeypatch, stage, size, name):
    """Something else fills the disk while the stage runs."""
    monkeypatch.setattr("utils.files.free_bytes", lambda _: 1 << 40)
    small_disk.set(f"size={size}")
    refused(stage, command(stage, made, small_disk.folder), f"{name}: the disk is full. Free some space", capsys)
    no_half_files(stage, small_disk.folder, whole)
    small_disk.set("size=16m")
    works(stage, made, small_disk.folder, whole)


@pytest.mark.parametrize("stage", STAGES)
def test_disk_without_a_free_byte(made, small_disk, capsys, stage):
    small_disk.set("size=8k")
    (small_disk.folder / "other").write_bytes(bytes(8192))
    refused(stage, command(stage, made, small_disk.folder), "cannot be written .No space left on device.. Choose another", capsys)
    assert list(on_disk(small_disk.folder)) == ["other"]


def test_labels_that_the_disk_has_no_room_for_are_foreseen(made, whole, small_disk, capsys):
    small_disk.set("size=100k")
    words = "5000 epochs of labels take .* the disk has .* free. Choose another --fkd-path, .* --label-store none"
    refused("relabel", command("relabel", made, small_disk.folder, "--epochs", "5000"), words, capsys)
    assert on_disk(small_disk.folder) == {}
    small_disk.set("size=16m")
    works("relabel", made, small_disk.folder, whole)


@pytest.mark.parametrize(("stage", "size", "words"), [
    ("recover", "100k", "about .* kB will be written, the disk has .* kB free. Choose another --output-dir, a smaller --ipc-end"),
    ("validate", "1m", "about .* MB will be written, the disk has .* free. Free some space, or choose another --output-dir")])
def test_a_disk_that_is_too_small_is_foreseen(made, whole, small_disk, capsys, stage, size, words):
    small_disk.set(f"size={size}")
    refused(stage, command(stage, made, small_disk.folder), words, capsys)
    assert on_disk(small_disk.folder) == {}
    small_disk.set("size=64m")
    works(stage, made, small_disk.folder, whole)


@pytest.mark.parametrize(("stage", "where", "words"), [
    ("recover", "recover.data_synthesis.print_plan", "Found --units-per-step 4, try --units-per-step 2: fewer units"),
    ("relabel", "relabel.generate_soft_label.Labelling.run", "Found --batch-size 4, try --batch-size 2: the student"),
    ("validate", "validate.training.Training.one_epoch", "Found --micro-batches together, try --micro-batches apart: a pass for"),
    ("pretrain", "models.pretrain.train_epoch", f"Try --batch-size-for {NET}=1 .found 3., after removing {NET}.json")])
def test_out_of_gpu_memory_names_what_to_try(made, tmp_path, capsys, monkeypatch, stage, where, words):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(where, full)
    more = ["--units-per-step", "4"] if stage == "recover" else []
    refused(stage, command(stage, made, tmp_path, *more), f"error: out of GPU memory. {words}", capsys)


def test_a_killed_data_worker(made, whole, tmp_path, capsys, monkeypatch):
    """SIGKILL of a process that decodes images, as the kernel sends it when memory runs out."""
    here, real = os.getpid(), datasets.decode

    def killed(path):
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(datasets, "decode", killed)
        refused("pretrain", command("pretrain", made, tmp_path, "--workers", "1"),
                "error: a process that decodes images was killed, .* Give fewer --workers", capsys)
    works("pretrain", made, tmp_path, whole)


@pytest.mark.parametrize("stage", STAGES)
def test_no_write_permission(made, whole, tmp_path, capsys, monkeypatch, small_disk, stage):
    """Folders below a file, a read-only file system, and what a user who is not root is told."""
    refused(stage, command(stage, made, made / "a_file/out"), "cannot be written .Not a directory.. Choose another folder", capsys)
    small_disk.set("ro")
    refused(stage, command(stage, made, small_disk.folder), "cannot be written .Read-only file system.. Choose another", capsys)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", lambda path, *_, **__: deny(path))
        refused(stage, command(stage, made, tmp_path / "out"), "out.*: cannot be written .Permission denied.. Choose", capsys)
    assert not (tmp_path / "out").exists()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda source, target: deny(source, target))
        refused(stage, command(stage, made, tmp_path / "out"), r"out/\S+: no permission. Choose another folder or change", capsys)
    no_half_files(stage, tmp_path / "out", whole)
    works(stage, made, tmp_path / "out", whole)


def deny(path, target=None):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path), None, target and str(target))


@pytest.mark.parametrize(("stage", "number"), [("recover", errno.EACCES), ("validate", errno.ENOENT), ("pretrain", errno.EACCES)])
def test_an_image_that_cannot_be_opened(made, tmp_path, capsys, monkeypatch, stage, number):
    def unreadable(path, *_):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Image, "open", unreadable)
    words = rf"\.(JPEG|png): cannot be read .{os.strerror(number)}.. Put it back, or give permission"
    refused(stage, command(stage, made, tmp_path / "out", *(["--workers", "1"] if stage == "pretrain" else [])), words, capsys)


@pytest.mark.parametrize(("stage", "place"), [("recover", "images"), ("relabel", "labels"), ("validate", "students")])
def test_a_file_in_the_place_of_a_folder(made, tmp_path, capsys, stage, place):
    (tmp_path / place).write_text("x")
    refused(stage, command(stage, made, tmp_path), f"{place}\\S*: .*(another folder|expected a folder)", capsys)
    assert (tmp_path / place).read_text() == "x"


def test_images_json_of_another_program(made, tmp_path, capsys):
    shutil.copytree(made / "run", tmp_path / "run")
    write_json(tmp_path / "run/images.json", {"identity": {}})
    for stage in ("relabel", "validate"):
        refused(stage, command(stage, made, tmp_path / "out", "--train-dir", tmp_path / "run/images"), "images.json: does not say",
                capsys)


@pytest.mark.parametrize(("module", "stage", "before", "more", "words"), [
    ("models.pretrain", "pretrain", "", ["--train-dir", "train_corrupt", "--workers", "2"], "img_001.JPEG: not a readable image"),
    ("relabel.generate_soft_label", "relabel", "ulimit -f 32;", [], "labels/preview.png: the file is larger than allowed"),
])
def test_as_a_process(made, tmp_path, module, stage, before, more, words):
    """Paths are relative to the folder the command was typed in."""
    line = ["sh", "-c", f'{before} exec "$0" -m {module} "$@"', sys.executable, *command(stage, made, tmp_path / "out", *more)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "CALLER_DIR": str(made)})
    assert done.returncode == 2
    one_sentence(done.stderr, words)
    assert not {n for n in on_disk(tmp_path / "out") if not n.endswith(".json")}
