"""Steps of a longer run: a banner and the seconds of each, and what becomes of the others when one
fails."""

import gc
import math
import sys
import time
import traceback
from dataclasses import dataclass

from reproduce import command_line
from utils.errors import UserError, explain
from utils.files import damaged, read_json, write_json
from utils.text import printable


def read_timings(path):
    """What Timings keeps; {} where nothing was timed yet. Raises UserError for a damaged file."""
    if not path.exists():
        return {}
    timings = read_json(path, "the same command")
    for title, step in timings.items():
        try:
            whole = isinstance(step["command"], str) and 0 <= step["seconds"] < math.inf
        except (KeyError, TypeError):
            whole = False
        if not whole:
            raise damaged(path, "the same command", f"step {title!r}")
    return timings


class Timings:
    """A JSON file with the seconds of each step.

    They are those of the step's first complete run and of the stopped ones before it. A later
    start, which finds the step finished, adds nothing.

    seconds: {title: {"seconds", "command", "stopped" (only while the step is not complete)}}. It is
    read anew whenever something is added, because two commands may share a folder.
    """

    def __init__(self, path):
        self.path = path
        self.seconds = read_timings(path)

    def add(self, title, command, seconds, complete):
        """Add the seconds of a start. command: its line; with another one the count begins anew."""
        self.seconds = read_timings(self.path)
        known = self.seconds.get(title, {})
        if known.get("command") != command:
            known = {"seconds": 0.0, "command": command, "stopped": True}
        if "stopped" not in known:
            return
        total = round(known["seconds"] + seconds, 1)
        stopped = {} if complete else {"stopped": True}
        self.seconds[title] = {"seconds": total, "command": command, **stopped}
        write_json(self.path, self.seconds)


@dataclass(frozen=True)
class Failure:
    """A step that was not done.

    status: 2 for a user's mistake, 1 for a defect, None where what the step needs has failed.
    """

    title: str
    status: int | None


class Steps:
    """Calls stages one after the other in this process, which imports PyTorch only once.

    total: number of steps, for the banners. timings: path of the Timings.
    """

    def __init__(self, total, timings):
        self.total, self.timings, self.count = total, Timings(timings), 0

    def run(self, title, entry, *arguments):
        """Run entry.main(arguments), where entry is a stage's entry module.

        The stage itself skips what is finished.
        """
        arguments = [str(argument) for argument in arguments]
        command = command_line(entry.__spec__.name, arguments)
        self._banner(title)
        print(f"$ {command}", flush=True)

        begin, complete = time.perf_counter(), False
        try:
            entry.main(arguments)
            complete = True
        finally:
            self.timings.add(title, command, time.perf_counter() - begin, complete)
            _free_gpu()

    def attempt(self, title, entry, *arguments):
        """Run a step; print what goes wrong and return it as a Failure. None when all is well."""
        try:
            self.run(title, entry, *arguments)
            return None
        except Exception as error:
            sentence = explain(error)
            if sentence is None:
                traceback.print_exc()
            print(printable(f"error: {title}: {sentence or repr(error)}"), file=sys.stderr,
                  flush=True)
        _free_gpu()  # the error held on to what its frames had on the GPU
        return Failure(title, 1 if sentence is None else 2)

    def leave_out(self, title):
        """Pass over a step whose inputs could not be made, and return its Failure."""
        self._banner(title)
        print("left out: what it needs has failed", flush=True)
        return Failure(title, None)

    def _banner(self, title):
        self.count += 1
        print(f"\n=== {self.count}/{self.total}  {title}", flush=True)


def end(failures, total):
    """Raise UserError (exit status 2) when users can mend all failures; else exit with status 1.

    Does nothing without failures.
    """
    if not failures:
        return
    failed = [failure for failure in failures if failure.status is not None]
    sentence = (f"{len(failed)} of {total} steps failed "
                f"({'; '.join(failure.title for failure in failed)})")
    if len(failures) > len(failed):
        sentence += f", {len(failures) - len(failed)} that need them were left out"
    sentence += (f", {total - len(failures)} are done. The reasons are printed above; mend them "
                 "and give the same command again.")

    if all(failure.status == 2 for failure in failed):
        raise UserError(sentence)
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    sys.exit(1)


def _free_gpu():
    """Give back the memory that a step left on the GPU."""
    import torch

    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
