"""Lists of classes: the subsets of ImageNet that papers distil (data/classes/), or anybody's file.

A line of a list is the name of a class folder, then, after a space, what it shows. The order of the
lines is the order of the labels. Imports no PyTorch.
"""

import os
from pathlib import Path

from utils import options
from utils.errors import UserError

_FOLDER = Path(__file__).parent / "classes"


def class_list(name):
    """The class folders of a list, in the order of their labels, as a tuple.

    name: "imagenette", "imagewoof", "imageidc", or the path of a text file. Raises UserError for a
    file that is missing, empty, or names a class twice.
    """
    file = _file(name)
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as a list of classes ({error}). Expected one of "
                        f"{', '.join(known_lists())}, or a text file with a class folder in each "
                        "line.") from None

    names = [line.split()[0] for line in lines if line.strip()]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if not names or repeated:
        found = f"{repeated} twice" if repeated else "no line"
        raise UserError(f"{file}: found {found}, expected a class folder in each line. Mend the "
                        "file.")
    return tuple(names)


def known_lists():
    """Names of the lists that come with the project."""
    return sorted(file.stem for file in _FOLDER.glob("*.txt"))


def _file(name):
    if os.sep not in str(name) and (_FOLDER / f"{name}.txt").exists():
        return _FOLDER / f"{name}.txt"
    return options.path(str(name))
