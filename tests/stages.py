"""The four stages on tiny inputs: their commands, and what they leave on disk."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import tiny

ROOT = Path(__file__).resolve().parents[1]
CLASSES = tiny.WNIDS
NET = "shufflenet_v2_x0_5"
MODULES = {"pretrain": "models.pretrain", "recover": "recover.data_synthesis",
           "relabel": "relabel.generate_soft_label", "validate": "validate.train_fkd"}
STAGES = tuple(MODULES)


def main_of(stage):
    """The main(argv) of a stage."""
    return importlib.import_module(MODULES[stage]).main


def make_inputs(root):
    """Real images, a teacher, and a run folder with images and their labels. Returns root."""
    tiny.image_folder(root / "train", CLASSES, 2, size=(40, 36))
    tiny.image_folder(root / "val", CLASSES, 2, size=(40, 36), seed=1)
    tiny.teacher_folder(root / "teachers", [NET], CLASSES)
    tiny.distilled_folder(root / "run", root / "train", CLASSES, 2)
    main_of("relabel")(command("relabel", root, root / "run"))
    return root


def command(stage, inputs, out, *more):
    """Arguments of a stage that works in the folder `out` on make_inputs's files.

    more: further arguments; a later option wins.
    """
    own = {
        "pretrain": ["--train-dir", inputs / "train", "--val-dir", inputs / "val", "--image-size",
                     32, "--teachers", NET, "--epochs", 3, "--batch-size", 3, "--lr", 0.01,
                     "--save-seconds", 0, "--workers", 0],
        "recover": ["--train-dir", inputs / "train", "--teacher-weights", inputs / "teachers",
                    "--image-size", 32, "--primary-teacher", NET, "--bn-slots", 0, "--ipc-end", 2,
                    "--iteration", 4, "--checkpoint-every", 1, "--units-per-step", 2,
                    "--min-teacher-accuracy", 0, "--workers", 1],
        "relabel": ["--train-dir", inputs / "run/images", "--teacher-weights", inputs / "teachers",
                    "--teachers", NET, "--epochs", 3, "--batch-size", 4, "--workers", 1],
        "validate": ["--train-dir", inputs / "run/images", "--fkd-path", inputs / "run/labels",
                     "--val-dir", inputs / "val", "--student", NET, "--student-name", "s",
                     "--epochs", 3, "--eval-every", 1, "--workers", 1],
    }[stage]
    return [str(word) for word in (*own, "--threads", 1, "--device", "cpu", "--output-dir", out,
                                   *more)]


def start(*words):
    """A process of this Python, whose output is piped."""
    return subprocess.Popen([sys.executable, *map(str, words)], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def end(process, status=0):
    """Wait for a process, check its exit status, and return what it printed."""
    text = process.communicate(timeout=300)[0]
    assert process.returncode == status, text
    return text


def contents(out):
    """{name: content} of all files below a folder, hidden ones too.

    JSON is given without the seconds that the work took, anything else as bytes.
    """
    files = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.suffix == ".json":
            files[name] = without_seconds(json.loads(path.read_text()))
        elif path.suffix == ".jsonl":
            lines = path.read_text().splitlines()
            files[name] = [without_seconds(json.loads(line)) for line in lines]
        elif path.is_file():
            files[name] = path.read_bytes()
    return files


def without_seconds(content):
    if isinstance(content, list):
        return [without_seconds(value) for value in content]
    if isinstance(content, dict):
        return {name: without_seconds(value) for name, value in content.items()
                if name != "seconds"}
    return content


def assert_same(files, expected):
    """Like ==, but says which file differs."""
    assert sorted(files) == sorted(expected)
    assert [name for name in files if files[name] != expected[name]] == []
