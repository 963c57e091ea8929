"""Stage 1: optimise synthetic images, unit by unit (paper Eq. 2-4: recover/losses.py).

    python -m recover.data_synthesis --train-dir imagenet/train --output-dir results/prism_r18_ipc10
"""

import sys
from pathlib import Path

if not __package__:  # started by its path, without -m: rooms are found from the root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from recover.options import parse
from utils.errors import run_entry


def main(argv=None):
    options = parse(argv)
    from recover import inversion  # imports PyTorch, which --help does not need

    job = inversion.prepare(options)
    inversion.work(job)
    inversion.summarise(job)


if __name__ == "__main__":
    run_entry(main)
