"""Option types and the option block that every stage prints and stores."""

import argparse
import os
from pathlib import Path

import torch

from utils.distributed import print0, slurm_shard
from utils.errors import UserError


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but not "(default: None)": there the help says in words what happens."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


_NOT_GIVEN = object()


class Parser(argparse.ArgumentParser):
    """argparse with one-sentence errors, no abbreviated options, defaults in the help, and presets.

    A preset replaces defaults, nothing else: an option that is given wins, also when it equals a default. With presets, parsed
    arguments carry `given`, the names (dest) of the options that stood on the command line, and `changed`, those of them whose
    value is not the preset's.
    """

    def __init__(self, **settings):
        settings.setdefault("formatter_class", _Formatter)
        super().__init__(allow_abbrev=False, **settings)
        self._presets = {}

    def add_preset(self, group, presets, help):
        """Add --preset to a group. presets: {name: {dest of an option: its default}}; the first is the default."""
        self._presets = presets
        group.add_argument("--preset", choices=list(presets), default=next(iter(presets)), help=help)

    def parse_args(self, args=None, namespace=None):
        if not self._presets:
            return super().parse_args(args, namespace)
        blank = argparse.Namespace(**{action.dest: _NOT_GIVEN for action in self._actions})
        found = vars(super().parse_args(args, blank))
        given = frozenset(name for name, value in found.items() if value is not _NOT_GIVEN)
        self.set_defaults(**self._presets[found["preset"] if "preset" in given else self.get_default("preset")])
        parsed = super().parse_args(args, namespace)
        parsed.given = given
        parsed.changed = frozenset(name for name in given - {"preset"} if getattr(parsed, name) != self.get_default(name))
        return parsed

    def error(self, message):
        raise UserError(f"{message} (python -m {self.prog} --help lists the options)")


def _number(kind, low, low_included, high, text):
    try:
        value = kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected {'an integer' if kind is int else 'a number'}") from None
    too_low = value < low or (value == low and not low_included)
    if too_low or not value <= high:  # "not <=" also refuses nan
        bound = f"at least {low}" if low_included else f"more than {low}"
        if high != float("inf"):
            bound += f" and at most {high}"
        raise argparse.ArgumentTypeError(f"found {text}, expected {bound}")
    return value


def positive_int(text):
    return _number(int, 1, True, float("inf"), text)


def count(text):
    """An integer of 0 or more."""
    return _number(int, 0, True, float("inf"), text)


def positive_float(text):
    return _number(float, 0, False, 1e30, text)


def weight(text):
    """A finite number of 0 or more."""
    return _number(float, 0, True, 1e30, text)


def fraction(text):
    """A number from 0 to 1, both ends included."""
    return _number(float, 0, True, 1, text)


def positive_fraction(text):
    """A number above 0 and up to 1."""
    return _number(float, 0, False, 1, text)


def path(text):
    """A path; a relative one is relative to the folder the user typed the command in.

    The shell scripts change to the project's root before they start Python, and leave the caller's folder in CALLER_DIR.
    """
    if not text:
        raise argparse.ArgumentTypeError("found an empty path")
    return Path(os.environ.get("CALLER_DIR", "."), Path(text).expanduser()).absolute()


def shard(text):
    """I/N: part I of N, counted from 0, as (I, N)."""
    index, slash, number = text.partition("/")
    if not (slash and index.isdecimal() and number.isdecimal() and int(index) < int(number)):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected I/N with I from 0 to N - 1, such as 0/4")
    return int(index), int(number)


def add_shard_argument(group):
    """--shard, for stages whose work can be shared out over jobs that know nothing of one another."""
    group.add_argument("--shard", type=shard, metavar="I/N",
                       help="do part I (0 to N - 1) of the work; N such jobs share an output folder, and a run without it does "
                            "what is missing (default: the place in a Slurm array, or 0/1: everything)")


def settle_shard(given):
    """The shard (I, N) of this process: as given, or its place in a Slurm array."""
    return slurm_shard() if given is None else given


def shard_words(part):
    """A shard as words for the option block."""
    return "everything" if part[1] == 1 else f"{part[0]}/{part[1]}"


def add_run_arguments(parser):
    """The options of group "run" that all stages share. Returns the group."""
    group = parser.add_argument_group("run")
    group.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto", help="auto: a GPU if there is one")
    group.add_argument("--threads", type=positive_int, default=None, metavar="N",
                       help="CPU threads of PyTorch; the last bits of results depend on it (default: PyTorch's choice)")
    add_workers_argument(group)
    return group


def add_workers_argument(group):
    group.add_argument("--workers", type=count, default=min(8, os.cpu_count() or 1), metavar="N",
                       help="threads or processes that decode images")


def set_threads(threads):
    """Apply --threads and return the number in force."""
    if threads is not None:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def note_unread(args, reasons):
    """Say which of the options on the command line nothing reads. reasons: {dest: what makes it unread, or None}."""
    for name, why in reasons.items():
        if why is not None and name in args.given:
            print0(f"note: --{name.replace('_', '-')} is not read with {why}")


def print_options(title, options):
    """Print resolved options, one a line, on rank 0."""
    width = max(len(name) for name in options)
    print0(f"{title}\n" + "\n".join(f"  {name:<{width}}  {value}" for name, value in options.items()))
