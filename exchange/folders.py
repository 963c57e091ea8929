"""Folders of images that are copied."""

import shutil

from utils.files import check_space
from utils.progress import progress_bar


def copy_files(targets, folder, words):
    """Copy files. targets: {path below the folder: file}. words: what a bar calls it."""
    size = sum(path.stat().st_size for path in targets.values())
    check_space(words, folder, size, "Free some, or choose another folder.")
    with progress_bar(len(targets), words, " images") as bar:
        for name, path in targets.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)
            bar.update(1)
