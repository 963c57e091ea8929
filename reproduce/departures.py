"""In what a finished cell is not as in the paper, by what the stages stored with it.

What a script is told later makes no difference: a short run cannot pass for the paper's.
"""

import json
import os
from dataclasses import dataclass, replace

from data.class_lists import class_list
from recover import options as recover_options
from recover.dap import options as dap_options
from relabel import options as relabel_options
from reproduce import commands
from reproduce.sizes import Sizes
from utils import options
from utils.files import read_json
from validate import hard_options
from validate import options as validate_options


def _stored_by(resolve):
    """Function of (options, images) that gives what a stage stores, from its `resolve`."""
    return lambda o, images: options.stored(resolve(o, images))


# What each stage stores for options and the images of ImageNet
_STORED = {
    "recover": _stored_by(recover_options.resolve), "relabel": _stored_by(relabel_options.resolve),
    "validate": lambda o, images: {  # a student's stem is that of its teachers, published ones
        **options.stored(validate_options.resolve(o, images)),
        "stem": o.student.stem or "imagenet"},
    "dap": _stored_by(lambda o, _: dap_options.resolve(o)),
    "hard": lambda o, images: hard_options.result_options(
        o, hard_options.recipe_of(o, images), images),
}
_MANIFEST = {"recover": "images.json", "dap": "images.json", "relabel": "labels.json",
             "validate": "result.json", "hard": "result.json"}

# Options whose other values make another run of the same cell, or change last bits alone.
_FREE = {"seed", "fkd_seed", "units_per_step", "micro_batches", "compile"}
_TEACHERS = ("recover", "relabel")  # stages that store where the teachers' weights are from


@dataclass(frozen=True)
class _ImageNet:
    """ImageNet-1K, or some of its classes, as far as options depend on them.

    ipc: images per class.
    """

    ipc: int
    classes: tuple
    dataset: str = "imagefolder"
    image_size: int = 224

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
    images = images_of(paper_cell)
    for command, paper in zip(here, commands.cell_commands(paper_cell, paper_sizes), strict=True):
        values = stored(command)
        words += [f"{name} {_short(values.get(name))} (paper {_short(value)})"
                  for name, value in expected(paper, images).items()
                  if values.get(name) != value]
    return list(dict.fromkeys(words))


def images_of(cell):
    """The _ImageNet of a cell of the paper: all of ImageNet-1K, or some of its classes."""
    name = cell.images.options.get("classes")
    return _ImageNet(cell.ipc, class_list(name) if name else tuple(range(1000)))


def expected(command, images):
    """{name: value} that a stage stores for a command of the paper, without what is left open.

    images: an _ImageNet.
    """
    o = command.parsed()
    values = _STORED[command.stage](o, images)
    if command.stage in ("recover", "dap"):
        values |= {"ipc": images.ipc, "class_count": len(images.classes)}
    if command.stage in _TEACHERS:
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
    if command.stage in ("recover", "dap"):
        values |= {"ipc": command.options["ipc_end"],
                   "class_count": len(content["identity"]["classes"])}
    return values


def _short(value):
    if isinstance(value, str) and os.sep in value:  # a folder of one machine tells nobody anything
        return "of a local folder"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
