"""Datasets of the Hugging Face hub as class folders: hf:USER/NAME wherever a folder is read.

A split is fetched once, by the `datasets` library, and kept as class folders in HF_HOME (by default
~/.cache/huggingface) under class_folders/. From then on neither the library nor a network is
needed. Imports only the standard library, as Snakemake's environment has nothing else.
"""

import io
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.names import DATASETS, numbered
from utils import options
from utils.distributed import print0
from utils.errors import UserError

PREFIX = "hf:"
_NAME = re.compile(r"((?:\w[\w.-]*/)?\w[\w.-]*)(?:@(\w[\w./-]*))?")
_SPLITS = {"train": ("train",), "test": ("test", "validation", "valid", "val")}
_IMAGES, _LABELS = ("image", "img"), ("label", "class_id")
_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tiff",
             "GIF": ".gif", "PPM": ".ppm"}
_MPO = {"MPO": ".jpg"}  # what Pillow calls a JPEG of several pictures, as phones write them


def train_images(text):
    """A folder of training or distilled images: options.path, or hf:USER/NAME[@REVISION]."""
    return _images(text, "train")


def test_images(text):
    """A folder of test images, likewise."""
    return _images(text, "test")


def _images(text, split):
    return fetched(text, split) if text.startswith(PREFIX) else options.path(text)


def fetched(name, split):
    """The class folders of a split of hf:USER/NAME, fetched where they are not there yet.

    Raises UserError where the dataset cannot be had or is no set of labelled images.
    """
    from filelock import FileLock

    from utils.files import whole_folder, write_bytes
    from utils.progress import progress_bar

    _place(name)  # refuses what is no name
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    place = home / "class_folders" / name.removeprefix(PREFIX).replace("/", "--")
    folder = place / split
    if not folder.is_dir():
        place.mkdir(parents=True, exist_ok=True)
        with FileLock(place / ".fetching.lock"):
            if not folder.is_dir():  # another process may have fetched it meanwhile
                rows = load_split(name, split)
                with (whole_folder(name, folder) as temporary,
                      progress_bar(len(rows), "fetch", " images") as bar):
                    names, digits = rows.folders, len(str(len(rows)))
                    for i, (label, data, suffix) in enumerate(rows):
                        (temporary / names[label]).mkdir(exist_ok=True)
                        path = temporary / names[label] / f"{i:0{digits}d}{suffix}"
                        path.write_bytes(data)
                        bar.update(1)
                    manifest = images_json(name, rows.classes) if split == "train" else None
                    if manifest is not None:  # of a distilled set that this project exported
                        write_bytes(place / "images.json", manifest)
    print0(f"{name}: its images to {split} are in {folder}. Remove that folder to fetch them anew.")
    return folder


@dataclass(frozen=True)
class Rows:
    """A split of a dataset: iterate over (class index, bytes of the file, suffix).

    name: for errors. dataset: of the `datasets` library. image, label: names of columns. classes:
    names in the order of their indices. numbered: whether these are nothing but numbers.
    """

    name: str
    dataset: Any
    image: str
    label: str
    classes: list
    numbered: bool

    def __len__(self):
        return len(self.dataset)

    def __iter__(self):
        index = {name: i for i, name in enumerate(self.classes)}
        for i, row in enumerate(self.dataset):
            label, image = row[self.label], row[self.image] or {}
            label = index.get(label) if isinstance(label, str) else label
            if label is None or not 0 <= label < len(self.classes):
                raise UserError(f"{self.name}: row {i} has no label, found {row[self.label]}. "
                                "Give a dataset whose images all have one.")
            data = image.get("bytes")
            if data is None and image.get("path"):
                data = Path(image["path"]).read_bytes()
            yield label, data, _suffix(f"{self.name}: row {i}", data)

    @property
    def folders(self):
        """Names of class folders that sort in the order of the classes."""
        return numbered(len(self.classes)) if self.numbered else folder_names(self.classes)


def folder_names(classes):
    """Class names as names of folders that sort in the order of the classes.

    Where the names themselves do not, or where one cannot be a folder's, all begin with a number.
    """
    names = [name.replace("/", "-") for name in classes]
    if names == sorted(set(names)) and not any(name[:1] in ("", ".") for name in names):
        return names
    digits = len(str(len(names) - 1))
    return [f"{i:0{digits}d}_{name}" for i, name in enumerate(names)]


def _suffix(where, data):
    """The suffix of an image's file. Raises UserError for what is none."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data or b""), formats=list(_SUFFIXES)) as image:
            return (_SUFFIXES | _MPO)[image.format]
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError,
            Image.DecompressionBombError) as error:
        raise UserError(f"{where}: not a readable image ({error}). Ask the dataset's author, or "
                        "give another one.") from None


def load_split(name, split):
    """The Rows of a dataset. name: hf:USER/NAME[@REVISION], or the path of a folder.

    Of a dataset without such a split, its only one is taken. Raises UserError where it cannot be
    had, and where it has no columns of images and labels.
    """
    from utils.checkpoint import first_line

    datasets = library()
    place, revision = _place(name)
    try:
        splits = datasets.load_dataset(place, revision=revision)
    except Exception as error:  # many kinds, of several libraries
        raise UserError(f"{name}: cannot be loaded ({first_line(error)}). Is it a dataset's name, "
                        f"such as {PREFIX}USER/NAME, and was it fetched before where there is no "
                        "network?") from None

    found = [one for one in _SPLITS[split] if one in splits]
    if not found and len(splits) == 1:
        found = list(splits)
    if not found:
        raise UserError(f"{name}: has the splits {', '.join(splits)}, expected "
                        f"{' or '.join(_SPLITS[split])}.")
    if len(splits[found[0]]) == 0:
        raise UserError(f"{name}: its split {found[0]} has no images. Give another dataset.")
    return _rows(str(name), splits[found[0]], datasets)


def images_json(name, classes):
    """The content of a dataset's images.json, which an export of this project holds, or None.

    name: as for load_split. classes: of its Rows. None also where the file is another tool's.
    """
    from huggingface_hub import hf_hub_download

    place, revision = _place(name)
    path = Path(place, "images.json")
    if str(name).startswith(PREFIX):
        try:
            path = Path(hf_hub_download(place, "images.json", repo_type="dataset",
                                        revision=revision))
        except Exception:  # many kinds: there is none, there is no network
            return None
    try:
        data = path.read_bytes()
        content = json.loads(data)
        known = content["identity"]["classes"], content["options"]["dataset"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    ours = isinstance(known[0], list) and len(known[0]) == len(classes) and known[1] in DATASETS
    return data if ours else None


def _place(name):
    """(name on the hub or path of a folder, revision or None) of a dataset."""
    if not str(name).startswith(PREFIX):
        return str(name), None
    match = _NAME.fullmatch(str(name).removeprefix(PREFIX))
    if not match:
        raise UserError(f"{name}: expected {PREFIX}USER/NAME or {PREFIX}USER/NAME@REVISION.")
    return match[1], match[2]


def library():
    """The `datasets` library. Raises UserError where it is not installed."""
    try:
        import datasets
    except ImportError as error:
        raise UserError(f"Hugging Face datasets need the library `datasets` ({error}). Install it: "
                        "pip install -r requirements-exchange.txt") from None
    return datasets


def _rows(name, dataset, datasets):
    """The Rows of one split, a Dataset of the library `datasets`."""
    features = dataset.features
    image = next((one for one in _IMAGES if isinstance(features.get(one), datasets.Image)), None)
    label = next((one for one in _LABELS if one in features), None)
    if image is None or label is None:
        columns = ", ".join(f"{column} ({type(kind).__name__})" for column, kind
                            in features.items())
        raise UserError(f"{name}: has the columns {columns}; expected an image column "
                        f"({' or '.join(_IMAGES)}) and a label ({' or '.join(_LABELS)}).")

    dataset = dataset.select_columns([image, label]).cast_column(image,
                                                                 datasets.Image(decode=False))
    names = getattr(features[label], "names", None)
    if names is not None:
        return Rows(name, dataset, image, label, list(names), False)
    values = set(dataset[label]) if isinstance(features[label], datasets.Value) else {None}
    if all(isinstance(value, str) for value in values):
        return Rows(name, dataset, image, label, sorted(values), False)
    if not all(isinstance(value, int) and value >= 0 for value in values):
        raise UserError(f"{name}: the column {label} is not made of class numbers or names.")
    return Rows(name, dataset, image, label, [str(i) for i in range(max(values) + 1)], True)
