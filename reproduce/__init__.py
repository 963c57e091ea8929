"""The paper's tables cell by cell, the laboratories, the quickstart, the ImageNet laptop, and the
comparison of anybody's sets.

This room calls the stages only: on the command line of its own process, or as jobs of Snakemake.
"""

import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def command_line(module, arguments):
    """A command as one types it in the project's root, shell-quoted."""
    short = [str(argument).removeprefix(f"{ROOT}/") for argument in arguments]
    return shlex.join(["python", "-m", module, *short])
