"""A stage as a process of its own that a signal strikes when it has written its N-th file.

    python tests/killed.py SIGKILL N MODULE [option ...]

The file is whole then, but still has its temporary name.
"""

import importlib
import itertools
import os
import signal
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])


def strike(number, place):
    """Send this process a signal before the place-th rename of a file (1 is the first)."""
    rename, places = os.replace, itertools.count(1)

    def replace(source, target):
        if next(places) == place:
            os.kill(os.getpid(), number)
        rename(source, target)

    os.replace = replace


if __name__ == "__main__":
    from utils.errors import run_entry

    name, place, module, *options = sys.argv[1:]
    strike(signal.Signals[name], int(place))
    run_entry(importlib.import_module(module).main, options)
