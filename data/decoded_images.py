"""Real images decoded once: a file of 8-bit pixels that later runs map into memory instead of decoding again.

One file a set of images, decoded_KEY.uint8: N images uint8 [3, S, S] one after the other, then N CRC-32s (little-endian uint32).
KEY says what it was made from: names, sizes and times of all image files, side in pixels, version of the decoder. A changed,
added or removed image is another key; files that no run reads any more may be removed at any time.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
import torch

from utils.distributed import print0
from utils.errors import UserError
from utils.files import free_bytes, remove_leftovers, written_whole
from utils.progress import progress_bar

_VERSION = 1  # of the validation transform's arithmetic and of the file
_AT_ONCE = 500  # images in memory while decoding


def decoded(images, folder, workers=4):
    """All images of a data.datasets.FolderImages as its `centre` gives them: uint8 [N, 3, S, S], mapped from a file in `folder`.

    The file is made when it is missing; of processes of one machine that start side by side one decodes, the others wait. It is
    checked whole when it is opened (about 1 GB a second and core), and made anew when damaged. Do not write into the tensor.
    Raises OSError where `folder` cannot be written or its disk is full, UserError when an image changes while it is decoded.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"decoded_{key(images, workers)[:32]}.uint8"
    pixels = _read(path, images, workers)
    if pixels is None:
        with _one_at_a_time(folder):
            pixels = _read(path, images, workers)  # another process may have made it meanwhile
            if pixels is None:
                remove_leftovers(folder)
                _write(path, images, workers)
                print0(f"test images: decoded once into {path} ({path.stat().st_size / 1e9:.2f} GB), which later runs read. It may "
                       "be removed at any time.")
                pixels = _read(path, images, workers)
    if pixels is None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
    return pixels


def key(images, workers=4):
    """Hex SHA-256 of what decides the pixels: classes, names, sizes and modification times of all files, side, decoder."""
    digest = hashlib.sha256(json.dumps([_VERSION, PIL.__version__, images.classes, images.image_size]).encode())
    with ThreadPoolExecutor(max(1, workers)) as pool:  # on a network disk each answer takes a while
        found = pool.map(os.stat, images.paths)
        for path, label, stat in zip(images.paths, images.labels.tolist(), found, strict=True):
            digest.update(json.dumps([label, path.name, stat.st_size, stat.st_mtime_ns]).encode())
    return digest.hexdigest()


def _write(path, images, workers):
    before, need, crcs = key(images, workers), _bytes(images), []
    if need > free_bytes(path.parent):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    with written_whole(path) as temporary, open(temporary, "wb") as file, \
            progress_bar(len(images), "decode test images", " images", leave=False) as bar:
        for start in range(0, len(images), _AT_ONCE):
            block = images.pixels(range(start, min(start + _AT_ONCE, len(images))), workers, bar).numpy()
            crcs += [zlib.crc32(image) for image in block]
            file.write(block)
        file.write(np.array(crcs, dtype="<u4"))
        if key(images, workers) != before:
            raise UserError(f"{images.paths[0].parents[1]}: an image changed while it was decoded. Run the same command again.")


def _read(path, images, workers):
    """The pixels in a file, or None when it is missing or damaged."""
    try:
        if path.stat().st_size != _bytes(images):
            return None
    except FileNotFoundError:
        return None
    side = images.image_size
    count = len(images) * 3 * side * side
    pixels = torch.from_file(str(path), shared=False, size=count, dtype=torch.uint8).view(-1, 3, side, side)
    crcs = np.fromfile(path, dtype="<u4", offset=count)
    rows = pixels.numpy()
    with ThreadPoolExecutor(max(1, workers)) as pool:  # zlib frees the interpreter lock
        whole = all(pool.map(lambda i: zlib.crc32(rows[i]) == crcs[i], range(len(images))))
    return pixels if whole else None


def _bytes(images):
    return len(images) * (3 * images.image_size**2 + 4)


@contextlib.contextmanager
def _one_at_a_time(folder):
    """Only one process at a time is inside, where the file system can lock a folder; the lock of a dead process is gone."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a network file system may refuse: then each process decodes, and the last one stays
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
