"""kill -9, SIGTERM and Ctrl-C anywhere in the four stages: the same command ends with the bytes of an undisturbed run.

Victims are forked by tests/zygote.py. A kill comes at a random time, or at a random file event: inside a write, before or after
an fsync, a rename, a removal.
"""

import itertools
import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

CLASSES = ("n01440764", "n01443537", "n01484850")
NET = "shufflenet_v2_x0_5"
STAGES = ("pretrain", "recover", "relabel", "validate")


class Zygote:
    """tests/zygote.py, asked for victims."""

    def __init__(self):
        self.process = subprocess.Popen([sys.executable, Path(__file__).with_name("zygote.py")], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, **request):
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def start(self, stage, arguments, log, **kill):
        return self.ask(do="start", stage=stage, arguments=arguments, log=str(log), **kill)

    def wait(self, pid, **kill):
        return self.ask(do="wait", pid=pid, **kill)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


@pytest.fixture(scope="module")
def zygote():
    found = Zygote()
    yield found
    found.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Inputs of all stages."""
    root = tmp_path_factory.mktemp("faults")
    tiny.image_folder(root / "train", CLASSES, 2, size=(40, 36))
    tiny.image_folder(root / "val", CLASSES, 2, size=(40, 36), seed=1)
    tiny.teacher_folder(root / "teachers", [NET], CLASSES)
    tiny.distilled_folder(root / "run", root / "train", CLASSES, 2)
    return root


def command(stage, made, out, *more):
    own = {
        "pretrain": ["--train-dir", made / "train", "--val-dir", made / "val", "--image-size", 32, "--teachers", NET,
                     "--epochs", 3, "--batch-size", 3, "--lr", 0.01, "--save-seconds", 0, "--workers", 0],
        "recover": ["--train-dir", made / "train", "--image-size", 32, "--primary-teacher", NET, "--bn-slots", 0, "--ipc-end", 2,
                    "--iteration", 6, "--checkpoint-every", 1, "--units-per-step", 2, "--teacher-weights", made / "teachers",
                    "--min-teacher-accuracy", 0, "--workers", 1],
        "relabel": ["--train-dir", made / "run/images", "--teachers", NET, "--teacher-weights", made / "teachers", "--epochs", 4,
                    "--batch-size", 4, "--workers", 1],
        "validate": ["--train-dir", made / "run/images", "--fkd-path", made / "labelled/labels", "--val-dir", made / "val",
                     "--student", NET, "--student-name", "s", "--epochs", 3, "--eval-every", 1, "--workers", 1],
    }[stage]
    return [str(word) for word in (*own, "--threads", 1, "--device", "cpu", "--output-dir", out, *more)]


def without_times(content):
    if isinstance(content, dict):
        return {name: without_times(value) for name, value in content.items() if name not in ("seconds", "sha256")}
    return [without_times(value) for value in content] if isinstance(content, list) else content


def kept(out):
    """{name: content} of all files below a folder, hidden ones too: bytes, and JSON without the seconds that work took (and
    the checksums that cover them)."""
    found = {}
    for path in sorted(out.rglob("*")):
        if path.suffix in (".json", ".jsonl"):
            text = path.read_text()
            found[str(path.relative_to(out))] = [without_times(json.loads(part)) for part in (
                text.splitlines() if path.suffix == ".jsonl" else [text])]
        elif path.is_file():
            found[str(path.relative_to(out))] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def whole(made, zygote):
    """Per stage what an undisturbed run leaves, how many file events it has, how long it takes."""
    found = {}
    for stage in STAGES:
        out = made / ("labelled" if stage == "relabel" else f"whole_{stage}")
        begin = time.monotonic()
        assert zygote.wait(zygote.start(stage, command(stage, made, out), made / "log")) == 0, (made / "log").read_text()
        seconds = time.monotonic() - begin
        events = int(re.search(r"file events: (\d+)", (made / "log").read_text())[1])
        found[stage] = kept(out), events, seconds
    return found


def same(found, expected):
    """Like ==, but says which file differs."""
    assert sorted(found) == sorted(expected)
    assert [name for name in found if found[name] != expected[name]] == []


def kills(stage, made, whole, zygote, tmp_path, in_a_file, at_a_time):
    """Kill and resume until so many kills of each kind have struck, several in a folder; each is completed and compared."""
    expected, events, seconds = whole[stage]
    rng, missing, log = random.Random(f"faults {stage}"), {"in a file": in_a_file, "at a time": at_a_time}, tmp_path / "log"
    for number in itertools.count():
        if not any(missing.values()):
            break
        out, run = tmp_path / f"out{number}", command(stage, made, tmp_path / f"out{number}")
        for _ in range(rng.randrange(1, 6)):
            kind = rng.choice([kind for kind, count in missing.items() for _ in range(count)])
            if kind == "in a file":
                status = zygote.wait(zygote.start(stage, run, log, at=rng.randrange(1, events + 1), whole=rng.random() < 0.3))
            else:  # the undisturbed run was the first: later ones are faster
                status = zygote.wait(zygote.start(stage, run, log), seconds=rng.uniform(0, 0.7 * seconds))
            assert status in (0, -signal.SIGKILL), log.read_text()
            missing[kind] -= status != 0
            if status == 0 or not any(missing.values()):
                break
        assert zygote.wait(zygote.start(stage, run, log)) == 0, log.read_text()
        same(kept(out), expected)


@pytest.mark.parametrize("stage", STAGES)
def test_some_kills(stage, made, whole, zygote, tmp_path):
    kills(stage, made, whole, zygote, tmp_path, 2, 1)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_many_kills(stage, made, whole, zygote, tmp_path):
    kills(stage, made, whole, zygote, tmp_path, 14, 6)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_every_file_event_in_turn(stage, made, whole, zygote, tmp_path):
    """Every start dies at its own second (then third ...) event until one gets through: no event may be missed by chance."""
    expected, events, _ = whole[stage]
    run, log = command(stage, made, tmp_path / "out"), tmp_path / "log"
    for at in range(1, events + 2):
        if zygote.wait(zygote.start(stage, run, log, at=at)) == 0:
            break
    same(kept(tmp_path / "out"), expected)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("stage", STAGES)
def test_stopped_cleanly(stage, number, status, made, whole, zygote, tmp_path):
    """Nothing is left half-written, the same command is said to go on, and does."""
    expected, events, _ = whole[stage]
    run, log = command(stage, made, tmp_path / "out"), tmp_path / "log"
    for at in (events // 3, events // 4):
        assert zygote.wait(zygote.start(stage, run, log, at=at, signal_number=number)) == status, log.read_text()
        text = log.read_text()
        assert "stopped. The same command goes on where it stopped." in text
        assert "Traceback" not in text
        assert not list((tmp_path / "out").rglob("*.tmp"))
    assert zygote.wait(zygote.start(stage, run, log)) == 0, log.read_text()
    same(kept(tmp_path / "out"), expected)


@pytest.mark.parametrize("stage", ["recover", "relabel"])
def test_four_shards_one_of_them_killed(stage, made, zygote, tmp_path):
    more = ["--ipc-end", "2", "--batch-size", "2", "--units-per-step", "1"] if stage == "recover" else []
    log = tmp_path / "log"
    assert zygote.wait(zygote.start(stage, command(stage, made, tmp_path / "whole", *more), log)) == 0, log.read_text()
    out, logs = tmp_path / "out", [tmp_path / f"log{i}" for i in range(4)]
    victims = [zygote.start(stage, command(stage, made, out, *more, "--shard", f"{i}/4"), logs[i], at=6 if i == 0 else None)
               for i in range(4)]
    assert [zygote.wait(pid) for pid in victims] == [-signal.SIGKILL, 0, 0, 0], [text.read_text() for text in logs]
    missing = set(kept(tmp_path / "whole")) - set(kept(out))
    assert missing
    assert zygote.wait(zygote.start(stage, command(stage, made, out, *more), log)) == 0, log.read_text()
    same(kept(out), kept(tmp_path / "whole"))


@pytest.mark.parametrize("stage", ["recover", "relabel"])
def test_processes_that_meet_on_the_same_work(stage, made, whole, zygote, tmp_path):
    """The same command three times at once in one folder."""
    logs = [tmp_path / f"log{i}" for i in range(3)]
    victims = [zygote.start(stage, command(stage, made, tmp_path / "out"), log) for log in logs]
    assert [zygote.wait(pid) for pid in victims] == [0, 0, 0], [log.read_text() for log in logs]
    same(kept(tmp_path / "out"), whole[stage][0])
