"""In what a finished cell is not as in the paper, by what the stages stored with it.

What a script is told later makes no difference: a short run cannot pass for the paper's.
"""

import json
import os
from dataclasses import dataclass, replace

from recover import options as recover_options
from relabel import options as relabel_options
from reproduce import commands
from reproduce.sizes import Sizes
from utils import options
from utils.files import read_json
from validate import options as validate_options

_RESOLVE = {"recover": recover_options.resolve, "relabel": relabel_options.resolve,
            "validate": validate_options.resolve}
_MANIFEST = {"recover": "images.json", "relabel": "labels.json", "validate": "result.json"}

# Options whose other values make another run of the same cell, or change last bits alone.
_FREE = {"seed", "fkd_seed", "units_per_step", "micro_batches", "compile"}


@dataclass(frozen=True)
class _ImageNet:
    """ImageNet-1K as far as options depend on it: `ipc` images per class at 224 px."""

    ipc: int
    dataset: str = "imagefolder"
    image_size: int = 224
    flips: bool = True
    classes: range = range(1000)

    def __len__(self):
        return self.ipc * len(self.classes)


def departures(cell, sizes, seed):
    """Words such as "iteration 100 (paper 4000)"; none for a cell that was made as the paper's.

    What the stages stored is compared with the options of the paper's commands on ImageNet-1K,
    where what follows from the data and from other options is filled in. For a cell that stands
    for another one, these are the commands of the other.
    """
    paper_cell = cell.stands_for or cell
    paper_sizes = Sizes(output_dir=sizes.output_dir, seeds=(seed,))
    here = commands.cell_commands(cell, replace(sizes, seeds=(seed,)))
    words = []
    for command, paper in zip(here, commands.cell_commands(paper_cell, paper_sizes), strict=True):
        values = stored(command)
        words += [f"{name} {_short(values.get(name))} (paper {_short(value)})"
                  for name, value in expected(paper, paper_cell.ipc).items()
                  if values.get(name) != value]
    return list(dict.fromkeys(words))


def expected(command, ipc):
    """{name: value} that a stage stores for a command of the paper, without what is left open."""
    o = _RESOLVE[command.stage](command.parsed(), _ImageNet(ipc))
    values = options.stored(o)
    if command.stage == "recover":
        values |= {"ipc": ipc, "classes": 1000}
    if command.stage != "validate":
        values["teacher_weights"] = options.as_dict(o)["teacher_weights"]
    return {name: value for name, value in json.loads(json.dumps(values)).items()
            if value is not None and name not in _FREE}


def stored(command):
    """{name: value} that a stage stored for a command; empty where it has stored nothing."""
    path = command.folder / _MANIFEST[command.stage]
    if not path.exists():
        return {}
    content = read_json(path, command.stage)
    values = {**content["options"], "teacher_weights": content.get("teacher_weights")}
    if command.stage == "recover":
        values |= {"ipc": command.options["ipc_end"],
                   "classes": len(content["identity"]["classes"])}
    return values


def _short(value):
    if isinstance(value, str) and os.sep in value:  # a folder of one machine tells nobody anything
        return "of a local folder"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
