"""Progress bars that look right in a terminal and stay short in a log file."""

import sys

from tqdm import tqdm

from utils.distributed import rank
from utils.text import printable


class _Bar(tqdm):
    """A bar that may end in the name of a class."""

    def set_postfix_str(self, s="", refresh=True):
        super().set_postfix_str(printable(s), refresh)


def progress_bar(total, desc, unit, leave=True, **settings):
    """A tqdm bar, shown on rank 0 only.

    Written to a file it gives a line every 20 seconds instead of ten a second. One that vanishes at
    its end (leave=False) gives none there before 20 seconds are over.
    """
    terminal = sys.stderr.isatty()
    interval = 0.2 if terminal else 20
    return _Bar(total=total, desc=printable(desc), unit=unit, leave=leave, disable=rank() != 0,
                mininterval=interval, maxinterval=interval + 10,
                delay=0 if leave or terminal else interval, dynamic_ncols=True, **settings)


def write_above(bar, text):
    """Print a line above a bar; in a log file just the line, without drawing the bar again."""
    if bar.disable:
        return
    if sys.stderr.isatty():
        bar.write(printable(text))
    else:
        print(printable(text), flush=True)


def duration(seconds):
    """Seconds as words: 45 s, 12 min, 5.1 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size_words(count):
    """Bytes as words: 6.1 GB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"
