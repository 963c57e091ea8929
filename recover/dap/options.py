"""Options of DAP, declared once: each dataclass is what one part of the room reads.

What the paper leaves open, and why each default was chosen, is in docs/dap.md. Imports no PyTorch.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from data import hugging_face
from data.names import DATASETS
from models.names import BACKBONES
from utils import options
from utils.errors import UserError
from utils.options import RoomOptions, SharedRun, option
from utils.precision import Arithmetic

CFG_SCALE = {"dit": 4.0, "sd": 7.5, "pixel-dit": 2.0}


def number_of_reals(text):
    """A positive integer, or the word all."""
    try:
        return text if text == "all" else options.positive_int(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, or all") from None


@dataclass(frozen=True)
class Data:
    """The real images, and the size and format of the synthetic ones."""

    dataset: str = option("imagefolder", "digits needs no folder", group="data", choices=DATASETS)
    train_dir: Path | None = option(
        None, "real training images: one folder per class, the folder of CIFAR or Fashion-MNIST, "
        "or hf:USER/NAME", group="data", changes_result=False, type=hugging_face.train_images)
    classes: str | None = option(
        None, "imagenette, imagewoof, imageidc, or a text file with a class folder in each line: "
        "the classes to distil, in this order (default: all)", group="data", metavar="LIST")
    image_size: int | None = option(
        None, "side in pixels that images are saved at (default: --sample-size for image folders, "
        "else 32)", group="data", type=options.positive_int)
    image_format: str = option("png", "format of the images", choices=("png", "jpg"))


@dataclass(frozen=True)
class Model:
    """The diffusion model, its prompts, and the layer whose output is phi."""

    backbone: str = option(
        "dit", "dit: DiT-XL/2, which knows the classes of ImageNet-1K; sd: Stable Diffusion 1.5, "
        "which is told class names; pixel-dit: one of models.pretrain_diffusion", group="method",
        choices=BACKBONES)
    weights: str | None = option(
        None, "name on the Hugging Face hub (NAME@REVISION) or a local folder, in safetensors "
        "(default: the published ones)", group="data", changes_result=False)
    vae_weights: str | None = option(
        None, "likewise for the VAE, such as stabilityai/sd-vae-ft-mse (default: that of the "
        "backbone)", changes_result=False)
    sample_size: int | None = option(
        None, "side in pixels that the model works at (default: as trained: 256 for DiT, 512 for "
        "Stable Diffusion)", type=options.positive_int, metavar="PIXELS")
    prompt: str = option("{}", "prompt of a class for sd; {} is its name", metavar="TEXT")
    negative_prompt: str = option("", "what sd's images should not show", metavar="TEXT")
    layer: str | None = option(
        None, "layer whose output is phi: a block's number, counted from 0, or down0, ..., mid, "
        "up0, ... of a U-Net (default: 7 of DiT-XL's 28, in proportion in others; mid)",
        group="method")
    pool: str = option("none", "none: phi is the whole output; mean: its mean over tokens",
                       choices=("none", "mean"))


@dataclass(frozen=True)
class Sampling:
    """Algorithm 1: the sampler and the guidance."""

    gamma: float = option(1.0, "strength of the guidance (paper Eq. 6); 0: plain sampling",
                          group="method", type=options.weight)
    kernel: str = option("linear", "K of the distance D_K (paper Theorem 3.1)", group="method",
                         choices=("linear", "rbf"))
    mean_form: str = option(
        "exact", "exact: mean of the N distances (paper Eq. 6); class-mean: distance to the mean "
        "of the N features, which takes 1/N of the memory", choices=("exact", "class-mean"))
    guidance_scale_by: str = option(
        "none", "none: gamma g_t as the paper quotes it; sigma: times the noise of the step (as "
        "MGD3); rms: at the size of the predicted noise (as IGD), where gamma is about 0.01",
        choices=("none", "sigma", "rms"))
    guide_from: int = option(0, "first guided step, counted from 0 at pure noise",
                             type=options.count, metavar="STEP")
    guide_to: int | None = option(
        None, "one past the last guided step (default: half of --steps; early stop)",
        type=options.count, metavar="STEP")
    steps: int = option(50, "respaced DDPM steps", group="size", type=options.positive_int)
    cfg_scale: float | None = option(
        None, "classifier-free guidance; 1: none (default: 4 for dit, 7.5 for sd, 2 for "
        "pixel-dit)", type=options.positive_float)
    cfg_channels: int | None = option(
        None, "latent channels that classifier-free guidance changes: 3 as DiT's released code, or "
        "4 as diffusers (default: 3 for dit, else all)", type=int, choices=(3, 4))
    batch_size: int = option(
        32, "images that go through the model together; may change last bits", group="size",
        changes_result=False, type=options.positive_int)

    def guides(self, step):
        """Whether a step, counted from 0 at pure noise, is guided."""
        return self.gamma > 0 and self.guide_from <= step < self.guide_to


@dataclass(frozen=True)
class RealImages:
    """The real images of a class that its synthetic ones are guided towards."""

    reals: int | str = option(100, "how many of a class, drawn at random: N of Eq. 6, or all",
                               group="method", type=number_of_reals, metavar="N|all")
    latents_dir: Path | None = option(
        None, "where the VAE's latents of real images are kept for all runs (default: .cache "
        "beside OUTPUT_DIR)", changes_result=False, type=options.path)


@dataclass(frozen=True)
class Images:
    """How many images are made, and in which units of work."""

    ipc_start: int = option(0, "first image of a class", changes_result=False, type=options.count)
    ipc_end: int = option(10, "one past the last image of a class: images per class", group="size",
                          changes_result=False, type=options.positive_int)
    unit_images: int = option(
        50, "images of a class that one process makes together and finishes at once",
        changes_result=False, type=options.positive_int, metavar="N")


@dataclass(frozen=True)
class DapRun(SharedRun):
    """How DAP runs, and what it prints."""

    output_dir: Path | None = option(
        None, "run folder, shared by the three stages", group="data", changes_result=False,
        type=options.path, required=True)
    seed: int = option(0, "seed of the images and of the choice of real ones", group="size",
                       type=options.seed)


@dataclass(frozen=True)
class Options(RoomOptions):
    """All options of DAP."""

    data: Data
    model: Model
    sampling: Sampling
    real: RealImages
    images: Images
    arithmetic: Arithmetic
    run: DapRun


def parse(argv=None):
    """Options from the command line. Raises UserError for what contradicts itself."""
    parsed = options.parse(Options, argv, prog="recover.dap_synthesis",
                           description="Sample images from a diffusion model, guided towards the "
                           "real data (DAP; stage 1).")
    check(resolve(parsed))
    return parsed


def resolve(o):
    """The options with defaults that follow from other options filled in."""
    sampling, kind = o.sampling, o.model.backbone
    channels = 3 if kind == "dit" and sampling.cfg_channels is None else sampling.cfg_channels
    half = max(1, sampling.steps // 2)
    return options.with_values(
        o, cfg_scale=CFG_SCALE[kind] if sampling.cfg_scale is None else sampling.cfg_scale,
        cfg_channels=channels, guide_to=half if sampling.guide_to is None else sampling.guide_to)


def check(o):
    """Raise UserError for options that contradict one another."""
    sampling, images, model = o.sampling, o.images, o.model
    rules = [
        (images.ipc_start >= images.ipc_end,
         f"--ipc-start {images.ipc_start} --ipc-end {images.ipc_end}: no image in between. Raise "
         "--ipc-end."),
        (sampling.steps > 1000, f"--steps {sampling.steps}: the models were trained with 1000. "
         "Give at most 1000."),
        (not sampling.guide_from < sampling.guide_to <= sampling.steps,
         f"--guide-from {sampling.guide_from} --guide-to {sampling.guide_to}: expected a range "
         f"within the {sampling.steps} steps. Change them; --gamma 0 is plain sampling."),
        (sampling.kernel == "rbf" and o.real.reals == 1,
         "--kernel rbf takes its bandwidth from the distances between real images, found --reals "
         "1. Give more, or --kernel linear."),
        (sampling.kernel == "rbf" and sampling.mean_form == "class-mean",
         "--mean-form class-mean has no bandwidth for --kernel rbf. Give --mean-form exact, or "
         "--kernel linear."),
        (model.backbone != "sd" and {"prompt", "negative_prompt"} & o.given,
         f"--backbone {model.backbone} reads no prompt: it knows classes by label. Leave --prompt "
         "and --negative-prompt out, or give --backbone sd."),
        (model.backbone == "pixel-dit" and model.weights is None,
         "--backbone pixel-dit: no weights are published, give --weights. Train them with python "
         "-m models.pretrain_diffusion."),
    ]
    for contradicts, sentence in rules:
        if contradicts:
            raise UserError(sentence)
