"""Processes side by side on one machine: each runs a task on a GPU of its own, or on its part of the CPU's cores.

A task starts as soon as what it needs is finished and a place is free, the first of the list before the others. There is nothing
but this process and its children: no queue to set up, nothing that goes on when it ends.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from reproduce.steps import ROOT, Failure
from utils.errors import UserError
from utils.progress import progress_bar, write_above

GRACE = 30  # seconds that a stopped task has to end; it is killed then, which loses no more than what its stage redoes on a start
_POLL = 0.1  # seconds between looks at the processes
_TAIL, _TAIL_BYTES = 15, 20_000  # of a failed task's log these last lines are shown, and no more bytes are read for them
_WORKERS = 8  # the stages' own bound


@dataclass(eq=False)
class Place:
    """Where a task runs. name: for people. environment: what is set for its process. options: of a stage that runs here."""

    name: str
    environment: dict
    options: tuple = ()


@dataclass(eq=False)
class Task:
    """A process to run. title: unique, of its log and of messages. argv: program and arguments. line: as one types it. needs: the
    Tasks that must be finished before it."""

    title: str
    argv: list
    line: str
    needs: tuple = ()


@dataclass
class _Job:
    """A task that runs. begin: time.monotonic(). offset: where this start's part of the log begins."""

    task: Task
    process: subprocess.Popen
    begin: float
    log: Path
    offset: int


def places(count, threads):
    """`count` Places: a GPU each, of those that CUDA_VISIBLE_DEVICES leaves; without a GPU, processes that share the cores.

    threads: of each process, None for an equal part of PyTorch's choice. Raises UserError where so many have no room.
    """
    cores = os.cpu_count() or 1
    each = ("--threads", str(threads or max(1, torch.get_num_threads() // count)),
            "--workers", str(max(1, min(_WORKERS, cores // count))))
    found = torch.cuda.device_count()
    if not found:
        if count > cores:
            raise UserError(f"NGPU={count}: this machine has no GPU that PyTorch finds, and {cores} CPU cores. Give at most "
                            f"NGPU={cores}.")
        return [Place(f"process {number}", {}, each) for number in range(count)]
    if count > found:
        raise UserError(f"NGPU={count}: PyTorch finds {found} GPU{'s' if found > 1 else ''} here (CUDA_VISIBLE_DEVICES counts). "
                        f"Give at most NGPU={found}.")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(number) for number in range(found)] if visible is None else [name.strip() for name in visible.split(",")]
    return [Place(f"GPU {name}", {"CUDA_VISIBLE_DEVICES": name}, ("--device", "cuda", *each)) for name in names[:count]]


def run(tasks, where, logs, title, ended=None):
    """Run tasks; each at most once, on one of the Places at a time. Returns a Failure per task that failed or was left out.

    tasks: Tasks, what they need before them. where: list of Places. logs: folder of TITLE.log, added to at every start. title: of
    the progress bar. ended(task, seconds, ok): called after each task that was started. On Ctrl-C or SIGTERM all processes are
    told to stop and waited for; then KeyboardInterrupt or SystemExit(143) is raised.
    """
    logs.mkdir(parents=True, exist_ok=True)
    waiting, running, finished, failures = list(tasks), {}, set(), {}
    with _caught_signals() as caught, progress_bar(len(tasks), title, " tasks") as bar:
        try:
            while (waiting or running) and not caught:
                for task in _lost(waiting, failures):
                    waiting.remove(task)
                    failures[task] = Failure(task.title, None)
                    write_above(bar, f"left out  {task.title}: what it needs has failed")
                    bar.update(1)
                for place in where:
                    task = None if place in running else next((t for t in waiting if finished.issuperset(t.needs)), None)
                    if task is not None:
                        waiting.remove(task)
                        running[place] = _start(task, place, logs)
                        write_above(bar, f"started   {task.title} on {place.name}")
                time.sleep(_POLL)
                for place, job in list(running.items()):
                    status = job.process.poll()
                    if status is None or caught:  # a task that was told to stop has not failed
                        continue
                    del running[place]
                    seconds = time.monotonic() - job.begin
                    if status == 0:
                        finished.add(job.task)
                        write_above(bar, f"finished  {job.task.title} in {seconds:.0f} s")
                    else:
                        failures[job.task] = Failure(job.task.title, status)
                        write_above(bar, _report(job, status, seconds))
                    bar.update(1)
                    if ended is not None:
                        ended(job.task, seconds, status == 0)
        finally:
            _stop([job.process for job in running.values()], caught)
            for job in running.values():
                if ended is not None:
                    ended(job.task, time.monotonic() - job.begin, False)
    if caught:
        if caught[0] == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + caught[0])
    return [failures[task] for task in tasks if task in failures]


def _lost(waiting, failures):
    """Tasks, in order, that wait for one that failed or that is itself among them."""
    lost = []
    for task in waiting:
        if any(need in failures or need in lost for need in task.needs):
            lost.append(task)
    return lost


def _start(task, place, logs):
    path = logs / (task.title.replace(": ", ".").replace("/", ".").replace(" ", "_") + ".log")
    # An array job's share is not for its children: a task here has a --shard of its own, or does everything.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_ARRAY_")}
    with open(path, "ab") as log:
        log.write(f"$ {task.line}\n".encode())
        log.flush()
        offset = log.tell()
        process = subprocess.Popen([*task.argv, *place.options], cwd=ROOT, env={**environment, **place.environment},
                                   stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    return _Job(task, process, time.monotonic(), path, offset)


def _report(job, status, seconds):
    """What a failed task leaves: its command, how it ended, the end of its log."""
    how = f"status {status}"
    if status < 0:
        number = signal.Signals(-status)
        how = number.name + (", as the system does when memory runs out" if number == signal.SIGKILL else "")
    with open(job.log, "rb") as log:
        log.seek(max(job.offset, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
        lines = log.read().decode(errors="replace").splitlines()
    tail = "\n".join(f"    {line}" for line in lines[-_TAIL:])
    return f"failed    {job.task.title} after {seconds:.0f} s: {how}\n  $ {job.task.line}\n{tail}\n  All of it: {job.log}"


def _stop(processes, caught):
    """End processes: SIGTERM; after GRACE seconds, or at a second signal, SIGKILL."""
    if processes:
        print(f"\nstopping {len(processes)} running tasks ...", file=sys.stderr, flush=True)
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + GRACE
    while any([process.poll() is None for process in processes]):
        if time.monotonic() > deadline or len(caught) > 1:
            for process in processes:
                process.kill()
        time.sleep(_POLL)


@contextlib.contextmanager
def _caught_signals():
    """Collect the numbers of SIGINT and SIGTERM instead of raising, which could come between a process and the note of it."""
    caught = []
    before = {number: signal.signal(number, lambda found, _: caught.append(found)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
