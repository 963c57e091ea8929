"""Labelled real images: ImageNet-style folders, CIFAR-10/100 and the digits that come with scikit-learn."""

import functools
import hashlib
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data.images import SUFFIXES, centre_crop, decode, to_tensor
from utils.distributed import first_on_node
from utils.errors import UserError

NAMES = ("imagefolder", "cifar10", "cifar100", "digits")
_WNID = re.compile(r"n\d{8}")
_NUMBERED = re.compile(r"new\d+")
_DIGITS_TEST = 500


class RealImages:
    """Labelled real images of one split, decoded on demand.

    dataset: one of NAMES. classes: names in head order. labels: int64 array [N], index into classes.
    image_size: side in pixels of what `centre` gives. flips: whether mirroring keeps the class (not for digits).
    """

    def __init__(self, dataset, classes, labels, image_size, flips):
        self.dataset, self.classes, self.image_size, self.flips = dataset, list(classes), image_size, flips
        self.labels = np.asarray(labels, dtype=np.int64)

    def __len__(self):
        return len(self.labels)

    def image(self, index):
        """Image number `index` as a PIL image in RGB, whole."""
        raise NotImplementedError

    def where(self, index):
        """Words that say which image this is."""
        raise NotImplementedError

    def name(self, index):
        """What the image is called inside its class."""
        return str(index)

    def centre(self, index):
        """Image number `index` as the validation transform gives it: uint8 [3, image_size, image_size]."""
        return centre_crop(self.image(index), self.image_size)

    @functools.cached_property
    def by_class(self):
        """For each class the indices of its images, in file order (sorted by name)."""
        order = np.argsort(self.labels, kind="stable")
        return np.split(order, np.searchsorted(self.labels[order], np.arange(1, len(self.classes))))

    def fingerprint(self):
        """SHA-256 over classes and what each image is called: other, fewer or more images are noticed, not other pixels."""
        digest = hashlib.sha256(json.dumps([self.dataset, self.classes]).encode())
        for index, label in enumerate(self.labels.tolist()):
            digest.update(f"{label}/{self.name(index)}\n".encode())
        return digest.hexdigest()

    def pixels(self, indices, workers=4, progress=None):
        """Decode images (several threads: Pillow frees the interpreter lock). Returns uint8 [n, 3, S, S]."""
        out = torch.empty(len(indices), 3, self.image_size, self.image_size, dtype=torch.uint8)

        def fill(position):
            out[position] = self.centre(int(indices[position]))
            if progress is not None:
                progress.update(1)

        if workers < 2:
            for position in range(len(indices)):
                fill(position)
        else:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(fill, range(len(indices))))
        return out


class FolderImages(RealImages):
    """One folder per class. The folder is listed once; files are sorted by name."""

    def __init__(self, root, image_size, classes=None):
        root = Path(root)
        folders = class_folders(root)
        classes = list(folders) if classes is None else list(classes)
        _check_classes(root, list(folders), classes)
        self.paths, labels = [], []
        for label, name in enumerate(classes):
            files = folders[name]
            self.paths += files
            labels += [label] * len(files)
        super().__init__("imagefolder", classes, labels, image_size, flips=True)

    def image(self, index):
        return decode(self.paths[index])

    def where(self, index):
        return str(self.paths[index])

    def name(self, index):
        return self.paths[index].name


class ArrayImages(RealImages):
    """Images that lie in memory at their own size: CIFAR and digits."""

    def __init__(self, dataset, split, classes, arrays, labels, image_size, flips):
        super().__init__(dataset, classes, labels, image_size, flips)
        self.arrays, self.split = arrays, split

    def image(self, index):
        return Image.fromarray(self.arrays[index])

    def where(self, index):
        return f"{self.dataset} {self.split} image {index}"

    def centre(self, index):
        image = self.image(index)
        if image.size != (self.image_size, self.image_size):
            image = image.resize((self.image_size, self.image_size), Image.Resampling.BILINEAR)
        return to_tensor(image)


def default_image_size(dataset):
    """224 for image folders, 32 for CIFAR and digits."""
    return 224 if dataset == "imagefolder" else 32


def has_flips(dataset):
    """Whether mirroring an image keeps its class."""
    return dataset != "digits"


def open_images(dataset, split, root=None, image_size=None, classes=None):
    """Open the "train" or "test" split of a dataset.

    root: the class folders (imagefolder) or where torchvision keeps CIFAR; not used by digits.
    classes: class names in head order that the images must follow (default: sorted folder names). Where they are wnids,
    other classes' folders beside theirs are left alone.
    Raises UserError for a wrong path, an empty class folder, other classes, or a flat ILSVRC validation folder.
    """
    image_size = image_size or default_image_size(dataset)
    if dataset == "imagefolder":
        if root is None:
            raise UserError(f"a folder of {split} images is needed: give --{'train' if split == 'train' else 'val'}-dir.")
        return FolderImages(root, image_size, classes)
    images = _digits(split, image_size) if dataset == "digits" else _cifar(dataset, split, root, image_size)
    if classes is not None and list(classes) != images.classes:
        raise UserError(f"{dataset} has the classes {', '.join(images.classes)}; expected {', '.join(classes)}. "
                        "Is this another dataset than the one that was distilled?")
    return images


def class_folders(root):
    """{class folder: sorted image files}, folders sorted by name."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder. Expected one sub-folder of images per class.")
    with os.scandir(root) as entries:
        entries = sorted(entries, key=lambda e: e.name)
    folders = {e.name: e.path for e in entries if e.is_dir() and not e.name.startswith(".")}
    if not folders:
        loose = sum(e.name.lower().endswith(SUFFIXES) for e in entries)
        if any(e.name.startswith("ILSVRC2012_val_") for e in entries):
            raise UserError(f"{root}: {loose} validation images of ILSVRC2012 lie flat in one folder without their classes. "
                            "Sort them into one folder per wnid (n01440764, ...) with the development kit's ground truth, "
                            "then give that folder.")
        raise UserError(f"{root}: found {loose} images and no sub-folders. Expected one sub-folder of images per class.")
    listed = {name: [Path(path, f) for f in sorted(os.listdir(path)) if f.lower().endswith(SUFFIXES) and f[0] != "."]
              for name, path in folders.items()}
    empty = [name for name, files in listed.items() if not files]
    if empty:
        raise UserError(f"{root}: no images in {len(empty)} of {len(listed)} class folders, the first is {empty[0]}. "
                        "Add images or remove the folder.")
    return listed


def _check_classes(root, found, expected):
    missing = [name for name in expected if name not in set(found)]
    surplus = [name for name in found if name not in set(expected)]
    if not missing and is_wnids(expected):
        return  # a subset of ImageNet may be tested on its part of the whole validation folder
    if not missing and not surplus:
        return
    parts = [f"{len(names)} {what} (the first is {names[0]})"
             for names, what in ((missing, "missing"), (surplus, "not expected")) if names]
    raise UserError(f"{root}: has {len(found)} class folders, expected the {len(expected)} that were distilled: "
                    f"{', '.join(parts)}.")


def is_numbered(classes):
    """Whether all class names are those of the field's distilled folders, new000 ...: head order, but no names."""
    return all(_NUMBERED.fullmatch(name) for name in classes)


def is_wnids(classes):
    """Whether all class names are WordNet ids such as n01440764."""
    return all(_WNID.fullmatch(name) for name in classes)


@functools.lru_cache(maxsize=4)
def _digits(split, image_size):
    """scikit-learn's 1797 handwritten digits (8x8, 17 grey levels): 1297 to train, 500 to test, stratified and fixed."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    train, test = train_test_split(np.arange(len(data.target)), test_size=_DIGITS_TEST, stratify=data.target, random_state=0)
    index = np.sort(train if split == "train" else test)
    grey = np.rint(data.images[index] * (255 / 16)).astype(np.uint8)
    arrays = np.repeat(grey[..., None], 3, axis=3)
    return ArrayImages("digits", split, [str(d) for d in range(10)], arrays, data.target[index], image_size, flips=False)


def _cifar(dataset, split, root, image_size):
    from torchvision import datasets

    if root is None:
        raise UserError(f"--dataset {dataset}: a folder is needed: give --train-dir (or --val-dir), where torchvision keeps "
                        "or will download the data.")
    kind = datasets.CIFAR10 if dataset == "cifar10" else datasets.CIFAR100
    try:
        with first_on_node():
            data = kind(str(root), train=split == "train", download=not _has_cifar(kind, root))
    except UserError:
        raise
    except (OSError, RuntimeError) as error:
        raise UserError(f"{root}: {dataset} is not there and could not be downloaded ({error}). Put torchvision's "
                        f"{kind.base_folder} folder there.") from None
    return ArrayImages(dataset, split, data.classes, data.data, data.targets, image_size, flips=True)


def _has_cifar(kind, root):
    return Path(root, kind.base_folder).is_dir()
