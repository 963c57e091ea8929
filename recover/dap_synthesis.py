"""Stage 1 by DAP: sample images from a diffusion model (Algorithm 1: recover/dap/sampler.py).

    python -m recover.dap_synthesis --train-dir imagenet/train --classes imagenette \\
        --output-dir results/dap_nette_ipc10
"""

import sys
from pathlib import Path

if not __package__:  # started by its path, without -m: rooms are found from the root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from recover.dap.options import parse
from utils.errors import run_entry


def main(argv=None):
    options = parse(argv)
    from recover.dap import generation  # imports PyTorch, which --help does not need

    job = generation.prepare(options)
    generation.work(job)
    generation.summarise(job)


if __name__ == "__main__":
    run_entry(main)
