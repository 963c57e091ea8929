"""Options of training a diffusion model in pixel space, and what they mean for a dataset.

Imports no PyTorch.
"""

from dataclasses import dataclass, fields
from pathlib import Path

from data import hugging_face
from data.names import DATASETS, has_flips
from utils import options
from utils.errors import UserError
from utils.options import RoomOptions, StageRun, option
from utils.precision import Arithmetic

# Digits: two minutes on 2 cores; a ResNet-18 took 99.5 % of 200 samples without guidance for their
# class, and 98 % of the real test digits. Fashion-MNIST: 42 minutes on one core beside another
# computation; a ResNet-18 took 89 of 100 samples for their class, and 90 % of the real test images.
# At 32 px no samples of a net of the digits' cost were recognisable. Images in colour: the shape of
# DiT-S/2 and the optimiser of DiT (Peebles and Xie 2023), which were not measured here; at 32 px,
# because larger images need a larger network.
_SMALL = {"sample_size": 32, "patch_size": 2, "width": 384, "layers": 12, "heads": 6,
          "steps": 100_000, "batch_size": 128, "lr": 1e-4, "ema": 0.9999}
RECIPES = {
    "imagefolder": _SMALL, "cifar10": _SMALL, "cifar100": _SMALL,
    "fashion_mnist": {"sample_size": 28, "patch_size": 4, "width": 96, "layers": 6, "heads": 4,
                      "steps": 5000, "batch_size": 128, "lr": 2e-3, "ema": 0.998},
    "digits": {"sample_size": 8, "patch_size": 2, "width": 64, "layers": 6, "heads": 4,
               "steps": 2800, "batch_size": 128, "lr": 5e-3, "ema": 0.995},
}
CHANNELS = {"grey": 1, "rgb": 3}


@dataclass(frozen=True)
class Data:
    """The real images."""

    dataset: str = option("imagefolder", "digits needs no folder", group="data", choices=DATASETS)
    train_dir: Path | None = option(
        None, "training images: one folder per class, the folder of CIFAR or Fashion-MNIST, or "
        "hf:USER/NAME", group="data", changes_result=False, type=hugging_face.train_images)
    classes: str | None = option(
        None, "list of class folders, in the order of the labels: imagenette, imagewoof, imageidc "
        "or a text file with one in each line (default: all folders, sorted)", group="data",
        metavar="LIST")
    sample_size: int | None = option(
        None, "side in pixels of the images that the model makes (default: 32, Fashion-MNIST 28, "
        "digits 8). Other rooms enlarge them; a small model at a larger size makes nothing "
        "recognisable", group="data", type=options.positive_int)
    channels: str = option(
        "auto", "auto: grey where every training image is grey", group="data",
        choices=("auto", *CHANNELS))
    flip_prob: float | None = option(
        None, "probability that a training image is mirrored (default: 0.5, digits 0)",
        type=options.fraction)


@dataclass(frozen=True)
class Shape:
    """The diffusion transformer (DiT, Peebles and Xie 2023)."""

    patch_size: int | None = option(
        None, "side in pixels of the square that becomes one token (default: 2, Fashion-MNIST 4)",
        group="method", type=options.positive_int)
    width: int | None = option(
        None, "numbers per token (default: 384, Fashion-MNIST 96, digits 64)", group="method",
        type=options.positive_int)
    layers: int | None = option(
        None, "blocks (default: 12, Fashion-MNIST and digits 6)", group="method",
        type=options.positive_int)
    heads: int | None = option(
        None, "attention heads of a block (default: 6, Fashion-MNIST and digits 4)",
        type=options.positive_int)


@dataclass(frozen=True)
class Optimisation:
    """How it is trained: AdamW, a warm-up of the learning rate, then a cosine to 0."""

    steps: int | None = option(
        None, "optimiser steps (default: 100000, Fashion-MNIST 5000, digits 2800)", group="size",
        type=options.positive_int)
    batch_size: int | None = option(None, "default: 128", group="size", type=options.positive_int)
    lr: float | None = option(
        None, "highest learning rate (default: 1e-4, Fashion-MNIST 2e-3, digits 5e-3)",
        group="method", type=options.positive_float)
    weight_decay: float = option(0.0, "AdamW's", type=options.weight)
    ema: float | None = option(
        None, "decay of the average of the weights that is kept (default: 0.9999, Fashion-MNIST "
        "0.998, digits 0.995); lower in the first steps", type=options.fraction)


@dataclass(frozen=True)
class DiffusionRun(StageRun):
    """How training runs and what it keeps."""

    output_dir: Path | None = option(
        None, "folder of pixel_dit.safetensors, pixel_dit.json and samples.png", group="data",
        changes_result=False, type=options.path, required=True)
    seed: int = option(0, "seed of initialisation, batches, noise and samples", group="size",
                       type=options.seed)
    save_seconds: float = option(
        60.0, "least seconds between saved states to go on from", changes_result=False,
        type=options.weight)


@dataclass(frozen=True)
class Options(RoomOptions):
    """All options of models.pretrain_diffusion."""

    data: Data
    shape: Shape
    optimisation: Optimisation
    run: DiffusionRun
    arithmetic: Arithmetic


def parse(argv=None):
    """Options from the command line. Raises UserError for a network that cannot be built."""
    o = options.parse(
        Options, argv, prog="models.pretrain_diffusion",
        description="Train a small class-conditional diffusion model in pixel space (DDPM, noise "
        "prediction, classifier-free guidance) on images that no published one knows.")
    if o.data.classes is not None and o.data.dataset != "imagefolder":
        raise UserError(f"--classes {o.data.classes}: is for --dataset imagefolder, found "
                        f"{o.data.dataset}, whose classes are known. Leave it out.")

    plan = make_plan(o)
    if plan.sample_size % plan.patch_size:
        raise UserError(f"--sample-size {plan.sample_size} is not a multiple of --patch-size "
                        f"{plan.patch_size}. Change one of them.")
    if plan.width % plan.heads or plan.width % 4:
        raise UserError(f"--width {plan.width} is not a multiple of --heads {plan.heads} and of 4, "
                        "which the position embedding needs. Change one of them.")
    return o


@dataclass(frozen=True)
class Plan:
    """What is trained and how: the options, with the recipe of the dataset for those not given."""

    sample_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    steps: int
    batch_size: int
    lr: float
    weight_decay: float
    ema: float
    flip_prob: float
    seed: int


def make_plan(o):
    """The Plan of Options."""
    recipe = {**RECIPES[o.data.dataset], "flip_prob": 0.5 if has_flips(o.data.dataset) else 0.0}
    given = {name: value for name, value in options.as_dict(o).items() if value is not None}
    values = {**recipe, **given}
    return Plan(**{field.name: values[field.name] for field in fields(Plan)})
