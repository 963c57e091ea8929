"""Folders of images, one per class, and the mistakes that people make with them."""

import os
import re
from pathlib import Path

from data.images import SUFFIXES
from utils.errors import UserError

_NUMBER = re.compile(r"_id(\d+)$")  # of an image: class000_id003.jpg


def class_folders(root, inside=()):
    """{class folder: sorted image files}, folders sorted by name. Lists every folder once.

    inside: names of folders below root that are likely meant where root itself has no class
    folders.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder. Expected one sub-folder of images per class.")
    entries = _listed(root)
    folders = [entry for entry in entries if _is_folder(entry)]
    if not folders:
        loose = sum(entry.name.lower().endswith(SUFFIXES) for entry in entries)
        if any(entry.name.startswith("ILSVRC2012_val_") for entry in entries):
            raise UserError(f"{root}: {loose} validation images of ILSVRC2012 lie in one folder "
                            "without their classes. Sort them into one folder per wnid (n01440764, "
                            "...) with the development kit's ground truth, then give that folder.")
        raise UserError(f"{root}: found {loose} images and no sub-folders. Expected one sub-folder "
                        "of images per class.")

    listed = {_utf8(entry).name: _image_files(entry) for entry in folders}
    empty = [name for name, files in listed.items() if not files]
    if empty:
        meant = [name for name in inside if name in empty and any(
            _image_files(entry) for entry in _listed(root / name) if _is_folder(entry))]
        advice = f"Did you mean {root / meant[0]}?" if meant else "Add images or remove the folder."
        raise UserError(f"{root}: no images in {len(empty)} of {len(listed)} class folders, the "
                        f"first is {empty[0]}. {advice}")
    return listed


def image_numbers(files):
    """The numbers of a class's images, which the names of their files end in.

    Their places instead where a name has none, or where two have the same.
    """
    found = [_NUMBER.search(path.stem) for path in files]
    numbers = [int(match[1]) for match in found if match]
    return numbers if len(set(numbers)) == len(files) else list(range(len(files)))


def _listed(folder):
    """Entries of a folder that are not hidden, sorted by name."""
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")),
                      key=lambda entry: entry.name)


def _image_files(folder):
    """Paths of the images in a class folder, an os.DirEntry.

    Where the file system says what an entry is, only links cost a look at the file. Raises
    UserError for an entry with an image's suffix that is no file, such as a pipe, whose opening
    would never end.
    """
    files = [entry for entry in _listed(folder.path) if entry.name.lower().endswith(SUFFIXES)]
    for entry in files:
        if not _is_file(entry):
            kind = ("a folder" if _is_folder(entry) else "a link that leads to no file"
                    if entry.is_symlink() else "no regular file")
            raise UserError(f"{entry.path}: is {kind}, expected an image. Remove or rename it.")
    return [Path(_utf8(entry).path) for entry in files]


def _is_file(entry):
    """Whether an os.DirEntry is a regular file, or a link to one."""
    try:
        return entry.is_file()
    except OSError:  # links in a circle
        return False


def _is_folder(entry):
    """Whether an os.DirEntry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _utf8(entry):
    """An os.DirEntry, whose path must be UTF-8, as it is kept in JSON and printed."""
    try:
        entry.path.encode()
    except UnicodeEncodeError:
        path = os.fsencode(entry.path).decode(errors="backslashreplace")
        raise UserError(f"{path}: the name is not UTF-8. Rename it.") from None
    return entry
