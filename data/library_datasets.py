"""Datasets that libraries know: scikit-learn's digits, torchvision's CIFAR and Fashion-MNIST."""

import functools
import gzip
import zlib
from pathlib import Path

import numpy as np

from utils.distributed import first_on_node
from utils.errors import UserError

_DIGITS_TEST = 500
_ADVICE = {
    "cifar10": "Put torchvision's cifar-10-batches-py folder there.",
    "cifar100": "Put torchvision's cifar-100-python folder there.",
    "fashion_mnist": "Put torchvision's FashionMNIST folder or its four *-ubyte.gz files there, or "
    "give /usr/share/datasets/fashion-mnist, where Debian's dataset-fashion-mnist has them.",
}


def load(dataset, split, root=None):
    """(class names, images uint8 [N, H, W, 3], N labels) of the "train" or "test" split.

    root: where torchvision keeps the data or will download it; digits need none. It is only written
    to by a download. Raises UserError for data that is not there, or damaged.
    """
    if dataset == "digits":
        return _digits(split)
    if root is None:
        raise UserError(f"--dataset {dataset}: a folder is needed: give --train-dir (or "
                        "--val-dir; TRAIN_DIR and VAL_DIR in the scripts), where torchvision keeps "
                        "or will download the data.")
    read = _fashion_mnist if dataset == "fashion_mnist" else functools.partial(_cifar, dataset)
    try:
        with first_on_node():
            return read(split, Path(root))
    except (OSError, RuntimeError) as error:
        raise UserError(f"{root}: {dataset} is not there and could not be downloaded ({error}). "
                        f"{_ADVICE[dataset]}") from None


@functools.lru_cache(maxsize=2)
def _digits(split):
    """scikit-learn's 1797 digits (8x8, 17 grey levels): 1297 to train, 500 to test, stratified."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    train, test = train_test_split(np.arange(len(digits.target)), test_size=_DIGITS_TEST,
                                   stratify=digits.target, random_state=0)
    index = np.sort(train if split == "train" else test)
    grey = np.rint(digits.images[index] * (255 / 16)).astype(np.uint8)
    return [str(d) for d in range(10)], _rgb(grey), digits.target[index]


def _cifar(dataset, split, root):
    from torchvision import datasets

    kind = datasets.CIFAR10 if dataset == "cifar10" else datasets.CIFAR100
    missing = not Path(root, kind.base_folder).is_dir()
    cifar = kind(str(root), train=split == "train", download=missing)
    return cifar.classes, cifar.data, cifar.targets


def _fashion_mnist(split, root):
    """60,000 images to train, 10,000 to test, 28x28, grey.

    The files are those of torchvision, which reads them only unpacked in FashionMNIST/raw. They may
    also be packed, and lie in root itself, as a package of Debian has them.
    """
    from torchvision.datasets import FashionMNIST

    part = "train" if split == "train" else "t10k"
    names = f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"
    if None in (files := [_idx_file(root, name) for name in names]):
        FashionMNIST(root, download=True)
        files = [_idx_file(root, name) for name in names]

    grey, labels = map(_read_idx, files)
    if grey.ndim != 3 or labels.shape != grey.shape[:1]:
        raise UserError(f"{files[0]}: found an array of shape {list(grey.shape)}, and "
                        f"{list(labels.shape)} in {files[1].name}; expected images [N, 28, 28] and "
                        "labels [N]. Get the files of Fashion-MNIST anew.")
    return FashionMNIST.classes, _rgb(grey), labels


def _idx_file(root, name):
    """The path of an idx file in a folder, packed or not, or None."""
    folders = root / "FashionMNIST" / "raw", root
    paths = [folder / (name + suffix) for folder in folders for suffix in ("", ".gz")]
    return next((path for path in paths if path.is_file()), None)


def _read_idx(path):
    """The array in an idx file of bytes: uint8.

    The last byte of its first four is the number of dimensions. Each has four, and pixels follow.
    """
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            content = file.read()
        shape = np.frombuffer(content, ">i4", content[3], offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
    except (EOFError, IndexError, ValueError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: not a whole idx file ({error}). Remove it and get it anew, from "
                        "torchvision's download or your package.") from None


def _rgb(grey):
    """Grey images uint8 [N, H, W] in RGB: [N, H, W, 3], a view that takes no memory."""
    return np.broadcast_to(grey[..., None], (*grey.shape, 3))
