"""In what a finished cell departs from the paper's sizes, read from what the stages stored and not from what a script was told."""

import os
import types
from dataclasses import replace

from recover import settings as of_recover
from recover.args import get_args_parser as recover_parser
from relabel.args import get_args_parser as relabel_parser
from reproduce import commands
from reproduce.sizes import Sizes
from utils.files import read_json
from validate.args import get_args_parser as validate_parser
from validate.settings import label_kind

IMAGENET = types.SimpleNamespace(image_size=224, flips=True, classes=1000)
_FREE = {"seed", "units_per_step", "fkd_seed"}  # other values are other runs of the same cell


def departures(cell, sizes, seed):
    """Words such as "iteration 100 (paper 4000)", in order; none for a cell made as the paper's.

    Compared are recover's images.json, relabel's labels.json and the student's result.json with what the commands for
    ImageNet-1K would have stored, of the cell or of the paper's cell that it stands for.
    """
    here = commands.cell_commands(cell, replace(sizes, seeds=(seed,)))
    paper = commands.cell_commands(cell.stands_for or cell, Sizes(output_dir=sizes.output_dir, seeds=(seed,)))
    words = []
    for found, expected in zip(here, paper, strict=True):
        there, wanted = stored(found), expected_of(expected)
        words += [f"{name} {_short(there.get(name))} (paper {_short(value)})" for name, value in wanted.items()
                  if name not in _FREE and there.get(name) != value]
    return list(dict.fromkeys(words))


def expected_of(command):
    """What a stage stores for a command on ImageNet-1K: {name: value}."""
    if command.stage == "recover":
        args = recover_parser().parse_args(command.arguments)
        return {**of_recover.resolve(args, IMAGENET), "classes": IMAGENET.classes, "teacher_weights": args.teacher_weights}
    if command.stage == "relabel":
        args = relabel_parser().parse_args(command.arguments)
        names = ("teachers", "ensemble", "batch_size", "min_scale_crops", "mix_type", "teacher_weights")
        return {name: getattr(args, name) for name in names}
    args = validate_parser().parse_args(command.arguments)
    kind = label_kind(args)
    of_kind = {"teacher": ("teachers",), "hard": ("batch_size", "min_scale_crops", "weight_decay_on")}  # others: relabel's
    names = ("student", "epochs", "loss_type", "optimizer", *of_kind.get(kind, ()))
    return {**{name: getattr(args, name) for name in names}, "image_size": IMAGENET.image_size}


def stored(command):
    """What a stage stored for a command: {name: value}, empty where nothing lies."""
    name = {"recover": "images.json", "relabel": "labels.json", "validate": "result.json"}[command.stage]
    path = command.folder / name
    if not path.exists():
        return {}
    content = read_json(path, command.stage)
    found = {**content.get("options", {}), "teacher_weights": content.get("teacher_weights")}
    if command.stage == "recover":
        found["classes"] = len(content.get("identity", {}).get("classes", []))
    return found


def _short(value):
    if isinstance(value, str) and os.sep in value:  # where weights lie on one machine tells nobody anything
        return "of a local folder"
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
