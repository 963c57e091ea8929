"""How the shell scripts find Python and start it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def launch(arguments, cwd, **variables):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CALLER_DIR": str(cwd), **variables}
    return subprocess.run(["sh", "-c", f'. "{ROOT}/utils/launch.sh"; launch {arguments}'], cwd=cwd,
                          env=env, capture_output=True, text=True, timeout=120)


def test_options_of_a_stage_are_not_taken_for_the_launchers(tmp_path):
    """torchrun abbreviates its own options: --start and --log-every would be among them."""
    (tmp_path / "echo.py").write_text(
        "import os, sys\nos.write(1, f'{os.environ[\"RANK\"]} {sys.argv[1:]}\\n'.encode())\n")
    done = launch("echo --start noise --log-every 5 --role", tmp_path, NGPU="2",
                  PYTHON=sys.executable, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [
        f"{rank} ['--start', 'noise', '--log-every', '5', '--role']" for rank in (0, 1)]


@pytest.fixture
def bare_python(tmp_path):
    """An interpreter without PyTorch that prints what it is asked to run."""
    python = tmp_path / "python3"
    python.write_text('#!/bin/sh\n[ "$1" = -c ] && exit 1\necho "$@"\n')
    python.chmod(0o755)
    return python


@pytest.mark.parametrize("option", ["--help", "--list", "--dry-run"])
def test_what_only_prints_needs_no_pytorch(bare_python, tmp_path, option):
    done = launch(f"a.b --x 1 {option}", tmp_path, PYTHON=str(bare_python), NGPU="2")
    assert done.stdout == f"-m a.b --x 1 {option}\n"


def test_settings_of_libraries_are_made_and_can_be_overridden(tmp_path):
    python = tmp_path / "python3"
    python.write_text('#!/bin/sh\necho "$GOMP_SPINCOUNT"\n')
    python.chmod(0o755)
    unset = launch("a.b --help", tmp_path, PYTHON=str(python), GOMP_SPINCOUNT="")
    assert unset.stdout == "1000\n"
    given = launch("a.b --help", tmp_path, PYTHON=str(python), GOMP_SPINCOUNT="7")
    assert given.stdout == "7\n"


@pytest.mark.parametrize("number", ["0", "two", "-1", "1000000"])
def test_a_number_of_processes_that_cannot_be(tmp_path, number):
    done = launch("a.b", tmp_path, NGPU=number)
    assert done.returncode == 2
    assert done.stderr == f"error: NGPU={number}, expected a number of processes from 1 to 999.\n"


def test_a_python_without_pytorch_is_one_sentence(bare_python, tmp_path):
    done = launch("a.b --x 1", tmp_path, PYTHON=f"./{bare_python.name}")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: no Python with PyTorch was found (tried {tmp_path}/")
    assert len(done.stderr.splitlines()) == 1
