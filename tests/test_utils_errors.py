import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from utils import errors, options
from utils.errors import UserError, explain, run_entry

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("error", "words"), [
    (UserError("found 1, expected 2."), "found 1, expected 2."),
    (OSError(errno.ENOSPC, "x", "out/a"), "out/a: the disk is full"),
    (PermissionError(errno.EACCES, "x", "out/a"), "out/a: no permission"),
    (OSError(errno.EROFS, "x"), "the file system is read-only"),
])
def test_one_sentence_and_status_2(error, words, capsys):
    def main(_):
        raise error

    with pytest.raises(SystemExit) as exit_info:
        run_entry(main)
    assert exit_info.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(("local_rank", "own", "said"), [("0", False, "error: no\n"), ("1", False, ""),
                                                         ("1", True, "error on rank 5: no\n")])
def test_under_torchrun_one_rank_of_a_machine_speaks_until_work_is_shared_out(local_rank, own, said, monkeypatch, capsys):
    def main(_):
        if own:
            errors.own_work_begins()
        raise UserError("no")

    monkeypatch.setattr(errors, "_own_work", False)
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    with pytest.raises(SystemExit) as exit_info:
        run_entry(main)
    assert exit_info.value.code == 2
    assert capsys.readouterr().err == said


def test_defects_keep_their_traceback():
    def main(_):
        raise KeyError("a defect")

    assert explain(KeyError("x")) is None
    with pytest.raises(KeyError):
        run_entry(main)


def test_paths_are_relative_to_the_caller(monkeypatch, tmp_path):
    monkeypatch.setenv("CALLER_DIR", str(tmp_path))
    assert options.path("a/b") == tmp_path / "a/b"
    assert options.path("/x") == Path("/x")


@pytest.mark.parametrize("stage", ["recover", "relabel", "validate"])
def test_another_package_called_utils_is_noticed(tmp_path, stage):
    (tmp_path / "utils.py").write_text("")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    run = subprocess.run([sys.executable, "-c", f"import {stage}"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert run.returncode != 0
    assert "another package named utils was imported" in run.stderr
