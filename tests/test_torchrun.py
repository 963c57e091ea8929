"""torchrun for real: stages on several processes make the bytes of one process.

Also when one of them is killed and the elastic agent restarts them.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stages import MODULES, ROOT, assert_same, command, contents, end, main_of, make_inputs, start

MORE = {"recover": ["--ipc-end", 6, "--start", "noise", "--iteration", 16, "--units-per-step", 1],
        "relabel": ["--epochs", 7], "validate": ["--epochs", 8, "--loss-type", "ce",
                                                 "--batch-size", 4]}
BEGUN = {"recover": "units/*", "relabel": "labels/epoch_*", "validate": "students/s/state.pt"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("torchrun"))


def start_ranks(count, stage, made, out):
    return start("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", count,
                 "--max_restarts", 1, "--monitor_interval", 0.1, "-m", "--", MODULES[stage],
                 *command(stage, made, out, *MORE[stage]))


def children(parent):
    """Sorted process ids of a process's children."""
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return sorted(map(int, text.split()))


def kill_one(process, stage, out):
    """SIGKILL a rank as soon as the first results of its stage are there."""
    deadline = time.monotonic() + 120
    while not any(out.glob(BEGUN[stage])):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(children(process.pid)[-1], signal.SIGKILL)


def test_a_script_on_two_processes(made, tmp_path):
    """NGPU=2 sh recover_r18.sh shares the units out; nothing depends on who did what."""
    arguments = command("recover", made, tmp_path / "out", *MORE["recover"])
    env = {**os.environ, "PYTHON": sys.executable, "NGPU": "2", "CALLER_DIR": str(tmp_path)}
    subprocess.run(["sh", ROOT / "recover/recover_r18.sh", *arguments], env=env, check=True)
    main_of("recover")(command("recover", made, tmp_path / "alone", *MORE["recover"]))
    assert_same(contents(tmp_path / "out/images"), contents(tmp_path / "alone/images"))


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True], ids=["whole", "killed"])
@pytest.mark.parametrize("stage", ["recover", "relabel"])
def test_ranks_make_the_same_bytes(stage, killed, made, tmp_path):
    process = start_ranks(2, stage, made, tmp_path / "out")
    if killed:
        kill_one(process, stage, tmp_path / "out")
    text = end(process)
    assert ("SIGKILL" in text or "exitcode: -9" in text) == killed
    main_of(stage)(command(stage, made, tmp_path / "alone", *MORE[stage]))
    assert_same(contents(tmp_path / "out"), contents(tmp_path / "alone"))


@pytest.mark.slow
def test_a_student_on_two_ranks_one_of_them_killed(made, tmp_path):
    end(start_ranks(2, "validate", made, tmp_path / "whole"))
    process = start_ranks(2, "validate", made, tmp_path / "killed")
    kill_one(process, "validate", tmp_path / "killed")
    end(process)
    assert_same(contents(tmp_path / "killed"), contents(tmp_path / "whole"))
