"""Opening labelled images: ImageNet-style folders, and datasets that libraries know.

open_real opens a split of a dataset, open_distilled the images of a run or of another tool,
open_test the real test images for distilled ones. Each gives an ImageSet.
"""

import contextlib
import math
import statistics
from pathlib import Path

from data import library_datasets
from data.class_folders import class_folders
from data.image_set import Arrays, Files, ImageSet
from data.images import decode
from data.names import (
    DATASETS,
    counts_up,
    crop_rule,
    default_image_size,
    is_wnids,
    numbers,
    numbers_advice,
)
from data.run_folder import read_manifest
from utils.distributed import print0
from utils.errors import UserError
from utils.files import damaged

_INSIDE = {"train": ("train",), "test": ("test", "val")}  # class folders, in a dataset's folder


def open_real(dataset, split, root=None, image_size=None, classes=None, workers=4, crop="auto"):
    """The "train" or "test" split of a dataset as an ImageSet.

    root: the class folders (imagefolder), or where torchvision keeps the data; digits need none.
    classes: class names in head order that the images must follow (default: sorted folder names).
    Where these are wnids, folders of other classes beside them are left alone. crop: one of
    data.names.CROPS, of images that are files. Raises UserError for a wrong path, an empty class
    folder, other classes, or the flat ILSVRC validation folder.
    """
    image_size = image_size or default_image_size(dataset)
    if dataset == "imagefolder":
        if root is None:
            option, variable = (("--train-dir", "TRAIN_DIR") if split == "train" else
                                ("--val-dir", "VAL_DIR"))
            raise UserError(f"a folder of {split} images is needed: give {option} ({variable} in "
                            "the scripts).")
        return _open_folder(Path(root), split, image_size, classes, workers, crop)

    own, arrays, labels = library_datasets.load(dataset, split, root)
    if classes is not None and list(classes) != own:
        raise UserError(f"{dataset} has the classes {', '.join(own)}; expected "
                        f"{', '.join(classes)}. Is this another dataset than the one that was "
                        "distilled?")
    return ImageSet(dataset, own, labels, image_size, Arrays(arrays, f"{dataset} {split}"), workers)


def _open_folder(root, split, image_size, classes, workers, crop):
    folders = class_folders(root, _INSIDE[split])
    classes = list(folders) if classes is None else list(classes)
    _check_classes(root, list(folders), classes)
    paths = [path for name in classes for path in folders[name]]
    labels = [label for label, name in enumerate(classes) for _ in folders[name]]
    source = Files(root, paths, crop_rule(crop, image_size))
    return ImageSet("imagefolder", classes, labels, image_size, source, workers)


def classes_alone(classes, image_size=None, workers=4):
    """The ImageSet of image folders that are not there: its classes and its size, no images."""
    size = image_size or default_image_size("imagefolder")
    return ImageSet("imagefolder", classes, [], size, Files(None, [], crop=None), workers)


def open_test(images, root, dataset=None, workers=4, crop="auto"):
    """The real test images for distilled ones, with their classes and their size, as an ImageSet.

    images: the distilled ImageSet. root, crop: as for open_real. dataset: None for that of the
    distilled images. Raises UserError for another number of classes.
    """
    test = open_real(dataset or images.dataset, "test", root, images.image_size,
                     images.known_classes, workers, crop)
    if len(test.classes) != len(images.classes):
        raise UserError(f"{root}: has {len(test.classes)} class folders, the distilled images in "
                        f"{images.folder} have {len(images.classes)}. Give the validation folder "
                        "of the data that was distilled.")
    check_order(images, test)
    return test


def check_order(images, named):
    """Hold class folders that are only numbered against an ImageSet that names as many classes.

    Prints which classes they are taken to be. Raises UserError where another order is as likely:
    the names are other numbers, or names of folders that are not in sorted order.
    """
    if not images.numbered or named.numbered or images.classes == named.classes:
        return
    found, meant = numbers(images.classes), numbers(named.classes)
    if found == meant:
        return
    given = named.dataset == "imagefolder" and named.classes != sorted(named.classes)
    if meant is not None or given:
        raise UserError(
            f"{images.folder}: the class folders are only numbered ({', '.join(images.classes[:3])}"
            f", ...), the classes are {', '.join(named.classes[:3])}, ...: which is which cannot "
            "be told. Give the folders the names of the classes.")
    print0(f"note: {images.folder}: the class folders are only numbered, {images.classes[0]} is "
           f"taken to be {named.classes[0]} and {images.classes[-1]} to be {named.classes[-1]}.")


def open_distilled(folder, workers=4, image_size=None, crop="auto"):
    """The images of a run, or of any tool, in ImageFolder's order, as an ImageSet.

    folder: nothing but class folders, such as results/NAME/images. Class names and dataset come
    from images.json beside it; without one, folder names are the classes, unless they are numbers
    that count up (new000, 00000, class0 ...). image_size: None for the images' own size, which must
    be one and square; else images of another size are resized and cropped. crop: how, one of
    data.names.CROPS. Raises UserError when the folder is missing or was not completed.
    """
    folder = Path(folder)
    if not folder.exists():
        raise UserError(f"{folder}: no such folder of distilled images. Run recover first, or give "
                        "its --output-dir (or --train-dir).")
    folders = class_folders(folder, ("images", "train"))
    classes, dataset, numbered = list(folders), "imagefolder", counts_up(folders)
    manifest = folder.parent / "images.json"
    if manifest.exists():
        classes, dataset = _described(manifest, folders, folder)
        numbered = False

    paths = [path for files in folders.values() for path in files]
    labels = [label for label, files in enumerate(folders.values()) for _ in files]
    width, height = (image_size, image_size) if image_size else decode(paths[0]).size
    if width != height:
        raise UserError(f"{paths[0]}: {width}x{height} pixels, expected a square image.")
    source = Files(folder, paths, image_size and crop_rule(crop, image_size))
    return ImageSet(dataset, classes, labels, width, source, workers, numbered)


def _described(manifest, folders, folder):
    """(classes, dataset) from images.json, checked against the class folders."""
    content = read_manifest(manifest, "recover")
    try:
        classes, dataset = content["identity"]["classes"], content["options"]["dataset"]
    except KeyError as error:
        raise damaged(manifest, "recover", f"it does not say {error}") from None
    if dataset not in DATASETS or not isinstance(classes, list):
        raise damaged(manifest, "recover", f"dataset {dataset!r}")
    if len(classes) != len(folders):
        raise UserError(f"{folder}: found {len(folders)} class folders, {manifest.name} lists "
                        f"{len(classes)} classes. Was recover stopped, or a folder removed? Run "
                        "recover again.")

    counts = {name: len(files) for name, files in folders.items()}
    if len(set(counts.values())) > 1 and not content["options"].get("allow_short_classes"):
        least = min(counts, key=counts.get)
        print0(f"note: {folder}: {least} has {counts[least]} images, others up to "
               f"{max(counts.values())}. Was recover stopped, or an image removed? Running recover "
               "again completes the set.")
    return classes, dataset


def typical_side(images):
    """Median short side in pixels of the stored pictures of an ImageSet, of 20 of them at most.

    They are evenly spaced. None where none of them can be read.
    """
    count, sides = min(20, len(images)), []
    for i in range(count):
        with contextlib.suppress(UserError):  # it will be named when it is needed
            sides.append(min(images.picture(i * len(images) // count).size))
    return int(statistics.median(sides)) if sides else None


def note_enlarged(images):
    """Print a note where training images are enlarged more than twice to the ImageSet's size.

    The sizes that other datasets than image folders have by default are meant.
    """
    size, side = images.image_size, typical_side(images)
    meant = images.dataset != "imagefolder" and size == default_image_size(images.dataset)
    if not meant and side is not None and 2 * side < size:
        multiple = 32 * math.ceil(side / 32)
        near = f"{side}" if side == multiple else f"{side} (or {multiple})"
        print0(f"note: the training images are about {side} px, --image-size is {size}: they are "
               f"enlarged {size / side:.0f} times. Give --image-size {near}, to models.pretrain as "
               "to recover, unless this is meant.")


def _check_classes(root, present, expected):
    missing = [name for name in expected if name not in set(present)]
    surplus = [name for name in present if name not in set(expected)]
    if not missing and (not surplus or is_wnids(expected)):
        return  # a subset of ImageNet may be tested on its part of the whole validation folder
    parts = [f"{len(names)} {what} (the first is {names[0]})"
             for names, what in ((missing, "missing"), (surplus, "not expected")) if names]
    raise UserError(f"{root}: has {len(present)} class folders, expected the {len(expected)} that "
                    f"were distilled: {', '.join(parts)}.{numbers_advice(expected)}")
