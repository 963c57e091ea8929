import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from utils import errors
from utils.errors import UserError, explain, run_entry, signals_wait

ROOT = Path(__file__).parents[1]


def raising(error):
    def main(_):
        raise error

    return main


@pytest.mark.parametrize(("error", "sentence"), [
    (UserError("found 1, expected 2."), "found 1, expected 2."),
    (OSError(errno.ENOSPC, "x", "out/a"), "out/a: the disk is full"),
    (PermissionError(errno.EACCES, "x", "out/a"), "out/a: no permission"),
    (OSError(errno.EROFS, "x"), "the file system is read-only"),
    (RuntimeError("DataLoader worker (pid 1) is killed"), "Give fewer --workers"),
    (MemoryError(), "out of memory"),
])
def test_one_sentence_and_status_2(error, sentence, capsys):
    with pytest.raises(SystemExit) as raised:
        run_entry(raising(error))
    assert raised.value.code == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(("local_rank", "own_work", "said"), [
    ("0", False, "error: no\n"), ("1", False, ""), ("1", True, "error on rank 5: no\n")])
def test_one_rank_of_a_machine_speaks_until_work_is_shared_out(local_rank, own_work, said,
                                                               monkeypatch, capsys):
    monkeypatch.setattr(errors, "_own_work", own_work)
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    with pytest.raises(SystemExit):
        run_entry(raising(UserError("no")))
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_until_the_block_has_ended(number, capsys):
    done = []

    def main(_):
        with signals_wait():
            signal.raise_signal(number)
            done.append("whole")
        done.append("more")

    with pytest.raises(SystemExit) as raised:
        run_entry(main)
    assert (raised.value.code, done) == (128 + number, ["whole"])
    assert "goes on where it stopped" in capsys.readouterr().err


def test_a_dead_worker_waits_too_and_an_ignored_signal_stays_ignored():
    def died(*_):
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed. ")

    def work():
        with signals_wait():
            signal.raise_signal(signal.SIGCHLD)
            signal.raise_signal(signal.SIGINT)
            done.append("whole")

    before = signal.signal(signal.SIGCHLD, died), signal.signal(signal.SIGINT, signal.SIG_IGN)
    done = []
    try:
        with pytest.raises(RuntimeError, match="DataLoader worker"):
            work()
    finally:
        signal.signal(signal.SIGCHLD, before[0])
        signal.signal(signal.SIGINT, before[1])
    assert done == ["whole"]


@pytest.mark.parametrize(("stop", "text", "status"), [
    (None, "is killed by signal: Terminated. ", 143), (None, "is killed by signal: Killed. ", 2),
    (KeyboardInterrupt, "exited unexpectedly", 130), (None, "exited unexpectedly", 2)])
def test_a_worker_that_dies_of_the_signal_that_stops_all_is_no_error(stop, text, status, capsys):
    def main(_):
        try:
            if stop is not None:
                raise stop
        finally:
            raise RuntimeError(f"DataLoader worker (pid 1) {text}")

    with pytest.raises(SystemExit) as raised:
        run_entry(main)
    assert raised.value.code == status
    assert capsys.readouterr().err.startswith("error: " if status == 2 else "\nstopped. ")


WORKERS = """
import time, torch
from torch.utils.data import DataLoader, Dataset
from utils.errors import run_entry

class Slow(Dataset):
    def __len__(self):
        return 10**6
    def __getitem__(self, i):
        time.sleep(0.01)
        return i

def main(_):
    for batch in DataLoader(Slow(), 2, num_workers=2, collate_fn=list):
        print("batch", flush=True)

run_entry(main)
"""


def test_a_signal_to_all_processes_of_a_stage_with_workers():
    process = subprocess.Popen([sys.executable, "-c", WORKERS], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               start_new_session=True)
    process.stdout.readline()
    os.killpg(process.pid, signal.SIGTERM)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 143, err
    assert err.split("\n") == ["", "stopped. The same command goes on where it stopped.", ""]


def test_defects_keep_their_traceback():
    assert explain(KeyError("x")) is None
    with pytest.raises(KeyError):
        run_entry(raising(KeyError("a defect")))


def test_a_full_gpu_gets_advice():
    full = type("OutOfMemoryError", (RuntimeError,), {})
    assert "Choose a smaller --batch-size" in explain(full())
    advice = errors.try_half("--batch-size", 100, "smaller units")
    assert advice == "Found --batch-size 100, try --batch-size 50: smaller units."
    with pytest.raises(UserError, match="out of GPU memory. Found --batch-size 100"), \
            errors.memory_advice(advice):
        raise full


@pytest.mark.parametrize("stage", ["recover", "relabel", "validate"])
def test_another_package_called_utils_is_noticed(tmp_path, stage):
    (tmp_path / "utils.py").write_text("")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    run = subprocess.run([sys.executable, "-c", f"import {stage}"], cwd=tmp_path, env=env,
                         capture_output=True, text=True)
    assert run.returncode != 0
    assert "another package named utils was imported" in run.stderr
