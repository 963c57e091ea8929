"""Options of validate.train_hard, declared once. Imports no PyTorch.

What is not given is the protocol's: validate.hard_protocols.
"""

from dataclasses import asdict, dataclass, replace

from utils import options
from utils.errors import UserError
from utils.options import RoomOptions, StageRun, option
from utils.precision import Arithmetic
from validate.hard_protocols import AUGMENT, PROTOCOLS, epochs_by_ipc
from validate.options import (
    Images,
    Net,
    check_cache,
    check_image_size,
    folder_name,
    input_side,
)
from validate.rules import images_per_class


@dataclass(frozen=True)
class Student(Net):
    """The network that is trained, once per seed."""

    student: str | None = option(
        None, "convnet3 ... convnet6, resnetap10, resnet18_in, a torchvision name or timm/NAME "
        "(default: resnetap10; convnet3 for dc)", group="method", metavar="NAME")
    student_name: str | None = option(
        None, "the students' folders are students/NAME_seed0 ... (default: made of student and "
        "protocol)", changes_result=False, type=folder_name, metavar="NAME")


@dataclass(frozen=True)
class Method:
    """The protocol, and what of it may be changed."""

    protocol: str = option(
        "igd", "igd: AdamW at 256 px, five seeds; minimax: SGD at 224 px, three seeds; dc: small "
        "images, ConvNet-3, five seeds", group="method", choices=tuple(PROTOCOLS))
    augment: str | None = option(
        None, "imagenet: crop, flip, colour jitter, lighting; dc: colour, scale, rotation, shift, "
        "flip; none (default: imagenet; none for dc)", group="method",
        choices=AUGMENT)
    mix_type: str | None = option(
        None, "cutmix on every batch, or none (default: cutmix; none for dc)",
        choices=("cutmix", "none"))
    image_size: int | None = option(
        None, "side of all images (default: 256; 224 for minimax; the images' own for dc)",
        group="size", type=options.positive_int, metavar="PIXELS")
    epochs: int | None = option(
        None, "default: by images per class, from 3000 for one to 300; 300 for dc", group="size",
        type=options.positive_int)
    tests: int | None = option(
        None, "tests of a student, spread evenly over its epochs; the last epoch is always tested "
        "(default: 100)", type=options.positive_int)
    batch_size: int | None = option(None, "images in an optimiser step (default: 64; 256 for dc)",
                                    type=options.positive_int)
    lr: float | None = option(None, "first learning rate (default: 1e-3 for igd, else 0.01)",
                              type=options.positive_float)


@dataclass(frozen=True)
class SeededRuns(StageRun):
    """How train_hard runs."""

    seeds: tuple | None = option(
        None, "a student is trained for each (default: 0 1 2 3 4; 0 1 2 for minimax)",
        group="size", changes_result=False, nargs="+", type=options.seed, metavar="N")


@dataclass(frozen=True)
class Options(RoomOptions):
    """All options of train_hard."""

    data: Images
    student: Student
    method: Method
    arithmetic: Arithmetic
    run: SeededRuns


def parse(argv=None):
    """Options from the command line. Raises UserError for what contradicts itself."""
    o = options.parse(
        Options, argv, prog="validate.train_hard",
        description="Train students on distilled images with hard labels, one per seed, and test "
                    "them by a protocol of the field.")
    check_cache(o.data)
    check_image_size(o.method.image_size)
    if o.data.output_dir is None:
        raise UserError("--output-dir is needed: the run folder that holds images/, and where "
                        "students/ will be.")
    if len(set(o.run.seeds or ())) < len(o.run.seeds or ()):
        raise UserError(f"--seeds {' '.join(map(str, o.run.seeds))}: a seed is named twice. Give "
                        "each one once.")
    return o


def image_size(o):
    """Side of all images, or None for the distilled images' own."""
    return o.method.image_size or PROTOCOLS[o.method.protocol].image_size


def protocol_recipe(o, images):
    """The protocol's own Recipe for these distilled images, an ImageSet."""
    recipe = PROTOCOLS[o.method.protocol]
    classes = len(images.classes)
    epochs = recipe.epochs or epochs_by_ipc(images_per_class(len(images), classes), classes)
    return replace(recipe, epochs=epochs, image_size=recipe.image_size or images.image_size)


def recipe_of(o, images):
    """The protocol's Recipe with what the options change."""
    method = o.method
    given = {"student": o.student.student, "seeds": o.run.seeds, "augment": method.augment,
             "mix_type": method.mix_type, "image_size": method.image_size,
             "epochs": method.epochs, "tests": method.tests, "batch_size": method.batch_size,
             "lr": method.lr}
    given = {name: value for name, value in given.items() if value is not None}
    return replace(protocol_recipe(o, images), **given)


def result_options(o, recipe, images):
    """{name: value} that options.json keeps and compares, apart from the seed.

    recipe: of recipe_of.
    """
    student = replace(o.student, student=recipe.student)
    values = {**options.stored(o), **asdict(recipe), "input_resize": input_side(student),
              "dataset": o.data.dataset or images.dataset}
    del values["seeds"]
    return values


def departures(o, images):
    """Names of the options in which a run departs from its protocol, student and seeds apart."""
    given, own = recipe_of(o, images), protocol_recipe(o, images)
    return sorted(name for name, value in asdict(own).items()
                  if name not in ("student", "seeds") and getattr(given, name) != value)
