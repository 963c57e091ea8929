import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from utils import errors
from utils.errors import UserError, explain, run_entry

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
