import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

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
    (FileNotFoundError(errno.ENOENT, "x", "a"), "a: no such file or folder. If it was removed"),
    (OSError(errno.EROFS, "x"), "the file system is read-only"),
    (RuntimeError("DataLoader worker (pid 1) is killed"), "Give fewer --workers"),
    (MemoryError(), "out of memory"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory"),
    (RuntimeError("unable to mmap 9 bytes from file <a>: Cannot allocate memory (12)"),
     "out of memory"),
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


# What PyTorch says, by its version and by the library that failed
@pytest.mark.parametrize("text", [
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "NCCL error: unhandled cuda error. Last error: Cuda failure 2 'out of memory'"])
@pytest.mark.parametrize("kind", [RuntimeError, getattr(torch, "AcceleratorError", RuntimeError)])
def test_every_library_may_find_the_gpu_full(kind, text, capsys):
    with pytest.raises(SystemExit) as raised:
        run_entry(raising(kind(text)))
    assert raised.value.code == 2
    assert capsys.readouterr().err.startswith("error: out of GPU memory. Choose a smaller --batch-")
    with pytest.raises(UserError, match="^out of GPU memory. Try it.$"), \
            errors.memory_advice("Try it."):
        raise kind(text)


@pytest.mark.parametrize(("text", "sentence"), [
    ("CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors",
     "this build of PyTorch has no code for this GPU. Install one that has (pytorch.org), or give "
     "--device cpu."),
    ("CUDA error: CUDA-capable device(s) is/are busy or unavailable\nCUDA kernel errors",
     "another process has the GPU for itself (nvidia-smi shows it). Choose another GPU with "
     "CUDA_VISIBLE_DEVICES, or wait for it."),
    ("CUDA error: CUDA driver version is insufficient for CUDA runtime version",
     "the GPU's driver is too old for this build of PyTorch. Update the driver, or install a build "
     "for it (pytorch.org).")])
def test_a_gpu_that_cannot_begin(text, sentence):
    assert explain(RuntimeError(text)) == sentence


@pytest.mark.parametrize("allocate", [
    lambda: torch.empty(1 << 45), lambda: np.empty(1 << 45), lambda: bytearray(1 << 45)])
def test_more_memory_than_there_is(allocate):
    with pytest.raises((MemoryError, RuntimeError)) as raised:
        allocate()
    assert explain(raised.value).startswith("out of memory. Choose smaller batches or fewer --work")
    assert explain(RuntimeError("CUDA error: device-side assert triggered")) is None


ENTRY = """
from utils import errors, progress
def main(_):
    print("the result", flush=True)
    progress.write_above(progress.progress_bar(2, "bar", "step"), "above")
    raise errors.UserError("no such thing.")
errors.run_entry(main)
"""


@pytest.mark.parametrize(("closed", "out", "err"), [
    ("", 0, 1), ("2>&-", 1, 0), (">&- 2>&-", 0, 0), ("<&- >&- 2>&-", 0, 0), (">&-", 0, 1),
    ("2>/dev/full", 0, 0)])
def test_closed_streams(closed, out, err):
    """The sentence is said once where there is a place for it, and the status is 2."""
    run = subprocess.run(["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, ENTRY],
                         cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 2
    assert "Traceback" not in run.stdout + run.stderr
    sentence = "error: no such thing.\n"
    assert (run.stdout.count(sentence), run.stderr.count(sentence)) == (out, err)
    assert run.stdout.count("the result") == (">&-" not in closed.split())


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_ends_is_no_mistake(lines):
    """As head does: a few lines are still in the buffer then, many are being written."""
    code = f"""
import sys
from utils.errors import run_entry
def main(_):
    sys.stdin.read()
    print("line\\n" * {lines})
run_entry(main)
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    process.stdin.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


def test_another_broken_pipe_is_a_defect():
    with pytest.raises(BrokenPipeError):
        run_entry(raising(BrokenPipeError(errno.EPIPE, "a worker's")))


def test_a_closed_streams_number_is_no_files_number(tmp_path):
    """Libraries write to number 2, whatever it is."""
    code = f"""
import os
from utils.errors import run_entry
def main(_):
    with open({str(tmp_path / "result")!r}, "w") as file:
        os.write(2, b"a warning")
        file.write("the result")
run_entry(main)
"""
    run = subprocess.run(["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, code], cwd=ROOT)
    assert run.returncode == 0
    assert (tmp_path / "result").read_text() == "the result"


@pytest.mark.parametrize("stage", ["recover", "relabel", "validate"])
def test_another_package_called_utils_is_noticed(tmp_path, stage):
    (tmp_path / "utils.py").write_text("")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    run = subprocess.run([sys.executable, "-c", f"import {stage}"], cwd=tmp_path, env=env,
                         capture_output=True, text=True)
    assert run.returncode != 0
    assert "another package named utils was imported" in run.stderr
