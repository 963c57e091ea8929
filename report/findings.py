"""What a check of files finds: printed as it comes, and counted."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from utils.distributed import print0
from utils.errors import UserError, explain
from utils.progress import progress_bar


class Findings:
    """Prints what a check finds. problems, unknowns: how many there were."""

    def __init__(self):
        self.problems = self.unknowns = 0

    def say(self, sentence):
        print0(sentence)

    def problem(self, sentence):
        """A file is missing, or does not hold what it should."""
        self.problems += 1
        self.say(f"problem: {sentence}")

    def unknown(self, sentence):
        """Nothing in the folder tells whether something is as it should be."""
        self.unknowns += 1
        self.say(f"not verified: {sentence}")

    def attempt(self, function, item):
        """What function(item) returns; None after a UserError or an OSError, a problem."""
        try:
            return function(item)
        except (UserError, OSError, ValueError) as error:
            self.problem(_sentence(error, item))

    def each(self, function, items, workers):
        """attempt function(item) for all items, in threads. Returns the items with a problem."""
        def sentence(item):
            try:
                function(item)
            except (UserError, OSError, ValueError) as error:
                return _sentence(error, item)
            finally:
                bar.update(1)

        # In a process that was forked from one with threads of PyTorch's, the first use makes them
        # anew, which fails when several threads do so at once.
        torch.set_num_threads(torch.get_num_threads())
        bad = []
        with (progress_bar(len(items), "check", " files", leave=False) as bar,
              ThreadPoolExecutor(workers) as pool):
            for item, text in zip(items, pool.map(sentence, items), strict=True):
                if text:
                    self.problem(text)
                    bad.append(item)
        return bad

    def __str__(self):
        """In words."""
        words = f"{self.problems or 'no'} problem{'s' * (self.problems > 1)}"
        if self.unknowns:
            words += f", {self.unknowns} thing{'s' * (self.unknowns > 1)} not verified"
        return words


def _sentence(error, item):
    """What went wrong with an item, which a failing disk does not name."""
    if isinstance(error, OSError):
        error.filename = error.filename or str(item)
    if isinstance(error, ValueError):  # such as a zero byte in a name
        return f"{item}: {error}."
    return explain(error) or f"{error.filename}: cannot be read ({error.strerror})."


def check_file(path, missing="missing."):
    """Raise UserError unless a path is a regular file, or a link to one, that may be read.

    Reading a FIFO or a device might never end. missing: what to say where there is nothing.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        why = "is a link to a file that is missing. Remove it." if path.is_symlink() else missing
        raise UserError(f"{path}: {why}") from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a FIFO, a socket or a device"
        raise UserError(f"{path}: is {kind}, expected a file. Remove it.")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path}: no permission to read it. Change its permissions.")
