"""Options of relabel, declared once, with FKD's names.

Defaults are the paper's, with the decisions of docs/choices.md where paper and released code
differ. Imports no PyTorch.
"""

from dataclasses import dataclass
from pathlib import Path

from data import hugging_face
from data.names import AUGMENT_WORDS, AUGMENTS, LABEL_FORMATS, MIXES, flip_probability
from models.names import ENSEMBLE_RULES
from relabel.presets import PRESETS, TEACHERS
from utils import options
from utils.options import RoomOptions, SharedRun, option
from utils.precision import Arithmetic


@dataclass(frozen=True)
class Data:
    """The images, and where their labels go."""

    output_dir: Path | None = option(
        None, "run folder, shared by the three stages", group="data", changes_result=False,
        type=options.path, required=True)
    train_dir: Path | None = option(
        None, "distilled images, one folder per class, of any tool, or hf:USER/NAME (default: "
        "OUTPUT_DIR/images)", group="data", changes_result=False, type=hugging_face.train_images)
    val_dir: Path | None = option(
        None, "real test images, one folder per class, the folder of CIFAR or Fashion-MNIST, or "
        "hf:USER/NAME: "
        "every teacher is measured on about 1000 of them before it labels; digits need none",
        group="data", changes_result=False, type=hugging_face.test_images)
    fkd_path: Path | None = option(
        None, "where the labels go (default: OUTPUT_DIR/labels)", group="data",
        changes_result=False, type=options.path)


@dataclass(frozen=True)
class Teachers:
    """Which networks label the images, and how their logits become one label."""

    teachers: tuple = option(
        TEACHERS, "the primary teacher first; torchvision names or timm/NAME", group="method",
        nargs="+", metavar="NAME")
    ensemble: str = option(
        "equal_energy", "how their logits become one label: equal_energy (released code for "
        "ResNet-18), primary_half (released code for ResNet-50 and -101), mean (the paper's "
        "words), single (the primary alone)", group="method", choices=ENSEMBLE_RULES)
    teacher_weights: str = option(
        "IMAGENET1K_V1", "name of published torchvision weights, or a folder of NAME.safetensors / "
        "NAME.pth", group="data", changes_result=False)


@dataclass(frozen=True)
class Views:
    """What the teachers see of the images: the plan of an epoch."""

    batch_size: int = option(
        50, "images that are mixed and labelled together; the student's batch is the same",
        group="size", type=options.positive_int)
    augment: str = option("crop", f"how an image is cut into a view; {AUGMENT_WORDS}",
                          choices=AUGMENTS)
    min_scale_crops: float = option(
        0.25, "least area of a crop, as a part of the image", group="method",
        type=options.positive_fraction)
    flip_prob: float | None = option(
        None, "probability of mirroring (default: 0.5, or 0 for digits)", type=options.fraction)
    mix_type: str = option(
        "cutmix", "how two images of a batch are mixed, after normalising", group="method",
        choices=tuple(MIXES))
    mix_alpha: float | None = option(
        None, "lambda ~ Beta(alpha, alpha) (default: 1 for cutmix, 0.8 for mixup)",
        type=options.positive_float)
    fkd_seed: int = option(42, "seed of order, crops, flips and mixing", group="size",
                           type=options.seed)


@dataclass(frozen=True)
class Stored:
    """What is kept of the labels."""

    epochs: int = option(300, "epochs of labels; more may be added later", group="size",
                         changes_result=False, type=options.positive_int)
    label_format: str = option(
        "fp16", "numbers that logits are stored as: fp16 as in the released code; int8 in 254 "
        "steps between the ends of each row, half of the bytes; topk: the largest logits of each "
        "row in fp16, and the mean of the others", choices=LABEL_FORMATS)
    label_top_k: int | None = option(
        None, "with --label-format topk: logits kept of each row, 4 bytes each",
        type=options.positive_int, metavar="K")
    label_store: str = option(
        "files", "none: write the recipe alone (labels.json); validate then makes the same numbers "
        "on the fly", changes_result=False, choices=("files", "none"))


@dataclass(frozen=True)
class Options(RoomOptions):
    """All options of relabel."""

    data: Data
    teachers: Teachers
    views: Views
    stored: Stored
    arithmetic: Arithmetic
    run: SharedRun


def parse(argv=None):
    """Options from the command line."""
    return options.parse(Options, argv, prog="relabel.generate_soft_label", presets=PRESETS,
                         description="Label the images by teachers (stage 2 of PRISM).")


def resolve(o, images):
    """The options with what depends on the images (an ImageSet) and on one another filled in."""
    teachers, views = o.teachers.teachers, o.views
    return options.with_values(
        o, teachers=teachers[:1] if o.teachers.ensemble == "single" else teachers,
        flip_prob=flip_probability(images.dataset) if views.flip_prob is None
        else views.flip_prob,
        mix_alpha=views.mix_alpha or MIXES[views.mix_type],
        fkd_path=o.data.fkd_path or o.data.output_dir / "labels")


def manifest_options(o, images):
    """{name: value} that labels.json keeps and compares: what changes the labels."""
    return {**options.stored(o), "image_size": images.image_size}
