"""Options of teacher training ("squeeze"), and what they mean for each network.

Imports no PyTorch.
"""

import argparse
from dataclasses import dataclass, fields
from pathlib import Path

from data import hugging_face
from data.names import (
    AUGMENT_WORDS,
    AUGMENTS,
    CROPS,
    DATASETS,
    flip_probability,
    largest_shift,
)
from models.names import STEMS
from utils import options
from utils.errors import UserError
from utils.options import RoomOptions, SharedRun, option

# torchvision's ResNet reference for large images; one-cycle recipes for small ones, that is for
# CIFAR, Fashion-MNIST and folders below SMALL pixels. Their gradients are clipped: on 10,000 images
# of Fashion-MNIST, 28 px, ResNet-18 (4 epochs), MobileNetV2 (8) and ShuffleNetV2-0.5 (10) got 83.7,
# 83.5 and 83.2 % with it, 75.6, 68.2 and 77.0 % without.
_SMALL = {"epochs": 30, "batch_size": 128, "lr": 0.1, "weight_decay": 5e-4, "warmup": 0.2,
          "clip_norm": 1.0}
RECIPES = {
    "large": {"epochs": 90, "batch_size": 256, "lr": 0.1, "weight_decay": 1e-4, "warmup": 0.05},
    "small": _SMALL,
    "digits": {"epochs": 10, "batch_size": 64, "lr": 0.05, "weight_decay": 5e-4, "warmup": 0.2},
    "fashion_mnist": {**_SMALL, "epochs": 5},  # so that a CPU makes all teachers in half an hour
}
SMALL = 64

# With these recipes every seed tried gets 95 % of the digits and more in the least time. AlexNet
# has no BatchNorm: as torchvision initialises it the signal shrinks from layer to layer, and
# training stands still at first. EfficientNet's logits are far too large for ten classes at first.
_ALEXNET = {"init": "he", "input_resize": 64}
NET_RECIPES = {
    ("digits", "resnet18"): {"epochs": 5},
    ("digits", "mobilenet_v2"): {"epochs": 8},
    ("digits", "efficientnet_b0"): {"epochs": 10, "dropout": 0.0, "init": "he"},
    ("digits", "shufflenet_v2_x0_5"): {"epochs": 16},
    ("digits", "alexnet"): {"epochs": 4, "lr": 0.06, "dropout": 0.0, "clip_norm": 1.0,
                            "init": "he", "input_resize": 64},
    # After 100 steps on Fashion-MNIST AlexNet had 55.4 % so, and 10.2 % as torchvision initialises
    # it; EfficientNet had 31.5 % so, and 18.7 % with its own initialisation and dropout.
    ("cifar10", "alexnet"): _ALEXNET, ("cifar100", "alexnet"): _ALEXNET,
    ("fashion_mnist", "alexnet"): {**_ALEXNET, "epochs": 2},
    ("fashion_mnist", "efficientnet_b0"): {"dropout": 0.0, "init": "he"},
}


def _initialisation(text):
    if text not in ("own", "he"):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected own or he")
    return text


class _Gather(argparse.Action):
    """Appends pairs to those that were given before, so a script's "$@" overrides one network's."""

    def __call__(self, _parser, namespace, values, *_):
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*(before if isinstance(before, list) else ()), *values])


def _per_network(kind, help=argparse.SUPPRESS, **settings):
    """An option that takes NAME=VALUE ... for single networks: None, or (name, value) pairs."""
    def pair(text):
        name, sign, value = text.partition("=")
        if not (name and sign):
            raise argparse.ArgumentTypeError(f"found {text!r}, expected NAME=VALUE such as "
                                             "alexnet=64")
        try:
            return name, kind(value)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"for {name}: {error}") from None

    return option(None, help, type=pair, nargs="+", action=_Gather, **settings)


@dataclass(frozen=True)
class Data:
    """The real images."""

    dataset: str = option("imagefolder", "digits needs no folder", group="data", choices=DATASETS)
    train_dir: Path | None = option(
        None, "training images: one folder per class, the folder of CIFAR or Fashion-MNIST, or "
        "hf:USER/NAME", group="data", changes_result=False, type=hugging_face.train_images)
    val_dir: Path | None = option(
        None, "test images (CIFAR, Fashion-MNIST: default --train-dir)", group="data",
        changes_result=False, type=hugging_face.test_images)
    image_size: int | None = option(
        None, "side in pixels (default: 224 for image folders, else 32)", group="data",
        type=options.side)
    crop: str = option(
        "auto", "of image files that do not have this size, where no random crop is taken: "
        "validation keeps 224/256 of the short side, square keeps all of it, auto: square below 64 "
        "px", choices=CROPS)


@dataclass(frozen=True)
class Networks:
    """Which networks are trained."""

    teachers: tuple | None = option(None, "torchvision names or timm/NAME", group="method",
                                    nargs="+", required=True, metavar="NAME")
    stem: str = option("imagenet", "small: first convolution with stride 1 and no max-pool, for "
                       "small images", group="method", choices=STEMS)
    input_resize: tuple | None = _per_network(
        options.side, "side that a network resizes its input to, kept with its weights "
        "(alexnet needs 63 px; default: 64 for it on digits, CIFAR and Fashion-MNIST)",
        group="method", metavar="NAME=PIXELS")


@dataclass(frozen=True)
class Views:
    """How the training images are shown."""

    augment: str | None = option(
        None, f"how images are cut; {AUGMENT_WORDS} (default: crop for folders from 64 px on, else "
        "shift). Where images are shifted or whole, all are kept decoded",
        choices=AUGMENTS)
    flip_prob: float | None = option(
        None, "probability of mirroring (default: 0.5, or 0 for digits)", type=options.fraction)


@dataclass(frozen=True)
class Optimisation:
    """How every network is trained; NAME_for holds (network, value) pairs for single ones."""

    epochs: int | None = option(
        None, "default: 90 for folders from 64 px on, 10 for digits, 5 for Fashion-MNIST, else 30",
        group="size", type=options.positive_int)
    batch_size: int | None = option(
        None, "default: 256 for folders from 64 px on, 64 for digits, else 128", group="size",
        type=options.positive_int)
    lr: float | None = option(
        None, "highest learning rate (default: 0.1, digits 0.05; networks without BatchNorm a "
        "tenth of it, as torchvision's reference)", group="method", type=options.positive_float)
    weight_decay: float | None = option(None, "default: 5e-4, 1e-4 for folders from 64 px on",
                                        type=options.weight)
    dropout: float | None = option(
        None, "probability in the dropout layers while a network trains (default: the "
        "architecture's own)", type=options.fraction)
    clip_norm: float | None = option(
        None, "largest norm of the gradient (default: none for folders from 64 px on and digits, "
        "else 1)", type=options.positive_float)
    init: str | None = option(
        None, "own: as the library initialises the network; he: He et al. 2015 but for the head "
        "(default: own)", type=_initialisation)
    warmup: float | None = option(
        None, "part of all steps in which the learning rate rises (default: 0.2, 0.05 for folders "
        "from 64 px on)", type=options.fraction)

    epochs_for: tuple | None = _per_network(options.positive_int)
    batch_size_for: tuple | None = _per_network(options.positive_int)
    lr_for: tuple | None = _per_network(options.positive_float)
    weight_decay_for: tuple | None = _per_network(options.weight)
    dropout_for: tuple | None = _per_network(options.fraction)
    clip_norm_for: tuple | None = _per_network(options.positive_float)
    init_for: tuple | None = _per_network(_initialisation)


@dataclass(frozen=True)
class SqueezeRun(SharedRun):
    """How teachers are trained and kept."""

    output_dir: Path | None = option(None, "folder of NAME.safetensors and NAME.json",
                                     group="data", changes_result=False, type=options.path,
                                     required=True)
    seed: int = option(0, "seed of initialisation, order and augmentation", group="size",
                       type=options.seed)
    min_accuracy: float = option(
        0.0, "fail when a teacher's top-1 on the test images ends below this; 0: never",
        changes_result=False, type=options.weight, metavar="PERCENT")
    save_seconds: float = option(
        60.0, "least seconds between saved states to go on from; a run that is stopped saves one",
        changes_result=False, type=options.weight)


@dataclass(frozen=True)
class Options(RoomOptions):
    """All options of models.pretrain."""

    data: Data
    networks: Networks
    views: Views
    optimisation: Optimisation
    run: SqueezeRun


def parse(argv=None):
    """Options from the command line. Raises UserError for a network that is not trained."""
    o = options.parse(
        Options, argv, prog="models.pretrain",
        description="Train teachers where no weights are published (squeeze): SGD with Nesterov "
        "momentum 0.9, warm-up, then cosine to 0. Every option of the optimisation but --warmup "
        "has a twin for single networks, such as --epochs-for NAME=VALUE.")
    for name, value in options.as_dict(o).items():
        per_network = name == "input_resize" or name.endswith("_for")
        strange = sorted(set(dict(per_network and value or ())) - set(o.networks.teachers))
        if strange:
            raise UserError(f"{options.flag(name)} {strange[0]}=...: {strange[0]} is not among "
                            f"--teachers {' '.join(o.networks.teachers)}.")
    return o


@dataclass(frozen=True)
class Plan:
    """How one network is trained.

    input_resize, dropout, clip_norm: None for no resize, the architecture's own dropout, no
    clipping. augment: one of data.names.AUGMENTS. pad: largest shift in pixels, None where images
    are not shifted. flip_prob: probability of mirroring.
    """

    name: str
    stem: str
    input_resize: int | None
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    dropout: float | None
    clip_norm: float | None
    init: str
    warmup: float
    augment: str
    pad: int | None
    flip_prob: float
    seed: int


def make_plans(o, image_size, has_batch_norm):
    """One Plan per teacher. has_batch_norm: function of a network's name.

    A value is the one given for this network, the one given for all, that of the network's recipe
    or that of the dataset's recipe: the first that there is.
    """
    return [_plan(o, name, image_size, has_batch_norm(name))
            for name in dict.fromkeys(o.networks.teachers)]


def _plan(o, name, image_size, has_batch_norm):
    dataset, given = o.data.dataset, o.optimisation
    of_network = NET_RECIPES.get((dataset, name), {})
    of_dataset = {"init": "own", **RECIPES[_recipe(dataset, image_size)]}
    if not has_batch_norm:
        of_dataset["lr"] /= 10

    def value(key):
        values = (dict(getattr(given, key + "_for", None) or ()).get(name), getattr(given, key),
                  of_network.get(key), of_dataset.get(key))
        return next((v for v in values if v is not None), None)

    keys = [field.name for field in fields(given) if not field.name.endswith("_for")]
    resize = dict(o.networks.input_resize or ()).get(name, of_network.get("input_resize"))
    return Plan(name=name, stem=o.networks.stem, seed=o.run.seed, input_resize=resize,
                **_views(o, image_size), **{key: value(key) for key in keys})


def _recipe(dataset, image_size):
    """Which of RECIPES a dataset has."""
    if dataset in RECIPES:
        return dataset
    return "large" if dataset == "imagefolder" and image_size >= SMALL else "small"


def _views(o, image_size):
    """{"augment", "pad", "flip_prob"} of a Plan."""
    dataset, flip_prob = o.data.dataset, o.views.flip_prob
    large = _recipe(dataset, image_size) == "large"
    kind = o.views.augment or ("crop" if large else "shift")
    pad = largest_shift(image_size, at_32=2 if dataset == "digits" else 4)
    return {"augment": kind, "pad": pad if kind == "shift" else None,
            "flip_prob": flip_probability(dataset) if flip_prob is None else flip_prob}
