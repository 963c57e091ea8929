"""Names that options offer, apart from the code behind them, which needs PyTorch."""

import functools
import re

DATASETS = ("imagefolder", "cifar10", "cifar100", "fashion_mnist", "digits")
LABEL_FORMATS = ("fp16", "fp32", "int8", "topk")
CROPS = ("auto", "validation", "square")  # of real image files, see crop_rule
MIXES = {"cutmix": 1.0, "mixup": 0.8, "none": 1.0}  # alpha of Beta(alpha, alpha) by default (SRe2L)
AUGMENTS = ("crop", "shift", "none")
AUGMENT_WORDS = (
    "crop: a random part of an image, enlarged (RandomResizedCrop); shift: an image is shifted by "
    "up to an eighth of its side each way, black outside; none: the whole image")

_WNID = re.compile(r"n\d{8}")
_NUMBER = re.compile(r"((?:new|class)?_?)(\d+)")


def default_image_size(dataset):
    """224 for image folders, 32 for other datasets."""
    return 224 if dataset == "imagefolder" else 32


def crop_rule(crop, image_size, dataset="imagefolder"):
    """How an image file that is not image_size x image_size becomes so: validation or square.

    crop: one of CROPS. auto is square below 64 px, where the validation crop would throw away a
    quarter of few pixels, and validation from there on. None for datasets in memory, whose images
    are resized whole.
    """
    if dataset != "imagefolder":
        return None
    if crop == "auto":
        return "square" if image_size < 64 else "validation"
    return crop


def has_flips(dataset):
    """Whether mirroring an image keeps its class."""
    return dataset != "digits"


def flip_probability(dataset):
    """The default probability of mirroring: 0.5 where that keeps an image's class, else 0."""
    return 0.5 if has_flips(dataset) else 0.0


def largest_shift(size, at_32=4):
    """Largest shift in pixels of images of a side: 4 at 32 px (CIFAR), and in proportion."""
    return round(at_32 * size / 32)


def class_words(name):
    """What a class is called: the first English name of a wnid, another name as it is."""
    try:
        return _imagenet().label_name_to_description(name).split(",")[0]
    except KeyError:
        return name


@functools.cache
def _imagenet():
    from timm.data import ImageNetInfo  # imports PyTorch

    return ImageNetInfo()


def digits(count):
    """How many digits the numbers 0 ... count - 1 have in the names of distilled images."""
    return max(3, len(str(count - 1)))


def image_name(label, number, class_digits=3, id_digits=3):
    """new000/class000_id003: class folder and name of a distilled image, without its suffix."""
    c = f"{label:0{class_digits}d}"
    return f"new{c}/class{c}_id{number:0{id_digits}d}"


def numbered(count):
    """The class folders of distilled images: new000, new001 ..., wider where needed."""
    return [f"new{i:0{digits(count)}d}" for i in range(count)]


def is_numbered(classes):
    """Whether the names are new000, new001 ...: no class names."""
    return list(classes) == numbered(len(classes))


def numbers(names):
    """The numbers that names consist of, maybe behind `new` or `class`; None for other names."""
    found = [_NUMBER.fullmatch(name) for name in names]
    if not all(found) or len({match[1] for match in found}) != 1:
        return None
    return [int(match[2]) for match in found]


def counts_up(folders):
    """Whether names, in sorted order, are numbers from 0 or 1 on without gaps."""
    found = numbers(folders)
    return found is not None and found[0] in (0, 1) and found == list(
        range(found[0], found[0] + len(found)))


def numbers_advice(folders):
    """What to do about class folders that are numbered but not in their order, a sentence or ""."""
    if numbers(folders) is None or counts_up(folders):
        return ""
    return (f" The order of the numbered folders {', '.join(folders[:3])}, ... is not clear. "
            "Number them from 0 on without gaps and with leading zeros, or give them the names of "
            "the classes.")


def is_wnids(classes):
    """Whether all class names are WordNet ids such as n01440764."""
    return all(_WNID.fullmatch(name) for name in classes)
