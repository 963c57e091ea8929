"""Real images decoded once: a file of 8-bit pixels that later runs map instead of decoding again.

A file decoded_KEY.uint8 holds the images of a set, uint8 [3, S, S], one after the other. KEY is a
hash of names, sizes and times of all image files, the crop, its side in pixels and the decoder's
version. A changed, added or removed image gives another key. Files may be removed at any time.
"""

import errno
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import PIL
import torch
from filelock import FileLock

from utils.distributed import print0
from utils.errors import UserError
from utils.files import free_bytes, remove_leftovers, written_whole
from utils.progress import progress_bar

_VERSION = 3  # of what an image of any size becomes, and of the file
_AT_ONCE = 500  # images in memory while decoding


def decoded(images, folder):
    """All images of an ImageSet of files: uint8 [N, 3, S, S], mapped from a file in `folder`.

    The file is made when it is missing; of processes that start side by side one decodes and the
    others wait. Do not write into the tensor. Raises OSError where `folder` cannot be written or
    its disk is full, and UserError when an image changes while it is decoded.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"decoded_{key(images)[:32]}.uint8"
    if not _is_whole(path, images):
        with FileLock(folder / ".decoding.lock"):
            if not _is_whole(path, images):  # another process may have made it meanwhile
                remove_leftovers(folder)
                _write(path, images)
    shape = (len(images), 3, images.image_size, images.image_size)
    count = _bytes(images)
    return torch.from_file(str(path), shared=False, size=count, dtype=torch.uint8).view(shape)


def key(images):
    """Hex SHA-256 of what decides the pixels."""
    digest = hashlib.sha256(json.dumps(
        [_VERSION, PIL.__version__, images.classes, images.image_size, images.crop]).encode())
    with ThreadPoolExecutor(images.workers) as pool:  # each answer of a network disk takes a while
        stats = pool.map(os.stat, images.paths)
        for name, label, stat in zip(images.names, images.labels.tolist(), stats, strict=True):
            entry = [label, name, stat.st_size, stat.st_mtime_ns]
            digest.update(json.dumps(entry).encode())
    return digest.hexdigest()


def _bytes(images):
    return len(images) * 3 * images.image_size**2


def _is_whole(path, images):
    return path.exists() and path.stat().st_size == _bytes(images)


def _write(path, images):
    before = key(images)
    if _bytes(images) > free_bytes(path.parent):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with written_whole(path) as temporary, open(temporary, "wb") as file, progress_bar(
            len(images), "decode test images", " images", leave=False) as bar:
        for start in range(0, len(images), _AT_ONCE):
            block = range(start, min(start + _AT_ONCE, len(images)))
            file.write(images.pixels(block, bar).numpy())
        if key(images) != before:
            raise UserError(f"{images.folder}: an image changed while it was decoded. Run the same "
                            "command again.")
    print0(f"test images: decoded once into {path} ({_bytes(images) / 1e9:.2f} GB), which later "
           "runs read. It may be removed at any time.")
