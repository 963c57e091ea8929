"""Steps of a longer run: a banner with the command for each, and how long it took."""

import gc
import shlex
import subprocess
import sys
import time
from pathlib import Path

import torch

from utils import run_folder
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


class Steps:
    """Call stages' entries one after the other in this process (importing PyTorch takes seconds, so once).

    total: number of steps, for the banners. timings: JSON file that keeps the seconds of each step's first complete run and of the
    stopped ones before it, so that a second start, which finds the step finished, still knows them.
    """

    def __init__(self, total, timings):
        self.total, self.timings, self.count = total, timings, 0
        self.seconds = run_folder.read_json(timings, "an earlier start") if timings.exists() else {}

    def run(self, title, entry, *options, processes=1):
        """Run entry.main(options); entry is a stage's entry module. Finished work is skipped by the stage itself.

        processes: more than one start under torchrun, which needs processes of their own.
        """
        options = [str(option) for option in options]
        self.count += 1
        command = command_line(entry.__spec__.name, options, processes)
        print(f"\n=== {self.count}/{self.total}  {title}\n$ {command}", flush=True)
        known = self.seconds.get(title, {})
        if known.get("command") != command:
            known = {"seconds": 0.0, "command": command, "processes": processes, "stopped": True}
        begin, complete = time.perf_counter(), False
        try:
            if processes == 1:
                entry.main(options)
            else:
                _torchrun(entry.__spec__.name, options, processes)
            complete = True
        finally:
            _free_gpu()
            if known.pop("stopped", False):
                known["seconds"] = round(known["seconds"] + time.perf_counter() - begin, 1)
                self.seconds[title] = known if complete else {**known, "stopped": True}
                run_folder.write_json(self.timings, self.seconds)


def _free_gpu():
    """Give back what a step left on the GPU: the next one may be another process, or ask how much is free."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def command_line(module, options, processes=1):
    """A stage's command as one types it in the project's root, shell-quoted."""
    launcher = ["python", "-m"] if processes == 1 else ["torchrun", *_launch_options(processes)]
    return shlex.join([*launcher, module, *(option.removeprefix(f"{ROOT}/") for option in options)])


def _launch_options(processes):
    return ["--standalone", "--nproc_per_node", str(processes), "-m", "--"]  # --: or it takes recover's --start for its own


def _torchrun(module, options, processes):
    launcher = [sys.executable, "-m", "torch.distributed.run", *_launch_options(processes)]
    status = subprocess.run([*launcher, module, *options], cwd=ROOT).returncode
    if status:
        raise UserError(f"{module} ended with status {status}; what it found stands above.")
