"""A first look at a folder of labelled images: how many, how large, grey or in colour."""

import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from data.class_folders import class_folders
from data.images import decode

LOOKED_AT = 100  # images that are decoded, evenly spaced over the folder


@dataclass(frozen=True)
class Survey:
    """What a folder of images holds.

    classes: names. counts: images of each class. sides: (least, median, most) of the short sides
    in pixels, and alike: whether all are squares of one size, of the images that were looked at.
    grey: whether none of these has a colour. decode_seconds: of one image, on one thread.
    """

    classes: tuple
    counts: tuple
    sides: tuple
    alike: bool
    grey: bool
    decode_seconds: float = 0.0

    @property
    def images(self):
        """How many images there are."""
        return sum(self.counts)

    @property
    def side(self):
        """The median short side in pixels."""
        return self.sides[1]


def survey(root, inside=()):
    """Look at the images in a folder of class folders. Raises UserError for what is none.

    inside: see data.class_folders.class_folders.
    """
    folders, workers = class_folders(root, inside), min(4, os.cpu_count() or 1)
    paths = [path for files in folders.values() for path in files]
    sample = paths[:: -(-len(paths) // LOOKED_AT)]

    begin = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        looks = list(pool.map(_look, sample))
    seconds = (time.perf_counter() - begin) * workers / len(sample)

    sizes = {size for size, _ in looks}
    shorts = sorted(min(size) for size, _ in looks)
    width, height = next(iter(sizes))
    return Survey(tuple(folders), tuple(len(files) for files in folders.values()),
                  (shorts[0], int(statistics.median(shorts)), shorts[-1]),
                  len(sizes) == 1 and width == height, all(grey for _, grey in looks), seconds)


def _look(path):
    """((width, height), whether it is grey) of an image file."""
    picture = decode(path)
    red, green, blue = np.moveaxis(np.asarray(picture), 2, 0)
    return picture.size, bool((red == green).all() and (green == blue).all())
