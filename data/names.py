"""Names that options offer, apart from the code behind them, which needs PyTorch."""

DATASETS = ("imagefolder", "cifar10", "cifar100", "digits")
LABEL_FORMATS = ("fp16", "fp32", "int8", "topk")
MIXES = {"cutmix": 1.0, "mixup": 0.8, "none": 1.0}  # alpha of Beta(alpha, alpha) by default (SRe2L)


def default_image_size(dataset):
    """224 for image folders, 32 for CIFAR and digits."""
    return 224 if dataset == "imagefolder" else 32


def has_flips(dataset):
    """Whether mirroring an image keeps its class."""
    return dataset != "digits"
