"""Options: declared once, as fields of a dataclass, from which parser, manifest and code follow.

    @dataclass(frozen=True)
    class Losses:
        r_bn: float = option(0.01, "weight of the BN term", type=weight)

    @dataclass(frozen=True)
    class Options(RoomOptions):
        losses: Losses

    options = parse(Options, argv, prog="recover.data_synthesis", description="...", presets={...})
    options.losses.r_bn

The pure functions of a room take such a dataclass, or its numbers. This module imports no PyTorch,
so that --help answers at once.
"""

import argparse
import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from utils.distributed import print0, slurm_shard
from utils.errors import UserError

GROUPS = ("data", "method", "size", "advanced")  # of --help, in this order


def option(default, help, *, group="advanced", changes_result=True, **argument):
    """A dataclass field that is an option.

    default: None means that it follows from the data or from other options; the help says how.
    group: one of GROUPS. changes_result: whether the value is stored with the result, so that a
    folder made with another value is refused. argument: type, choices, nargs, metavar, action,
    required, as for argparse; a field whose default is False becomes a flag.
    """
    metadata = {"help": help, "group": group, "changes_result": changes_result,
                "argument": argument}
    return dataclasses.field(default=default, metadata=metadata)


# Types of options: functions from text to value, which raise what argparse turns into a sentence.

def _number(kind, low, low_included, high, text):
    try:
        value = kind(text)
    except ValueError:
        expected = "an integer" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"found {text!r}, expected {expected}") from None
    too_low = value < low or (value == low and not low_included)
    if too_low or not value <= high:  # "not <=" also refuses nan
        bound = f"at least {low}" if low_included else f"more than {low}"
        if high <= 1 or value > high:
            bound += f" and at most {high}"
        raise argparse.ArgumentTypeError(f"found {text}, expected {bound}")
    return value


_MANY = 10**9  # of anything that is counted; more is a slip, and would overflow far from here


def positive_int(text):
    return _number(int, 1, True, _MANY, text)


def count(text):
    """An integer from 0 to a thousand million."""
    return _number(int, 0, True, _MANY, text)


def side(text):
    """A side in pixels: with more a typing error would fill the memory."""
    return _number(int, 1, True, 4096, text)


def seed(text):
    """An integer from 0 to the largest that 64 bits with a sign hold."""
    return _number(int, 0, True, 2**63 - 1, text)


def thread_count(text):
    """A number of threads, which no machine has more of."""
    return _number(int, 1, True, 1024, text)


def worker_count(text):
    """Likewise, or 0 for none beside the main one."""
    return _number(int, 0, True, 1024, text)


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

    The shell scripts change to the project's root before they start Python, and leave the caller's
    folder in CALLER_DIR. Raises UserError for the home folder of a user that there is not.
    """
    if not text:
        raise argparse.ArgumentTypeError("found an empty path")
    try:
        expanded = Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{text}: there is no home folder of this user. Give a path without ~, or "
                        "./~ where a folder is called so.") from None
    return Path(os.environ.get("CALLER_DIR", "."), expanded).absolute()


def shard(text):
    """I/N: part I of N, counted from 0, as (I, N)."""
    index, slash, number = text.partition("/")
    if not (slash and index.isdecimal() and number.isdecimal() and int(index) < int(number)):
        raise argparse.ArgumentTypeError(
            f"found {text!r}, expected I/N with I from 0 to N - 1, such as 0/4")
    return int(index), int(number)


@dataclass(frozen=True, kw_only=True)
class RoomOptions:
    """What the options of every room have: groups of options as fields, and how they came about.

    preset: name of the preset, "" where the room has none. given: names of the options on the
    command line. changed: those of them whose value is not the preset's.
    """

    preset: str = ""
    given: frozenset = frozenset()
    changed: frozenset = frozenset()


@dataclass(frozen=True)
class Run:
    """How a stage runs. No result depends on it, but for the last bits on the threads."""

    device: str = option("auto", "auto: a GPU if there is one", changes_result=False,
                         choices=("auto", "cuda", "cpu"))
    threads: int | None = option(
        None, "CPU threads of PyTorch; the last bits of results depend on their number (default: "
        "PyTorch's choice)", changes_result=False, type=thread_count,
        metavar="N")
    workers: int = option(
        min(8, os.cpu_count() or 1), "threads or processes that decode images",
        changes_result=False, type=worker_count, metavar="N")


@dataclass(frozen=True)
class StageRun(Run):
    """How a stage runs that has losses or accuracies to show."""

    report_to: str = option(
        "none", "tensorboard, wandb: show losses and accuracies as curves there, too (pip install "
        "it; wandb with your own login, or WANDB_MODE=offline)", changes_result=False,
        choices=("none", "tensorboard", "wandb"))


@dataclass(frozen=True)
class SharedRun(StageRun):
    """How a stage runs whose work can be shared out over independent jobs."""

    shard: tuple | None = option(
        None, "do part I (0 to N - 1) of the work. N such jobs share an output folder, and a run "
        "without this option does what is missing (default: the place in a Slurm array, or 0/1: "
        "everything)", changes_result=False, type=shard, metavar="I/N")


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but not "(default: None)": there the help says in words what happens."""

    def _get_help_string(self, action):
        default = action.default
        if default is None or default is False or default == ():
            return action.help
        if isinstance(default, tuple):
            return f"{action.help} (default: {_words(default)})"
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """argparse with errors of one sentence, no abbreviated options, and defaults in the help."""

    def __init__(self, **settings):
        settings.setdefault("formatter_class", _Formatter)
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message):
        raise UserError(f"{message} (python -m {self.prog} --help lists the options)")


_NOT_GIVEN = object()


def build_parser(kind, prog, description, presets=None):
    """The Parser of a RoomOptions class.

    presets: {name: {option: default}}; the first one is the default.
    """
    parser = Parser(prog=prog, description=description,
                    usage="python -m %(prog)s [--option value ...]")
    groups = {name: parser.add_argument_group(name) for name in GROUPS}
    if presets:
        groups["method"].add_argument(
            "--preset", choices=list(presets), default=next(iter(presets)),
            help="defaults of another method of the field; an option that is given still wins")
    for field in option_fields(kind):
        argument = dict(field.metadata["argument"])
        if field.default is False:
            argument.setdefault("action", "store_true")
        groups[field.metadata["group"]].add_argument(
            "--" + field.name.replace("_", "-"), default=field.default,
            help=field.metadata["help"], **argument)
    return parser


def parse(kind, argv=None, *, prog, description, presets=None):
    """An instance of `kind`, a RoomOptions class, from the command line (sys.argv where None)."""
    parser = build_parser(kind, prog, description, presets)
    blank = argparse.Namespace(**{action.dest: _NOT_GIVEN for action in parser._actions})
    given = {name: value for name, value in vars(parser.parse_args(argv, blank)).items()
             if value is not _NOT_GIVEN}
    return from_values(kind, given, presets)


def from_values(kind, given, presets=None):
    """An instance of `kind` from {option: value}: what is not given is the preset's, or default."""
    preset = given.get("preset", next(iter(presets)) if presets else "")
    defaults = {field.name: field.default for field in option_fields(kind)}
    defaults = _frozen({**defaults, **(presets[preset] if presets else {})})
    values = {**defaults, **_frozen({name: value for name, value in given.items()
                                     if name != "preset"})}
    _check_names(kind, values)
    changed = {name for name, value in values.items() if value != defaults[name]}
    groups = {group.name: group.type(**{field.name: values[field.name]
                                        for field in dataclasses.fields(group.type)})
              for group in _groups(kind)}
    return kind(preset=preset, given=frozenset(given) - {"preset"}, changed=frozenset(changed),
                **groups)


def _check_names(kind, names):
    """Raise TypeError for a name that is no option."""
    unknown = set(names) - {field.name for field in option_fields(kind)}
    if unknown:
        raise TypeError(f"there is no option {min(unknown)}")


def _frozen(values):
    """{name: value} with lists as tuples, which compare equal to a frozen dataclass's."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}


def option_fields(kind):
    """The dataclass fields that are options, of all groups of a RoomOptions class."""
    return [field for group in _groups(kind) for field in dataclasses.fields(group.type)]


def _groups(kind):
    return [field for field in dataclasses.fields(kind) if dataclasses.is_dataclass(field.type)]


def as_dict(options):
    """{name: value} of all options of a RoomOptions instance."""
    return {field.name: getattr(getattr(options, group.name), field.name)
            for group in _groups(type(options)) for field in dataclasses.fields(group.type)}


def stored(options):
    """{name: value} of the options that change the result: what a manifest keeps and compares."""
    keep = {f.name for f in option_fields(type(options)) if f.metadata["changes_result"]}
    return {name: value for name, value in as_dict(options).items() if name in keep}


def shown(options):
    """{name: value} of the options worth printing: advanced ones only where they are not default.

    The manifest keeps all that change the result.
    """
    values = as_dict(options)
    return {field.name: values[field.name] for field in option_fields(type(options))
            if values[field.name] is not None
            and (field.metadata["group"] != "advanced" or values[field.name] != field.default)}


def with_values(options, **values):
    """A copy of a RoomOptions instance with other values for some of its options."""
    _check_names(type(options), values)
    groups = {}
    for group in _groups(type(options)):
        names = {field.name for field in dataclasses.fields(group.type)}
        own = {name: value for name, value in values.items() if name in names}
        groups[group.name] = dataclasses.replace(getattr(options, group.name), **own)
    return dataclasses.replace(options, **groups)


def print_options(title, values):
    """Print {name: value}, one a line, on rank 0."""
    width = max(len(name) for name in values)
    lines = [f"  {name:<{width}}  {_words(value)}" for name, value in values.items()]
    print0("\n".join([title, *lines]))


def _words(value):
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def settle_shard(given):
    """The shard (I, N) of this process: as given, or its place in a Slurm array."""
    return slurm_shard() if given is None else given


def shard_words(part):
    """A shard as words."""
    return "everything" if part[1] == 1 else f"{part[0]}/{part[1]}"


def flag(name):
    """The option of a name, as one types it."""
    return "--" + name.replace("_", "-")
