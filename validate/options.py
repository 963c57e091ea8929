"""Options of validate, declared once: each dataclass is what one part of the room reads.

Defaults are the paper's, with the decisions of docs/choices.md where paper and released code
differ. Imports no PyTorch.
"""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

from data import hugging_face
from data.names import AUGMENT_WORDS, AUGMENTS, CROPS, DATASETS, MIXES, crop_rule
from models.names import ENSEMBLE_RULES, STEMS
from utils import options, schedules
from utils.errors import UserError
from utils.options import RoomOptions, StageRun, flag, option
from utils.precision import Arithmetic
from validate import rules
from validate.presets import PRESETS

LOSSES = ("mse_gt", "mae_gt", "kl", "dist", "ce")
WITH_GROUND_TRUTH = ("mse_gt", "mae_gt")  # read ce_weight
WITH_TEMPERATURE = ("kl", "dist")  # read temperature
BY_OPTIMIZER = {  # SGD: torchvision's ResNet recipe (paper Table 2)
    "adamw": {"lr": 1e-3, "weight_decay": 0.01}, "sgd": {"lr": 0.1, "weight_decay": 1e-4}}
LARGEST_SIDE = 4096  # pixels of an image: beyond it a typing error would fill the memory

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]*")
# timm reads these sections of a RandAugment string and skips others in silence.
_RAND_AUGMENT = re.compile(
    r"rand(-(m\d+|n\d+|p\d*\.?\d+|mstd\d+(\.\d+)?|mmax\d+|inc[01]|t(weights|3aw?)))*")


def folder_name(text):
    """A name that is a single folder."""
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"found {text!r}, expected a plain name of letters, digits and . _ + = -")
    return text


def path_or_none(text):
    """A path, or the word none."""
    return text if text == "none" else options.path(text)


def number_or(kind, *names):
    """Option type: a number of this kind (its `number`), or the name of a rule."""
    def read(text):
        if text in names:
            return text
        try:
            return kind(text)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{error}, or {' or '.join(names)}") from None

    read.number = kind
    return read


def decay(text):
    """A number from 0 up to, but not including, 1."""
    value = options.fraction(text)
    if value == 1:
        raise argparse.ArgumentTypeError(
            "found 1, expected less: the average would never leave the start")
    return value


def rand_augment(text):
    """A RandAugment string of timm; None for the word none."""
    if text != "none" and not _RAND_AUGMENT.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"found {text!r}, expected timm's string such as rand-m6-n2-mstd1.0")
    return None if text == "none" else text


@dataclass(frozen=True)
class Images:
    """The distilled images and the real test images."""

    output_dir: Path | None = option(
        None, "run folder, shared by the three stages (needed to train)", group="data",
        changes_result=False, type=options.path)
    train_dir: Path | None = option(
        None, "distilled images, one folder per class, of any tool, or hf:USER/NAME (default: "
        "OUTPUT_DIR/images)", changes_result=False, type=hugging_face.train_images)
    val_dir: Path | None = option(
        None, "real test images: one folder per class, the folder of CIFAR or Fashion-MNIST, or "
        "hf:USER/NAME", group="data", changes_result=False, type=hugging_face.test_images)
    val_cache: Path | str | None = option(
        None, "where decoded test images of a folder are kept for all runs (ImageNet at 224 px: "
        "7.5 GB); none: every run decodes them into memory (default: .cache beside OUTPUT_DIR, or "
        "none where that cannot be written)", changes_result=False, type=path_or_none,
        metavar="DIR|none")
    dataset: str | None = option(
        None, "dataset of the test images (default: as images.json says, else imagefolder)",
        group="data", choices=DATASETS)


@dataclass(frozen=True)
class Data(Images):
    """The distilled images, their labels, and the real test images."""

    fkd_path: Path | None = option(
        None, "labels of relabel (default: OUTPUT_DIR/labels)", changes_result=False,
        type=options.path)
    image_size: int | None = option(
        None, "side of the test images; read by --evaluate alone, where neither the checkpoint nor "
        "distilled images give it (default: 224 for image folders, else 32)",
        type=options.positive_int, metavar="PIXELS")
    crop: str = option(
        "auto", "of test image files that do not have this size: validation keeps 224/256 of the "
        "short side, square keeps all of it, auto: square below 64 px", choices=CROPS)


@dataclass(frozen=True)
class Net:
    """The network that is trained."""

    student: str = option(
        "resnet18", "torchvision name, timm/NAME, or with instance norm convnet3 ... convnet6, "
        "resnetap10, resnet18_in", group="method", metavar="NAME")
    student_name: str | None = option(
        None, "folder below students/ (default: made of student, protocol and seed)",
        changes_result=False, type=folder_name, metavar="NAME")
    stem: str = option("imagenet", "small: first convolution with stride 1 and no max-pool, for "
                       "small images", choices=STEMS)
    input_resize: str | None = option(
        None, "side that the student resizes its input to, as 64 or NAME=64 (AlexNet needs 64 at "
        "32 px)", metavar="PIXELS")


@dataclass(frozen=True)
class Student(Net):
    """The network that is trained, and what is kept of it."""

    stem: str | None = option(
        None, "small: first convolution with stride 1 and no max-pool, for small images (default: "
        "that of the labels' teacher, where the student can have it; else imagenet)",
        choices=STEMS)
    ema: float = option(
        0.0, "decay per step of a moving average of the weights, which is then tested and kept "
        "(EDC: 0.99); 0: no average", type=decay, metavar="DECAY")


@dataclass(frozen=True)
class SoftLabels:
    """Where soft labels come from."""

    labels: str = option(
        "auto", "stored: those of relabel; online: made here by the recipe in labels.json, the "
        "same numbers; auto: stored, or online when relabel stored none; teacher: --teachers label "
        "this run's own views, without a labels folder (DELT, RDED)", group="method",
        changes_result=False, choices=("auto", "stored", "online", "teacher"))
    teachers: tuple = option(
        ("resnet18",), "with --labels teacher: the primary teacher first; torchvision names or "
        "timm/NAME", nargs="+", metavar="NAME")
    ensemble: str = option(
        "single", "with --labels teacher: how the teachers' logits become one label (see relabel)",
        choices=ENSEMBLE_RULES)
    teacher_weights: str | None = option(
        None, "name of published torchvision weights, or a folder of NAME.safetensors / NAME.pth "
        "(default: with online labels those of labels.json, and others are refused; with --labels "
        "teacher IMAGENET1K_V1)", changes_result=False)


@dataclass(frozen=True)
class Objective:
    """What the student minimises: see validate.losses.student_loss."""

    loss_type: str = option(
        "mse_gt", "mse_gt, mae_gt: distance of the raw logits plus ground truth; kl, dist: of the "
        "softmaxes; ce: hard labels alone, without a labels folder", group="method", choices=LOSSES)
    ce_weight: float = option(0.1, "weight of the ground truth in mse_gt and mae_gt (paper Table "
                              "3a)", type=options.weight)
    temperature: float = option(20.0, "temperature of both softmaxes in kl and dist (SRe2L)",
                                type=options.positive_float)
    gt_target: str | None = option(
        None, "class of the ground truth: the un-mixed image's (released code), or both classes of "
        "a mixed image by lambda (default: unmixed; mixed with --loss-type ce)",
        choices=("unmixed", "mixed"))


@dataclass(frozen=True)
class Views:
    """How images are shown to the student."""

    augment: str | None = option(
        None, f"how an image is cut into a view; {AUGMENT_WORDS} (default: the labels'; crop with "
        "--labels teacher and --loss-type ce)", choices=AUGMENTS)
    min_scale_crops: float | None = option(
        None, "least area of a crop (default: the labels'; 0.25 with --labels teacher and "
        "--loss-type ce)", type=options.positive_fraction)
    flip_prob: float | None = option(
        None, "probability of mirroring (default: the labels'; else 0.5, or 0 for digits)",
        type=options.fraction)
    mix_type: str | None = option(
        None, "how two images of a batch are mixed (default: the labels'; cutmix with --labels "
        "teacher, none with --loss-type ce)",
        choices=tuple(MIXES))
    randaugment: str | None = option(
        None, "timm's RandAugment before the crop, as rand-m6-n2-mstd1.0 (DELT), or none; needs "
        "--labels teacher or --loss-type ce (default: none)", type=rand_augment, metavar="STRING")
    shuffle_patches: int = option(
        1, "cut images into N strips along both sides and shuffle these before the crop (RDED: 2); "
        "1: do not; needs --labels teacher or --loss-type ce", type=options.positive_int,
        metavar="N")


@dataclass(frozen=True)
class Optimisation:
    """Epochs, batches and the optimiser."""

    epochs: int = option(300, "at most as many as were labelled", group="size",
                         type=options.positive_int)
    batch_size: int | str | None = option(
        None, "images in an optimiser step; a protocol's name: its rule by images per class "
        "(default: the labels', which it must equal; 50 without a labels folder)", group="size",
        type=number_or(options.positive_int, *rules.BATCH_RULES),
        metavar="|".join(["N", *rules.BATCH_RULES]))
    gradient_accumulation_steps: int | str = option(
        2, "micro-batches of a batch: BatchNorm sees 50 / 2 = 25 images (released code); gvbsm: "
        "its rule by student", type=number_or(options.positive_int, *rules.ACCUMULATION_RULES),
        metavar="|".join(["N", *rules.ACCUMULATION_RULES]))
    micro_batches: str = option(
        "together", "together: one pass for all of them, with BatchNorm group by group, which is "
        "the same up to rounding and faster; apart: a pass for each, which needs less memory",
        choices=("together", "apart"))
    bn_momentum: float | None = option(
        None, "weight of the newest batch in BatchNorm's running statistics (DELT, RDED: 0.19; "
        "default: the network's own, 0.1 as a rule)", type=options.positive_fraction)
    optimizer: str = option("adamw", "adamw: betas 0.9 and 0.999", choices=tuple(BY_OPTIMIZER))
    lr: float | str | None = option(
        None, "learning rate; delt: its table by student (default: 1e-3 for adamw, 0.1 for sgd)",
        type=number_or(options.positive_float, *rules.LR_RULES),
        metavar="|".join(["NUMBER", *rules.LR_RULES]))
    weight_decay: float | None = option(
        None, "weight decay (default: 0.01 for adamw, 1e-4 for sgd)", type=options.weight)
    weight_decay_on: str = option(
        "matrices", "matrices: parameters named weight with more than one dimension (released "
        "code); all: torchvision's recipe", choices=("matrices", "all"))
    momentum: float = option(0.9, "momentum of sgd", type=options.fraction)
    lr_schedule: str = option("ssrs", "curve of the learning rate over the epochs",
                              choices=tuple(sorted(schedules.STUDENT)))
    zeta: float = option(2.5, "zeta of ssrs and ssrs_continuous (paper)",
                         type=options.positive_float)

    def lr_at(self, epoch):
        """The learning rate in epoch 0 ... epochs - 1."""
        more = {"zeta": self.zeta} if self.lr_schedule.startswith("ssrs") else {}
        return self.lr * schedules.STUDENT[self.lr_schedule](epoch, self.epochs, **more)


@dataclass(frozen=True)
class Testing:
    """When the student is tested."""

    eval_every: int = option(
        10, "epochs between tests; the last epoch is always tested, and the best of these tests "
        "is the headline (paper)", type=options.positive_int, metavar="EPOCHS")
    eval_from: float = option(
        0.0, "test only after this part of the epochs, and after the last (RDED: 0.8)",
        type=options.fraction, metavar="FRACTION")
    evaluate: Path | None = option(
        None, "train nothing: print top-1 and top-5 of a saved student "
        "(students/NAME/best.safetensors, or any state dict of --student)", changes_result=False,
        type=options.path, metavar="CHECKPOINT")

    def tests_after(self, epoch, epochs):
        """Whether the student is tested after epoch 0 ... epochs - 1."""
        late_enough = epoch >= self.eval_from * epochs - 1e-9  # the product is not exact
        return epoch + 1 == epochs or ((epoch + 1) % self.eval_every == 0 and late_enough)


@dataclass(frozen=True)
class SeededRun(StageRun):
    """How validate runs."""

    seed: int = option(0, "seed of the student, and of its views where no labels folder gives them",
                       group="size", type=options.seed)


@dataclass(frozen=True)
class Options(RoomOptions):
    """All options of validate."""

    data: Data
    student: Student
    soft_labels: SoftLabels
    objective: Objective
    views: Views
    optimisation: Optimisation
    testing: Testing
    arithmetic: Arithmetic
    run: SeededRun


def parse(argv=None):
    """Options from the command line. Raises UserError for what contradicts itself."""
    parsed = options.parse(
        Options, argv, prog="validate.train_fkd", presets=PRESETS,
        description="Train a student on images and labels, and test it (stage 3 of PRISM).")
    check(parsed)
    return parsed


def check(o):
    """Raise UserError for options that contradict one another."""
    data = o.data
    check_cache(data)
    check_image_size(data.image_size)
    input_side(o.student)
    if o.testing.evaluate is not None:
        return

    if data.output_dir is None:
        raise UserError("--output-dir is needed: the run folder that holds images/ and labels/.")
    for name, wanted in (("randaugment", o.views.randaugment is not None),
                         ("shuffle_patches", o.views.shuffle_patches > 1)):
        if wanted and label_kind(o) == "folder":
            leave = "it out" if name in o.given else f"out --preset {o.preset}"
            raise UserError(f"{flag(name)}: found labels of relabel, made for other views. Give "
                            f"--labels teacher or --loss-type ce, or leave {leave}.")


def check_cache(data):
    """Raise UserError for a cache among the test images. data: Images."""
    if isinstance(data.val_cache, Path):
        from data.run_folder import check_apart  # its progress bars need more than the options do

        check_apart("--val-cache", data.val_cache, data.val_dir)


def label_kind(o):
    """Where labels come from.

    hard: the classes alone. teacher: made here for this run's views. folder: relabel's.
    """
    if o.objective.loss_type == "ce":
        return "hard"
    return "teacher" if o.soft_labels.labels == "teacher" else "folder"


def protocol(o):
    """Word for the student's folder: soft or hard with the paper's protocol, or the preset."""
    if o.preset != "prism":
        return o.preset
    return "hard" if label_kind(o) == "hard" else "soft"


def input_side(student):
    """--input-resize in pixels, from 64 or NAME=64, or None."""
    text = student.input_resize
    if text is None:
        return None
    name, _, side = text.rpartition("=")
    if name not in ("", student.student):
        raise UserError(f"--input-resize {text}: the student is {student.student}. Give "
                        f"--input-resize {side}.")
    if not side.isdecimal() or len(side) > 9 or not 0 < int(side) <= LARGEST_SIDE:
        raise UserError(f"--input-resize {text}: expected a side in pixels from 1 to "
                        f"{LARGEST_SIDE}, such as 64.")
    return int(side)


def check_image_size(size):
    """Raise UserError for an --image-size (or None) that no network of the field has."""
    if size is not None and size > LARGEST_SIDE:
        raise UserError(f"--image-size {size}: expected at most {LARGEST_SIDE} pixels.")


def resolve(o, images):
    """The options with defaults, rules and what depends on the distilled images filled in.

    images: an ImageSet. An option that the others leave unread becomes None, so that its value
    makes no difference between students. Batch size, crops, flips, mixing and stem may still be
    None: the labels give them (with_labels).
    """
    if o.views.shuffle_patches > images.image_size:
        raise UserError(f"--shuffle-patches {o.views.shuffle_patches}: the distilled images have "
                        f"{images.image_size} px. Give at most as many strips.")
    objective, optimisation, name = o.objective, o.optimisation, o.student.student
    kind, loss = label_kind(o), o.objective.loss_type
    default = BY_OPTIMIZER[optimisation.optimizer]
    lr = rules.learning_rate(optimisation.lr, name)
    weight_decay = optimisation.weight_decay
    ipc = rules.images_per_class(len(images), len(images.classes))
    teachers = o.soft_labels.teachers[: 1 if o.soft_labels.ensemble == "single" else None]
    target = objective.gt_target or ("mixed" if kind == "hard" else "unmixed")
    dataset = o.data.dataset or images.dataset
    return options.with_values(
        o, dataset=dataset, image_size=images.image_size,
        crop=crop_rule(o.data.crop, images.image_size, dataset),
        input_resize=input_side(o.student),
        teachers=teachers if kind == "teacher" else None,
        ensemble=o.soft_labels.ensemble if kind == "teacher" else None,
        ce_weight=objective.ce_weight if loss in WITH_GROUND_TRUTH else None,
        temperature=objective.temperature if loss in WITH_TEMPERATURE else None,
        gt_target=None if loss in WITH_TEMPERATURE else target,
        batch_size=rules.batch_size(optimisation.batch_size, ipc, name),
        gradient_accumulation_steps=rules.accumulation_steps(
            optimisation.gradient_accumulation_steps, name),
        lr=default["lr"] if lr is None else lr,
        weight_decay=default["weight_decay"] if weight_decay is None else weight_decay,
        momentum=optimisation.momentum if optimisation.optimizer == "sgd" else None,
        zeta=optimisation.zeta if optimisation.lr_schedule.startswith("ssrs") else None)


def with_labels(o, plan, stem):
    """The options with what the labels give.

    plan: PlanOptions, for batch size, crops, flips and mixing. stem: of a student whose stem is not
    given.
    """
    return options.with_values(o, batch_size=plan.batch_size, augment=plan.augment,
                               min_scale_crops=plan.min_area, flip_prob=plan.flip,
                               mix_type=plan.mix, stem=o.student.stem or stem)


def result_options(o, plan):
    """{name: value} that options.json keeps and compares. plan: PlanOptions."""
    return {**options.stored(o), "mix_alpha": plan.alpha}


def departures(o):
    """Names of the options in which a run departs from its preset.

    What every protocol leaves open does not count.
    """
    left_open = {"student", "stem", "input_resize", "dataset", "image_size", "seed"}
    return sorted((o.changed & set(options.stored(o))) - left_open)
