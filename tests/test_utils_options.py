"""Presets: they replace defaults and nothing else, and hold values that their options would take from the command line."""

import importlib

import pytest

from utils import options
from utils.errors import UserError

STAGES = {"recover": ["--output-dir", "x"], "relabel": ["--output-dir", "x"], "validate": []}  # with what each needs
CASES = [(stage, name) for stage in STAGES for name in importlib.import_module(f"{stage}.presets").PRESETS]


@pytest.mark.parametrize(("stage", "name"), CASES)
def test_a_preset_holds_values_of_its_options(stage, name):
    parser = importlib.import_module(f"{stage}.args").get_args_parser()
    actions = {action.dest: action for action in parser._actions}
    args = parser.parse_args([*STAGES[stage], "--preset", name])
    for dest, value in importlib.import_module(f"{stage}.presets").PRESETS[name].items():
        action = actions[dest]
        assert getattr(args, dest) == value
        for one in value if action.nargs in ("+", "*") else [value]:
            assert one in action.choices if action.choices else (action.type or str)(str(one)) == one


def parser():
    found = options.Parser(prog="test")
    found.add_preset(found, {"plain": {}, "fast": {"lr": 0.5, "steps": 10}}, "which")
    found.add_argument("--lr", type=options.positive_float, default=0.1)
    found.add_argument("--steps", type=options.positive_int, default=100)
    return found


def test_an_option_that_is_given_wins_also_when_it_equals_a_default():
    assert (parser().parse_args([]).lr, parser().parse_args([]).steps) == (0.1, 100)
    args = parser().parse_args(["--preset", "fast", "--lr", "0.1"])
    assert (args.lr, args.steps) == (0.1, 10)
    assert args.given == {"preset", "lr"}
    assert args.changed == {"lr"}
    same = parser().parse_args(["--steps", "10", "--preset", "fast"])
    assert (same.given, same.changed) == ({"preset", "steps"}, set())


def test_only_given_options_are_noted_as_unread(capsys):
    args = parser().parse_args(["--lr", "0.2"])
    options.note_unread(args, {"lr": "--x", "steps": "--x"})
    assert capsys.readouterr().out == "note: --lr is not read with --x\n"


def test_an_unknown_preset_is_one_sentence():
    with pytest.raises(UserError, match="invalid choice: 'slow'"):
        parser().parse_args(["--preset", "slow"])
