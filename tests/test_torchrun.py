"""torchrun for real: recover and relabel on one, two and three processes make the same bytes, also when one of them is killed and
restarted by the elastic agent; a student too, on two."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_faults import command, kept, made, same  # noqa: F401 - made is a fixture

ROOT = Path(__file__).parents[1]
MODULES = {"recover": "recover.data_synthesis", "relabel": "relabel.generate_soft_label", "validate": "validate.train_fkd"}
MORE = {"recover": ["--start", "noise", "--ipc-end", 6, "--iteration", 16, "--units-per-step", 1], "relabel": ["--epochs", 7],
        "validate": ["--epochs", 8, "--batch-size", 4, "--loss-type", "ce"]}


def start(stage, made, out, processes):  # noqa: F811
    """The stage under torchrun; one process without it."""
    launcher = [] if processes == 1 else ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes),
                                          "--max_restarts", "1", "--monitor_interval", "0.1", "-m", "--"]
    words = [sys.executable, "-m", *launcher, MODULES[stage], *command(stage, made, out, *MORE[stage])]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process):
    text = process.communicate(timeout=300)[0]
    assert process.returncode == 0, text
    return text


def children(parent):
    """Process ids of a process's children."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # gone meanwhile
            continue
        if int(fields[1]) == parent:
            found.append(int(path.parent.name))
    return sorted(found)


def kill_one(process, sign):
    """SIGKILL a worker as soon as sign() says that the work has begun."""
    deadline = time.monotonic() + 120
    while not sign():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(children(process.pid)[-1], signal.SIGKILL)


SIGNS = {"recover": lambda out: any(out.glob("units/*")), "relabel": lambda out: any(out.glob("labels/epoch_*")),
         "validate": lambda out: (out / "students/s/state.pt").exists()}


@pytest.fixture(scope="module")
def alone(made):  # noqa: F811
    """What one process makes of each stage."""
    found = {}
    for stage in ("relabel", "recover"):  # the labels are those of `made`
        out = made / ("labelled" if stage == "relabel" else "alone")
        finish(start(stage, made, out, 1))
        found[stage] = kept(out)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("stage", ["recover", "relabel"])
def test_any_number_of_processes_makes_the_same_bytes(stage, processes, made, alone, tmp_path):  # noqa: F811
    finish(start(stage, made, tmp_path / "out", processes))
    same(kept(tmp_path / "out"), alone[stage])


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["recover", "relabel"])
def test_a_killed_process_is_restarted_and_the_bytes_are_the_same(stage, made, alone, tmp_path):  # noqa: F811
    process = start(stage, made, tmp_path / "out", 3)
    kill_one(process, lambda: SIGNS[stage](tmp_path / "out"))
    text = finish(process)
    assert "exitcode: -9" in text or "Signal 9" in text or "SIGKILL" in text, text
    same(kept(tmp_path / "out"), alone[stage])


@pytest.mark.slow
def test_a_student_on_two_processes_one_of_them_killed_and_restarted(made, tmp_path):  # noqa: F811
    finish(start("validate", made, tmp_path / "whole", 2))
    process = start("validate", made, tmp_path / "killed", 2)
    kill_one(process, lambda: SIGNS["validate"](tmp_path / "killed"))
    finish(process)
    same(kept(tmp_path / "killed"), kept(tmp_path / "whole"))
