"""Labelled images, real or distilled, of files or of a dataset that a library knows.

data/opening.py opens them.
"""

import copy
import functools
import hashlib
import json
import math
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data.augment import to_device
from data.images import decode, sized, to_tensor
from data.names import has_flips, is_numbered
from utils.errors import UserError
from utils.files import free_bytes, sha256_file
from utils.progress import progress_bar

_SHARE_OF_GPU = 0.5  # of its free memory that decoded images may take
_BLOCK = 10_000  # images handed to threads at once: the queue for a million would take a gigabyte
_HASHED = 5_000  # files of a set that contents_hash reads: ImageNet whole would take minutes


@dataclass(frozen=True)
class Files:
    """Images that are files.

    folder: of the class folders. paths: of the images. crop: how an image of another size than the
    set's is resized and cropped, validation or square (data.images.sized); None where another size
    is an error.
    """

    folder: Path
    paths: list
    crop: str | None

    def picture(self, i):
        """Image number i as a PIL image in RGB, whole."""
        return decode(self.paths[i])

    def image(self, i, size):
        """Image number i at a side in pixels: uint8 [3, size, size]."""
        picture = self.picture(i)
        if self.crop is None and picture.size != (size, size):
            width, height = picture.size
            raise UserError(f"{self.paths[i]}: {width}x{height} pixels, the others have "
                            f"{size}x{size}. Distilled images must be of one size.")
        try:
            return sized(picture, size, self.crop)
        except ValueError as error:
            raise UserError(f"{self.paths[i]}: {error}. Cut off the ends of its long side, or "
                            "remove it.") from None

    def name(self, i):
        """What image number i is called: "CLASS FOLDER/FILE"."""
        return f"{self.paths[i].parent.name}/{self.paths[i].name}"

    def origin(self, i):
        """Words that say which image this is, wherever the folder lies."""
        return self.name(i)

    def sha256(self, i):
        """Hex SHA-256 of image number i."""
        return sha256_file(self.paths[i])

    def __str__(self):
        return str(self.folder)


@dataclass(frozen=True)
class Arrays:
    """Images that are in memory. arrays: uint8 [N, H, W, 3]. words: for the split they are of."""

    arrays: np.ndarray
    words: str = ""
    folder = paths = crop = None

    def picture(self, i):
        """Image number i as a PIL image in RGB, whole."""
        return Image.fromarray(self.arrays[i])

    def image(self, i, size):
        """Image number i at a side in pixels, resized without a crop: uint8 [3, size, size]."""
        picture = self.picture(i)
        if picture.size != (size, size):
            picture = picture.resize((size, size), Image.Resampling.BILINEAR)
        return to_tensor(picture)

    def name(self, i):
        """What image number i is called: its number."""
        return str(i)

    def origin(self, i):
        """Words that say which image this is."""
        return f"{self.words} image {i}"

    def sha256(self, i):
        """Hex SHA-256 of image number i."""
        return hashlib.sha256(self.arrays[i].tobytes()).hexdigest()

    def __str__(self):
        return self.words


class ImageSet:
    """Labelled images of one size, decoded when they are asked for.

    dataset: one of DATASETS. classes: names in head order. labels: int64 tensor [N], index into
    classes. image_size: side S in pixels. source: Files or Arrays. workers: threads that decode.
    numbered: whether these names are only numbers of folders. flips: whether mirroring an image
    keeps its class. folder, paths, crop: of images that are files (see Files), None of those in
    memory.
    """

    def __init__(self, dataset, classes, labels, image_size, source, workers=4, numbered=False):
        self.dataset, self.classes, self.image_size = dataset, list(classes), image_size
        self.labels = torch.as_tensor(np.asarray(labels, dtype=np.int64))
        self.source, self.workers = source, max(1, workers)
        self.numbered = numbered or is_numbered(self.classes)
        self.flips = has_flips(dataset)
        self.folder, self.paths, self.crop = source.folder, source.paths, source.crop

    def __len__(self):
        return len(self.labels)

    def __repr__(self):
        return f"{len(self)} in {self.source}"

    # What an image is

    def picture(self, i):
        """Image number i as a PIL image in RGB, whole."""
        return self.source.picture(i)

    def image(self, i):
        """Image number i at the set's size: uint8 [3, S, S]."""
        return self.source.image(i, self.image_size)

    def origin(self, i):
        """Words that say which image this is: "CLASS FOLDER/FILE", or a number in a dataset."""
        return self.source.origin(i)

    @functools.cached_property
    def names(self):
        """What each image is called: "CLASS FOLDER/FILE", or its number."""
        return [self.source.name(i) for i in range(len(self))]

    @functools.cached_property
    def by_class(self):
        """For each class the indices of its images, sorted by name: list of int64 tensors."""
        order = torch.argsort(self.labels, stable=True)
        counts = torch.bincount(self.labels, minlength=len(self.classes))
        return list(order.split(counts.tolist()))

    @property
    def known_classes(self):
        """Class names in head order, or None where folders are only numbered (new000 ...)."""
        return None if self.numbered else self.classes

    # Many images

    def pixels(self, indices, progress=None):
        """Images at the set's size: uint8 [n, 3, S, S]. progress: a bar to move."""
        out = torch.empty(len(indices), 3, self.image_size, self.image_size, dtype=torch.uint8)
        self._fill(out, indices, progress)
        return out

    @functools.cached_property
    def all_pixels(self):
        """All images, decoded once: uint8 [N, 3, S, S].

        Beyond half of the machine's memory they are a nameless file in the run folder, mapped.
        """
        out = _room((len(self), 3, self.image_size, self.image_size),
                    self.folder.parent if self.folder else Path(tempfile.gettempdir()))
        with progress_bar(len(self), "decode", " images", leave=False) as bar:
            self._fill(out, range(len(self)), bar)
        return out

    def _fill(self, out, indices, progress):
        def one(position):
            out[position] = self.image(int(indices[position]))
            if progress is not None:
                progress.update(1)

        self._each(one, range(len(indices)))

    def _each(self, function, items):
        """[function(item) for item in items], by several threads where images are files."""
        if self.paths is None:  # less work each than handing it to a thread
            return list(map(function, items))
        results = []
        with ThreadPoolExecutor(self.workers) as pool:
            for start in range(0, len(items), _BLOCK):
                results += pool.map(function, items[start : start + _BLOCK])
        return results

    def cache_on(self, device):
        """A PixelCache of all images for a torch.device."""
        return PixelCache(self.all_pixels, device)

    # Knowing the images again

    def contents_hash(self):
        """Hex SHA-256 that tells real images from others: what teachers and runs are tied to.

        It covers dataset, classes, the label and name of every image, and the contents of at most
        5,000 files spread evenly over the set; of images in memory all. Other, fewer or more images
        are always noticed, a single file with other contents only where it is among these.
        """
        digest = hashlib.sha256(json.dumps([self.dataset, self.classes]).encode())
        for label, name in zip(self.labels.tolist(), self.names, strict=True):
            digest.update(f"{label}/{name}\n".encode())
        digest.update("\n".join(self._sampled_hashes).encode())
        return digest.hexdigest()

    @functools.cached_property
    def _sampled_hashes(self):
        """SHA-256 of every image in memory, or of at most _HASHED files."""
        count = len(self) if self.paths is None else min(len(self), _HASHED)
        return self._hashes([i * len(self) // count for i in range(count)])

    def _hashes(self, indices):
        """Hex SHA-256 of each of these images."""
        return self._each(self.source.sha256, indices)

    @functools.cached_property
    def identity(self):
        """What labels and students are tied to: {"count", "classes", "files"}.

        files is one SHA-256 over every name and content, so renaming, adding, removing or changing
        one image changes it.
        """
        hashes = self._hashes(range(len(self)))
        lines = json.dumps(list(zip(self.names, hashes, strict=True)))
        return {"count": len(self), "classes": self.classes,
                "files": hashlib.sha256(lines.encode()).hexdigest()}

    def ordered_as(self, classes):
        """These images with their labels in another order of the same classes.

        Class folders that are only numbered are taken to be in that order, unless their numbers are
        the classes' names. Raises UserError when the classes differ.
        """
        known = not self.numbered or sorted(self.classes) == sorted(classes)
        names = self.classes if known else list(classes)
        if sorted(names) != sorted(classes) or len(self.classes) != len(classes):
            raise UserError(f"{self.folder}: has {len(self.classes)} classes "
                            f"({', '.join(self.classes[:3])}, ...), the training images have "
                            f"{len(classes)} ({', '.join(classes[:3])}, ...). "
                            "Give start images of the same classes.")
        other = copy.copy(self)
        place = torch.tensor([list(classes).index(name) for name in names])
        other.labels, other.classes = place[self.labels], list(classes)
        other.numbered = is_numbered(classes)
        for name in ("by_class", "identity"):
            other.__dict__.pop(name, None)
        return other


class PixelCache:
    """Decoded images of a set on a device: all of them, or on the host where the GPU lacks room.

    pixels: uint8 [N, 3, S, S], where they are kept.
    """

    def __init__(self, pixels, device):
        self.device = device
        room = device.type == "cuda" and _SHARE_OF_GPU * torch.cuda.mem_get_info(device)[0]
        self.pixels = pixels.to(device) if pixels.nbytes < room else pixels

    def __getitem__(self, indices):
        """uint8 [n, 3, S, S] on the device of the images with these int64 indices (CPU)."""
        return to_device(self.pixels[to_device(indices, self.pixels.device)], self.device)


def _room(shape, folder):
    """An empty uint8 tensor, or beyond half of the memory a mapped nameless file in `folder`."""
    count = math.prod(shape)
    everyone = count * int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # processes of this machine
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if everyone <= memory // 2:
        return torch.empty(shape, dtype=torch.uint8)
    if everyone > free_bytes(folder):
        raise UserError(f"{folder}: the decoded images of this machine's processes take "
                        f"{everyone / 1e9:.0f} GB, more than half of the memory, and the disk has "
                        f"{free_bytes(folder) / 1e9:.0f} GB free. Free some space.")
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        return torch.from_file(file.name, shared=True, size=count, dtype=torch.uint8).view(shape)
