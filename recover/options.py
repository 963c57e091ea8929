"""Options of recover, declared once: each dataclass is what one part of the room reads.

Defaults are the paper's, with the decisions of docs/choices.md where paper and released code
differ. Imports no PyTorch.
"""

from dataclasses import dataclass
from pathlib import Path

from data.names import AUGMENT_WORDS, AUGMENTS, CROPS, DATASETS, crop_rule, flip_probability
from models.names import HEADS
from recover.presets import POOL, PRESETS
from utils import options, schedules
from utils.errors import UserError
from utils.options import RoomOptions, SharedRun, option
from utils.precision import Arithmetic

CLASS_PATCHES = ("straight", "swapped")
RANKED = ("medium", "mosaic")  # starts that a network chooses
ENDLESS = ("noise", "drawn", "mosaic")  # starts that no class runs short of


@dataclass(frozen=True)
class Data:
    """The real images, and the format of the synthetic ones."""

    dataset: str = option("imagefolder", "digits needs no folder", group="data", choices=DATASETS)
    train_dir: Path | None = option(
        None, "real training images: one folder per class, or the folder of CIFAR or "
        "Fashion-MNIST; --start noise with --classes needs none", group="data",
        changes_result=False, type=options.path)
    classes: str | None = option(
        None, "imagenette, imagewoof, imageidc, a text file with a class folder in each line, or "
        "class folders with commas between them: the classes to distil, in this order (default: "
        "all)", group="data", metavar="LIST")
    image_size: int | None = option(
        None, "side in pixels (default: what the teachers' files were trained at; else 224 for "
        "image folders, 32 for others)", group="data", type=options.side)
    crop: str = option(
        "auto", "of real image files that do not have this size: validation keeps 224/256 of the "
        "short side, square keeps all of it, auto: square below 64 px", choices=CROPS)
    image_format: str = option(
        "auto", "auto: jpg as in the paper, png below 64 px where JPEG's loss shows in BatchNorm "
        "statistics", choices=("auto", "jpg", "png"))
    allow_short_classes: bool = option(
        False, "leave a class out of the slices it has no image for, instead of refusing")


@dataclass(frozen=True)
class Start:
    """What the images start from."""

    start: str = option(
        "real", "real: slice i starts from the i-th file of each class, sorted by name; random: "
        "from a random real image of the class, each used once; drawn: likewise, drawn anew for "
        "every image; medium: images of middle difficulty first (DELT); mosaic: the best crops of "
        "four images (RDED); noise: N(0,1) (SRe2L)", group="method",
        choices=("real", "random", "drawn", "medium", "mosaic", "noise"))
    start_dir: Path | None = option(
        None, "start real, random or drawn from these images instead, one folder per class: "
        "another method's, for instance", changes_result=False, type=options.path)
    start_flip: float = option(0.0, "probability that a start image is mirrored (EDC: 0.5)",
                               type=options.fraction)
    ranker: str | None = option(
        None, "network that ranks images for --start medium and mosaic (default: the primary "
        "teacher)", metavar="NAME")
    mosaic_candidates: int = option(300, "random images of a class that RDED looks at",
                                    type=options.positive_int)
    mosaic_crops: int = option(5, "crops of each candidate, of which the best counts (RDED)",
                               type=options.positive_int)
    mosaic_grid: int = option(2, "crops along a side of the image (RDED)",
                              type=options.positive_int)


@dataclass(frozen=True)
class TeacherLaw:
    """Which networks guide an image, and when they are drawn (paper 3.1 to 3.3)."""

    primary_teacher: str = option(
        "resnet18", "logit teacher phi and first BN teacher theta_1; torchvision name or timm/NAME",
        group="method", metavar="NAME")
    bn_teachers: tuple = option(
        POOL, "pool of extra BN teachers; the primary is left out of it (paper 4.4, released code)",
        group="method", nargs="*", metavar="NAME")
    decoupling: str = option(
        "multi", "multi: several BN teachers; dual: one, another network than the logit teacher; "
        "single: the logit teacher does both (paper 3.1, SRe2L)",
        choices=("multi", "dual", "single"))
    logit_teacher: str = option(
        "primary", "drawn: uniformly from the primary and the pool (paper 3.3)",
        choices=("primary", "drawn"))
    selection: str = option(
        "pre", "pre: teachers are drawn once, before distillation; intra: again at every step "
        "(paper 3.3); in-turn: step n uses network n mod K of primary and pool for both terms "
        "(G-VBSM; needs --decoupling single)", choices=("pre", "intra", "in-turn"))
    drawn_per: str = option(
        "slice", "slice: one draw for a slice (released code); image: every image has its own, and "
        "those of a slice that drew alike share units (the paper's words)",
        choices=("slice", "image"))
    bn_law: str = option(
        "slots", "how multi draws BN teachers: slots filled by chance (released code); uniform "
        "over the non-empty subsets of at most --bn-count networks (paper 3.2); exactly --bn-count "
        "networks (paper Table 2)", choices=("slots", "uniform", "exact"))
    bn_slots: int = option(3, "most extra BN teachers beside theta_1 (with slots)",
                           type=options.count)
    bn_slot_prob: float = option(0.5, "probability that a slot is filled (with slots)",
                                 type=options.fraction)
    bn_count: int = option(
        4, "number of BN teachers (with exact), or the most of them (with uniform)",
        type=options.positive_int)
    theta1: str = option(
        "forced", "whether the logit teacher is always a BN teacher (paper Table 3d) or drawn like "
        "any other (with uniform and exact)", choices=("forced", "free"))
    head: str = option(
        "full", "of networks that know more classes than are distilled (ImageNet's, for ten of its "
        "classes): full: an image must win against all of them; classes: against those that are "
        "distilled, the other outputs are cut off", choices=HEADS)

    @property
    def pool(self):
        """The pool of extra BN teachers: each once, without the primary."""
        return [name for name in dict.fromkeys(self.bn_teachers) if name != self.primary_teacher]

    @property
    def everyone(self):
        """The primary and the pool."""
        return [self.primary_teacher, *self.pool]


@dataclass(frozen=True)
class Losses:
    """The terms of the loss and their weights (paper Eq. 2-4)."""

    r_bn: float = option(0.01, "weight of the BN term", group="method", type=options.weight)
    bn_terms: str = option(
        "mean", "how the terms of several BN teachers are joined: mean (released code) or sum "
        "(paper Eq. 4)",
        choices=("mean", "sum"))
    bn_normalise: str = option(
        "none", "layers: divide a network's term by its number of layers, so that deep networks do "
        "not outweigh others", choices=("none", "layers"))
    without_bn: str = option(
        "counted", "BN teachers without BatchNorm: counted as 0 in the mean (released code), left "
        "out of it, or aligned to statistics measured on the training images (LayerNorm and "
        "GroupNorm networks, AlexNet)", choices=("counted", "left-out", "calibrated"))
    first_bn_multiplier: float = option(10.0, "factor on the first layer (released code)",
                                        type=options.weight)
    density: float = option(0.0, "weight of G-VBSM's density term over the images of a class",
                            type=options.weight)
    density_temperature: float = option(4.0, "temperature of the density term's target (G-VBSM)",
                                        type=options.positive_float)
    tv_l2: float = option(0.0, "weight of SRe2L's total-variation prior", type=options.weight)
    l2_scale: float = option(0.0, "weight of SRe2L's L2 prior", type=options.weight)


@dataclass(frozen=True)
class Matching:
    """Which statistics are matched, beyond those that BatchNorm layers keep."""

    match: str = option(
        "batchnorm", "layers whose statistics are matched; convolution: BatchNorm layers, "
        "convolutions and their patches (G-VBSM)", choices=("batchnorm", "convolution"))
    statistics_ema: float = option(
        0.0, "with --match convolution: weight of the past in the batch's statistics (G-VBSM 0.4, "
        "EDC 0.8)", type=options.fraction)
    class_statistics: float = option(
        0.0, "with --match convolution: share of the distance to class statistics, where the rest "
        "is to global ones (EDC 0.5)", type=options.fraction)
    class_patches: str = option(
        "straight", "with class statistics: swapped matches patch means to variances and back, as "
        "EDC's code ran", choices=CLASS_PATCHES)
    statistics_images: int = option(
        0, "training images that calibrated and convolution statistics are measured on, once; 0: "
        "all", type=options.count, metavar="N")
    statistics_dir: Path | None = option(
        None, "where measured statistics are kept (default: beside the teachers' weights)",
        changes_result=False, type=options.path)


@dataclass(frozen=True)
class Optimisation:
    """Units of work, their steps and their augmentation."""

    ipc_start: int = option(0, "first IPC slice", changes_result=False, type=options.count)
    ipc_end: int = option(10, "one past the last IPC slice: images per class", group="size",
                          changes_result=False, type=options.positive_int)
    iteration: int = option(
        4000, "steps of the longest slices; 0 saves the start images as they are (a real subset)",
        group="size", type=options.count)
    batch_size: int = option(100, "images in a unit of work", group="size",
                             type=options.positive_int)
    batch_layout: str = option(
        "slice", "slice: a unit is one image each of consecutive classes (paper 3.4); class: all "
        "images of a class, then of the next (G-VBSM, EDC, DELT)", choices=("slice", "class"))
    units_per_step: int = option(
        1, "units that share a forward, each with its own statistics, crops and optimiser; fills a "
        "large GPU. May change the last bits of the result", group="size",
        type=options.positive_int, metavar="N")
    early_late: int = option(
        0, "groups of a class's images that join one after the other (DELT: 8); 0: all images from "
        "the first step", type=options.count, metavar="GROUPS")
    steps: str = option(
        "varied", "varied: iteration * (1 - (slice mod 8)/8) (paper Table 3b); constant: SRe2L",
        choices=("varied", "constant"))
    lr: float = option(0.05, "learning rate of Adam, cosine to 0 (SRe2L: 0.25)", group="method",
                       type=options.positive_float)
    augment: str = option("crop", f"how images are cut in each step; {AUGMENT_WORDS}",
                          choices=AUGMENTS)
    min_scale_crops: float = option(0.08, "least area of a crop, as a part of the image",
                                    type=options.positive_fraction)
    crop_schedule: str = option(
        "constant", "least area over the steps, falling from 1 to --min-scale-crops (CDA: cosine; "
        "paper Table 3b)", choices=schedules.CROP)
    crop_milestone: float = option(
        1.0, "part of the steps after which the least area is reached (CDA)",
        type=options.positive_fraction)
    flip_prob: float | None = option(
        None, "probability of mirroring (default: 0.5, or 0 for digits)", type=options.fraction)
    jitter: int | None = option(
        None, "largest roll in pixels (default: 32 at 224 px, in proportion)", type=options.count)


@dataclass(frozen=True)
class RecoverRun(SharedRun):
    """How recover runs, and what it prints."""

    output_dir: Path | None = option(
        None, "run folder, shared by the three stages", group="data", changes_result=False,
        type=options.path, required=True)
    seed: int = option(0, "seed of the images: start, teacher draws, augmentation", group="size",
                       type=options.seed)
    teacher_weights: str = option(
        "IMAGENET1K_V1", "name of published torchvision weights, or a folder of NAME.safetensors / "
        "NAME.pth", group="data", changes_result=False)
    min_teacher_accuracy: float | None = option(
        None, "stop if a logit teacher gets fewer of the real images right; 0: measure no teacher "
        "(default: a tenth of the way from chance to 100)", changes_result=False,
        type=options.weight, metavar="PERCENT")
    log_every: int = option(100, "steps between lines of loss terms", changes_result=False,
                            type=options.positive_int)
    verifier: str | None = option(
        None, "a network whose accuracy on the images is printed beside the loss terms (SRe2L); "
        "changes no pixel (default: none)", changes_result=False, metavar="NAME")
    frames: int = option(
        0, "keep the images of the previews in frames/ as they start and after each of N equal "
        "parts of their steps; changes no pixel of the images", changes_result=False,
        type=options.count, metavar="N")
    checkpoint_every: int = option(500, "steps between checkpoints of unfinished units",
                                   changes_result=False, type=options.positive_int)


@dataclass(frozen=True)
class Options(RoomOptions):
    """All options of recover."""

    data: Data
    start: Start
    law: TeacherLaw
    losses: Losses
    matching: Matching
    optimisation: Optimisation
    arithmetic: Arithmetic
    run: RecoverRun


def parse(argv=None):
    """Options from the command line. Raises UserError for what contradicts itself."""
    parsed = options.parse(Options, argv, prog="recover.data_synthesis", presets=PRESETS,
                           description="Optimise synthetic images (stage 1 of PRISM).")
    check(parsed)
    return parsed


def check(o):
    """Raise UserError for options that contradict one another."""
    optimisation, law = o.optimisation, o.law
    by_class = optimisation.batch_layout == "class"
    rules = [
        (optimisation.ipc_start >= optimisation.ipc_end,
         f"--ipc-start {optimisation.ipc_start} --ipc-end {optimisation.ipc_end}: no slice in "
         "between. Raise --ipc-end."),
        (by_class and optimisation.ipc_start,
         f"--ipc-start {optimisation.ipc_start}: with --batch-layout class there are no slices to "
         "begin at. Leave it out."),
        (by_class and optimisation.steps == "varied",
         "--batch-layout class: a unit holds several slices, found --steps varied. Give --steps "
         "constant."),
        (by_class and law.drawn_per == "image",
         "--batch-layout class: a unit shares its teachers, found --drawn-per image. Give "
         "--drawn-per slice."),
        (optimisation.early_late and not by_class,
         f"--early-late {optimisation.early_late} lets the images of a class join one after the "
         "other, found --batch-layout slice, which puts them into different units. Give "
         "--batch-layout class."),
        (o.losses.density and not by_class,
         f"--density {o.losses.density:g} compares images of one class, found --batch-layout "
         "slice, whose units hold one of each. Give --batch-layout class."),
        (o.matching.statistics_ema == 1,
         "--statistics-ema 1 would forget every batch: found 1, expected less. G-VBSM has 0.4, EDC "
         "0.8."),
        (o.start.start_dir and o.start.start not in ("real", "random", "drawn"),
         f"--start {o.start.start} does not read --start-dir {o.start.start_dir}. Give --start "
         "real, random or drawn, or leave --start-dir out."),
        (o.preset == "edc" and not o.start.start_dir and "start" not in o.given,
         "--preset edc starts from RDED's images, found no --start-dir. Make them with --preset "
         "rded in another --output-dir and give its images folder, or choose another --start."),
        (law.selection == "in-turn" and law.decoupling != "single",
         "--selection in-turn takes one network at a step for both terms, found --decoupling "
         f"{law.decoupling}. Give --decoupling single."),
        (law.drawn_per == "image" and law.selection == "intra",
         "--drawn-per image: images of a unit must keep the same teachers, found --selection "
         "intra. Give --selection pre."),
        (law.decoupling == "dual" and not law.pool,
         f"--decoupling dual needs another network than {law.primary_teacher} as BN teacher, "
         "--bn-teachers has none. Add one."),
        (law.decoupling == "multi" and law.bn_law == "exact"
         and law.bn_count > len(law.everyone),
         f"--bn-count {law.bn_count}: the primary and the pool are {len(law.everyone)} networks "
         f"({', '.join(law.everyone)}). Lower it, or add --bn-teachers."),
    ]
    for contradicts, sentence in rules:
        if contradicts:
            raise UserError(sentence)


def needs_images(o):
    """Words for what needs real images; None where classes are enough."""
    if o.start.start != "noise":
        return f"--start {o.start.start}"
    if o.matching.match == "convolution":
        return "--match convolution"
    return "--without-bn calibrated" if o.losses.without_bn == "calibrated" else None


def resolve(o, images):
    """The options with what depends on the real images (an ImageSet) filled in."""
    size = images.image_size
    auto = "png" if size < 64 else "jpg"
    return options.with_values(
        o, image_size=size, bn_teachers=tuple(o.law.pool),
        crop=crop_rule(o.data.crop, size, o.data.dataset),
        image_format=auto if o.data.image_format == "auto" else o.data.image_format,
        ranker=o.start.ranker or o.law.primary_teacher,
        flip_prob=flip_probability(images.dataset) if o.optimisation.flip_prob is None
        else o.optimisation.flip_prob,
        jitter=32 * size // 224 if o.optimisation.jitter is None else o.optimisation.jitter)


def manifest_options(o):
    """{name: value} that images.json keeps and compares.

    Where more images per class would change those there are, the number counts as well.
    """
    depends = o.optimisation.batch_layout == "class" or o.start.start == "mosaic"
    return {**options.stored(o), "ipc": o.optimisation.ipc_end if depends else None}
