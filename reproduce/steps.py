"""Steps of a longer run: a banner with the command for each, how long it took, and what becomes of the others when one fails."""

import gc
import shlex
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch

from utils.errors import UserError, explain
from utils.files import read_json, write_json

ROOT = Path(__file__).resolve().parents[1]


class Timings:
    """A JSON file with the seconds of each step: those of its first complete run and of the stopped ones before it, so that a later
    start, which finds the step finished, still knows them. Seconds of processes that shared a step are added up.

    seconds: {title: {"seconds", "command", "stopped" (only while it is not complete)}}.
    """

    def __init__(self, path):
        self.path = path
        self.seconds = read_json(path, "an earlier start") if path.exists() else {}

    def add(self, title, command, seconds, complete):
        """Add seconds of a step, unless it was complete before. command: its line; with another one the count begins anew."""
        known = self.seconds.get(title, {})
        if known.get("command") != command:
            known = {"seconds": 0.0, "command": command, "stopped": True}
        if "stopped" not in known:
            return
        known = {"seconds": round(known["seconds"] + seconds, 1), "command": command, **({} if complete else {"stopped": True})}
        self.seconds[title] = known
        write_json(self.path, self.seconds)

    def is_complete(self, title, command):
        """Whether this step ran to its end with this command."""
        known = self.seconds.get(title, {})
        return known.get("command") == command and "stopped" not in known


class Steps:
    """Call stages' entries one after the other in this process (importing PyTorch takes seconds, so once).

    total: number of steps, for the banners. timings: path of the Timings.
    """

    def __init__(self, total, timings):
        self.total, self.timings, self.count = total, Timings(timings), 0

    def run(self, title, entry, *options):
        """Run entry.main(options); entry is a stage's entry module. Finished work is skipped by the stage itself."""
        options = [str(option) for option in options]
        self.count += 1
        command = command_line(entry.__spec__.name, options)
        print(f"\n=== {self.count}/{self.total}  {title}\n$ {command}", flush=True)
        begin, complete = time.perf_counter(), False
        try:
            entry.main(options)
            complete = True
        finally:
            _free_gpu()
            self.timings.add(title, command, time.perf_counter() - begin, complete)

    def attempt(self, title, entry, *options):
        """run, but what goes wrong is said and returned as a Failure, so that others can go on. None when all is well."""
        try:
            self.run(title, entry, *options)
            return None
        except Exception as error:
            sentence = explain(error)
            if sentence is None:
                traceback.print_exc()
            print(f"error: {title}: {sentence or repr(error)}", file=sys.stderr, flush=True)
            failure = Failure(title, 1 if sentence is None else 2)
        _free_gpu()  # the error held on to what its frames had there
        return failure

    def leave_out(self, title):
        """Pass over a step whose inputs could not be made. Returns its Failure."""
        self.count += 1
        print(f"\n=== {self.count}/{self.total}  {title}\nleft out: what it needs has failed", flush=True)
        return Failure(title, None)


@dataclass(frozen=True)
class Failure:
    """A step that was not done. status: of its process, 2 for a user's mistake; None: left out, because what it needs failed."""

    title: str
    status: int | None


def end(failures, total):
    """Nothing when there are no failures. Else list them: a UserError (status 2) when users can mend all of them, else status 1."""
    if not failures:
        return
    failed = [failure for failure in failures if failure.status is not None]
    left_out = len(failures) - len(failed)
    sentence = (f"{len(failed)} of {total} steps failed ({'; '.join(failure.title for failure in failed)})"
                + (f", {left_out} that need them were left out" if left_out else "")
                + f", {total - len(failures)} are done. The reasons stand above; mend them and give the same command again.")
    if all(failure.status == 2 for failure in failed):
        raise UserError(sentence)
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    sys.exit(1)


def _free_gpu():
    """Give back what a step left on the GPU: the next one may be another process, or ask how much is free."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def command_line(module, options):
    """A stage's command as one types it in the project's root, shell-quoted."""
    return shlex.join(["python", "-m", module, *(option.removeprefix(f"{ROOT}/") for option in options)])
