"""Tables and laboratories as a graph of Snakemake, and a GPU for each of its jobs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
needs_snakemake = pytest.mark.skipif(
    shutil.which("snakemake") is None,
    reason="needs snakemake (pip install -r requirements-cluster.txt)")


def jobs(tmp_path, table, *config):
    """{rule: number of jobs} of a dry run, and all that it printed."""
    command = ["snakemake", "-s", ROOT / "reproduce" / "Snakefile", table, "--cores", "2",
               "--dry-run", "--printshellcmds", "--config", f"output_dir={tmp_path / 'out'}",
               *config]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed
    counts = re.findall(r"^([\w.-]+) +(\d+)$", printed, re.M)
    return {rule: int(count) for rule, count in counts if rule != "total"}, printed


@needs_snakemake
def test_a_table_on_digits_is_a_graph_of_its_commands(tmp_path):
    found, printed = jobs(tmp_path, "table3", "dataset=digits", "cells=backbones schedule",
                          "seeds=0 1", "parts=3", "epochs=2")
    teachers = ("resnet18", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5", "alexnet")
    students = [("t3_lr0.05", "ensemble_b50-mse0.1"), ("t3_lr0.05", "ensemble_b50_alexnet-mse0.1"),
                ("prism_r18", "ensemble_b50_alexnet-mse0.1"), ("prism_r18", "prism-prism")]
    assert found == {
        **{f"squeeze.{name}": 1 for name in teachers},
        **{f"recover.{run}_ipc5": 3 for run in ("t3_lr0.05", "prism_r18")},
        **{f"relabel.{run}_ipc5.labels_{student.rsplit('-', 1)[0]}": 2  # an epoch each
           for run, student in students},
        **{f"validate.{run}_ipc5.students.{student}-resnet18-seed{seed}": 1
           for run, student in students for seed in (0, 1)},
        "table3": 1}
    assert "--shard 2/3" in printed
    assert not (tmp_path / "out").exists()


@needs_snakemake
def test_the_first_part_goes_ahead_where_it_measures_for_all(tmp_path):
    found, printed = jobs(tmp_path, "table1", "cells=r18 ipc10 gvbsm prism", "parts=2", "seeds=0",
                          "train_dir=train", "val_dir=val")
    assert found["recover.gvbsm_ipc10"] == 2
    (first,) = re.findall(r"rule recover.gvbsm_ipc10:\n    input: (\S+)", printed)
    assert first.endswith("recover.gvbsm_ipc10.0of2.done")
    assert "rule recover.prism_r18_ipc10:\n    output" in printed  # needs nothing
    assert f"--train-dir {tmp_path}/train" in printed
    assert "gpu=1" in printed


@needs_snakemake
def test_a_laboratory_is_a_graph_of_all_its_parts(tmp_path):
    found, printed = jobs(tmp_path, "laboratory", "laboratory=digits", "cells=table3 labels",
                          "seeds=0")
    assert found["laboratory"] == 1
    assert "validate.prism_r18_ipc5.students.prism-prism-resnet18-seed0" in found  # of table3
    assert any(name.endswith("labels_prism-int8") for name in found)  # of labels
    assert "reproduce.laboratory digits table3 labels" in printed
    assert "--collect" in printed


@needs_snakemake
def test_words_that_no_cell_has_are_explained(tmp_path):
    with pytest.raises(AssertionError, match="table2: 'r50': table2 has no such word"):
        jobs(tmp_path, "table2", "cells=r50")


@pytest.fixture
def fake(tmp_path):
    """A folder on PATH with two GPUs, and a module that prints the one it was given."""
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 0\necho 1\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    (tmp_path / "which_gpu.py").write_text(
        "import os, sys\nprint(os.environ.get('CUDA_VISIBLE_DEVICES'), flush=True)\n"
        "sys.stdin.readline()\n")
    return tmp_path


def start_job(fake, **variables):
    env = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    env |= {"PATH": f"{fake}:{os.environ['PATH']}", "PYTHON": sys.executable,
            "PYTHONPATH": str(fake), "TMPDIR": str(fake), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(["sh", ROOT / "reproduce" / "job.sh", "which_gpu"], env=env, text=True,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.mark.skipif(shutil.which("flock") is None, reason="needs flock")
def test_jobs_of_a_machine_get_a_gpu_each(fake):
    """The third job waits until a GPU is free, whichever way its user ended."""
    first, second = start_job(fake), start_job(fake)
    gpus = {job.stdout.readline().strip(): job for job in (first, second)}
    assert set(gpus) == {"0", "1"}
    third = start_job(fake)
    gpus["1"].kill()
    assert third.stdout.readline().strip() == "1"
    for job in (first, second, third):
        job.communicate("")


def test_a_job_keeps_the_gpu_that_it_was_given(fake):
    for given in ("3", ""):
        for job in (start_job(fake, CUDA_VISIBLE_DEVICES=given) for _ in range(2)):
            assert job.stdout.readline().strip() == given
            job.communicate("")
