import argparse
import dataclasses
import importlib
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from utils import options
from utils.errors import UserError
from utils.options import RoomOptions, option

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Losses:
    lr: float = option(0.1, "learning rate", group="method", type=options.positive_float)
    teachers: tuple = option(("a", "b"), "names", nargs="*")
    exact: bool = option(False, "whether it is exact")


@dataclass(frozen=True)
class Run:
    steps: int = option(100, "number of steps", group="size", type=options.positive_int)
    log_every: int | None = option(None, "steps between lines (default: a tenth)",
                                   changes_result=False, type=options.positive_int)


@dataclass(frozen=True)
class Options(RoomOptions):
    losses: Losses
    run: Run


PRESETS = {"plain": {}, "fast": {"lr": 0.5, "steps": 10, "teachers": ["c"]}}


def parse(*argv, presets=PRESETS):
    return options.parse(Options, list(argv), prog="room.entry", description="Do it.",
                         presets=presets)


# Declared once

def test_defaults_are_the_fields():
    parsed = parse()
    assert parsed == Options(losses=Losses(), run=Run(), preset="plain")
    assert options.as_dict(parsed) == {"lr": 0.1, "teachers": ("a", "b"), "exact": False,
                                       "steps": 100, "log_every": None}
    assert parse(presets=None).preset == ""


def test_the_command_line_sets_fields():
    parsed = parse("--lr", "0.3", "--teachers", "x", "--exact", "--log-every", "7")
    assert parsed.losses == Losses(lr=0.3, teachers=("x",), exact=True)
    assert parsed.run == Run(log_every=7)
    assert parse("--teachers").losses.teachers == ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        parsed.losses.lr = 1.0


def test_an_option_that_is_given_wins_over_the_preset():
    """Also when it equals the default."""
    parsed = parse("--lr", "0.1", "--preset", "fast")
    assert (parsed.preset, parsed.losses.lr, parsed.run.steps) == ("fast", 0.1, 10)
    assert parsed.losses.teachers == ("c",)
    assert (parsed.given, parsed.changed) == ({"lr"}, {"lr"})
    same = parse("--preset", "fast", "--steps", "10", "--teachers", "c")
    assert (same.given, same.changed) == ({"steps", "teachers"}, frozenset())


def test_values_and_command_line_give_the_same():
    given = {"preset": "fast", "lr": 0.3, "teachers": ["x"]}
    parsed = parse("--preset", "fast", "--lr", "0.3", "--teachers", "x")
    assert options.from_values(Options, given, PRESETS) == parsed


def test_what_is_stored_is_what_changes_the_result():
    stored = {"lr": 0.1, "teachers": ("a", "b"), "exact": False, "steps": 100}
    assert options.stored(parse("--log-every", "3")) == stored


def test_with_values_changes_a_copy():
    parsed = parse("--lr", "0.3")
    other = options.with_values(parsed, steps=7, exact=True)
    assert (other.run.steps, other.losses.exact, other.losses.lr) == (7, True, 0.3)
    assert other.given == {"lr"}
    assert parsed.run.steps == 100


def test_a_name_that_is_no_option_is_refused():
    with pytest.raises(TypeError, match="there is no option step"):
        options.with_values(parse(), step=7)
    with pytest.raises(TypeError, match="there is no option step"):
        options.from_values(Options, {"step": 7}, PRESETS)
    with pytest.raises(TypeError, match="there is no option step"):
        options.from_values(Options, {}, {"plain": {"step": 7}})


def test_help_shows_groups_defaults_and_presets(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    text = capsys.readouterr().out
    places = [text.index(title) for title in ("\ndata:", "\nmethod:", "\nsize:", "\nadvanced:")
              if title in text]
    assert places == sorted(places)
    assert re.search(r"method:\n  --preset \{plain,fast\}", text)
    assert re.search(r"--lr LR +learning rate \(default: 0.1\)", text)
    assert re.search(r"--exact +whether it is exact\n", text)
    assert re.search(r"--teachers .*\n? +names \(default: a b\)", text)
    assert "(default: None)" not in text


# Mistakes

@pytest.mark.parametrize(("argv", "message"), [
    (["--preset", "slow"], "argument --preset: invalid choice: 'slow'"),
    (["--lr", "x"], "argument --lr: found 'x', expected a number"),
    (["--lr", "0"], "argument --lr: found 0, expected more than 0"),
    (["--steps", "0.5"], "argument --steps: found '0.5', expected an integer"),
    (["--step", "5"], "unrecognized arguments: --step 5"),  # nothing is abbreviated
])
def test_a_mistake_is_one_sentence(argv, message):
    with pytest.raises(UserError, match=message + ".* .python -m room.entry --help lists"):
        parse(*argv)


@pytest.mark.parametrize(("kind", "good", "bad"), [
    (options.positive_int, {"1": 1, "1000000000": 10**9},
     ["0", "-1", "1.5", "x", "", "1000000001", "9" * 5000]),
    (options.count, {"0": 0, "1000000000": 10**9}, ["-1", "x", "1000000001"]),
    (options.seed, {"0": 0, str(2**63 - 1): 2**63 - 1}, ["-1", "x", str(2**63)]),
    (options.thread_count, {"1": 1, "1024": 1024}, ["0", "1025", "2147483648"]),
    (options.worker_count, {"0": 0, "1024": 1024}, ["-1", "1025", "100000"]),
    (options.positive_float, {"1e-3": 0.001}, ["0", "nan", "inf", "-1"]),
    (options.weight, {"0": 0.0}, ["-1", "nan", "inf"]),
    (options.fraction, {"0": 0.0, "1": 1.0}, ["1.1", "-0.1", "nan"]),
    (options.positive_fraction, {"1": 1.0}, ["0", "1.1"]),
    (options.shard, {"3/4": (3, 4)}, ["4/4", "-1/4", "1", "1/", "a/b", "0/0", "1.0/2", "/3"]),
])
def test_types(kind, good, bad):
    assert {text: kind(text) for text in good} == good
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match="found .*, expected"):
            kind(text)


def test_paths_are_relative_to_the_caller(monkeypatch, tmp_path):
    monkeypatch.setenv("CALLER_DIR", str(tmp_path))
    assert options.path("a/b") == tmp_path / "a/b"
    assert options.path("/x") == Path("/x")
    with pytest.raises(argparse.ArgumentTypeError, match="found an empty path"):
        options.path("")
    with pytest.raises(UserError, match="~nobody-here/x: there is no home folder of this user"):
        options.path("~nobody-here/x")


def test_a_shard_that_is_given_wins_over_the_slurm_array(monkeypatch):
    for name, value in (("ID", 3), ("COUNT", 8), ("MIN", 0), ("MAX", 7)):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    assert options.settle_shard(None) == (3, 8)
    assert options.settle_shard((1, 2)) == (1, 2)


def test_options_need_no_torch():
    heavy = ("torch", "numpy", "PIL")
    code = f"import sys, utils.options, utils.precision; print(set({heavy}) & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout == "set()\n", run.stderr


# The presets of the rooms

ROOMS = ("recover", "relabel", "validate")
CASES = [(room, name) for room in ROOMS
         for name in importlib.import_module(f"{room}.presets").PRESETS]


@pytest.mark.parametrize(("room", "name"), CASES)
def test_a_preset_holds_values_of_its_options(room, name):
    """Values that the options would take from the command line."""
    kind = importlib.import_module(f"{room}.options").Options
    presets = importlib.import_module(f"{room}.presets").PRESETS
    preset = options.as_dict(options.from_values(kind, {"preset": name}, presets))
    fields = {field.name: field for field in options.option_fields(kind)}
    for option_name, value in presets[name].items():
        argument = fields[option_name].metadata["argument"]
        several = isinstance(value, (list, tuple))
        assert preset[option_name] == (tuple(value) if several else value)
        for one in value if several else [value]:
            if "choices" in argument:
                assert one in argument["choices"]
            elif not isinstance(value, bool):
                assert argument.get("type", str)(str(one)) == one
