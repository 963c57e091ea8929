"""Lists of classes: the subsets of ImageNet that papers distil (data/classes/), or anybody's file.

A line of a list is the name of a class folder, then, after a space, what it shows. The order of the
lines is the order of the labels. Imports no PyTorch.
"""

import os
from pathlib import Path

from data.names import is_wnids
from utils import options
from utils.errors import UserError

_FOLDER = Path(__file__).parent / "classes"


def class_list(name, whole_lines=False):
    """The class folders of a list, in the order of their labels, as a tuple.

    name: "imagenette", "imagewoof", "imageidc", the path of a text file, or the class folders
    themselves with commas between them. whole_lines: see class_names. Raises UserError for a file
    that is missing, and for a list that is empty or names a class twice.
    """
    file = _file(name)
    try:
        typed = "," in name and not file.exists()
        lines = name.split(",") if typed else file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as a list of classes ({error}). Expected one of "
                        f"{', '.join(known_lists())}, a text file with a class folder in each "
                        "line, or class folders with commas between them.") from None

    names = [line.strip() for line in lines if line.strip()]
    folders = [line.split()[0] for line in names]
    if not typed and (not whole_lines or is_wnids(folders)):
        names = folders
    repeated = next((name for name in names if names.count(name) > 1), None)
    if not names or repeated:
        found = f"{repeated} twice" if repeated else "no line"
        raise UserError(f"{name if typed else file}: found {found}, expected every class folder "
                        "once. Mend the list.")
    return tuple(names)


def class_names(name):
    """What classes are called, as a tuple: class_list, but lines of a file are whole names.

    Lines that begin with wnids are class folders, as in the lists of the project.
    """
    return class_list(name, whole_lines=True)


def known_lists():
    """Names of the lists that come with the project."""
    return sorted(file.stem for file in _FOLDER.glob("*.txt"))


def _file(name):
    if os.sep not in str(name) and (_FOLDER / f"{name}.txt").exists():
        return _FOLDER / f"{name}.txt"
    return options.path(str(name))
