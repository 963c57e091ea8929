"""Folders of images that appear whole or not at all."""

import contextlib
import shutil

from utils.errors import UserError
from utils.files import check_space, check_writable
from utils.progress import progress_bar


@contextlib.contextmanager
def whole_folder(option, folder):
    """Yield an empty folder beside `folder`, which becomes `folder` on leaving.

    After an error it is removed. Raises UserError where `folder` already holds something. option:
    that gave the folder.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{option}: found files in {folder}, expected a new folder. Remove it, or "
                        "choose another one.")
    check_writable(folder.parent)
    temporary = folder.parent / f".{folder.name}.tmp"
    if temporary.exists():
        shutil.rmtree(temporary)  # of a command that was killed
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if folder.is_dir():
            folder.rmdir()  # empty
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def copy_files(targets, folder, words):
    """Copy files. targets: {path below the folder: file}. words: what a bar calls it."""
    size = sum(path.stat().st_size for path in targets.values())
    check_space(words, folder, size, "Free some, or choose another folder.")
    with progress_bar(len(targets), words, " images") as bar:
        for name, path in targets.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)
            bar.update(1)
