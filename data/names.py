"""Names that options offer, apart from the code behind them, which needs PyTorch."""

DATASETS = ("imagefolder", "cifar10", "cifar100", "digits")
LABEL_FORMATS = ("fp16", "fp32", "int8", "topk")
MIXES = {"cutmix": 1.0, "mixup": 0.8, "none": 1.0}  # alpha of Beta(alpha, alpha) by default (SRe2L)
AUGMENTS = ("crop", "shift", "none")
AUGMENT_WORDS = (
    "crop: a random part of an image, enlarged (RandomResizedCrop); shift: an image is shifted by "
    "up to an eighth of its side each way, black outside; none: the whole image")


def default_image_size(dataset):
    """224 for image folders, 32 for CIFAR and digits."""
    return 224 if dataset == "imagefolder" else 32


def has_flips(dataset):
    """Whether mirroring an image keeps its class."""
    return dataset != "digits"


def flip_probability(dataset):
    """The default probability of mirroring: 0.5 where that keeps an image's class, else 0."""
    return 0.5 if has_flips(dataset) else 0.0


def largest_shift(size, at_32=4):
    """Largest shift in pixels of images of a side: 4 at 32 px (CIFAR), and in proportion."""
    return round(at_32 * size / 32)
