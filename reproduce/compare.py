"""Compare anybody's distilled sets with one another and with random real images, on one page.

    sh report/compare.sh A=results/prism B=/some/folder [--option value ...]

Every set and, for every seed, a new random real subset of its size get students by each protocol.
The same command goes on where it stopped.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from data import hugging_face
from data.names import DATASETS
from report.options import set_or_folder
from reproduce import ROOT
from utils import options
from utils.errors import run_entry
from utils.options import RoomOptions, option
from validate.hard_protocols import PROTOCOLS as HARD
from validate.presets import PRESETS

OWN = ("soft", "hard", "plain")  # protocols of this project beside those of the field
PROTOCOLS = (*OWN, *(name for name in PRESETS if name != "prism"), *HARD)
WHOLE = "train"  # --real-top1 train: on all real images


def student(text):
    """NAME or NAME@LEARNING_RATE as (name, learning rate or None)."""
    name, at, rate = text.partition("@")
    return name, options.positive_float(rate) if at else None


def accuracy(text):
    """Per cent, or the word train."""
    if text == WHOLE:
        return text
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected per cent, or {WHOLE}")
    return value


@dataclass(frozen=True)
class Students:
    """Who is trained on the sets."""

    protocol: tuple = option(
        ("soft", "hard"), "soft: this project's soft labels; hard: its hard ones; plain: hard "
        "labels on images as they are, for the score ARS; the others are protocols of the field, "
        f"the presets of validate and {', '.join(HARD)} of train_hard", group="method", nargs="+",
        choices=PROTOCOLS)
    students: tuple = option(
        (("resnet18", None),), "torchvision names or timm/NAME, with a learning rate as NAME@RATE "
        "(default rate: DELT's table by student, else the protocol's)", group="method", nargs="+",
        type=student, metavar="NAME")
    seeds: tuple = option((0, 1, 2), "of the students and of the random real subsets",
                          group="size", nargs="+", type=options.seed, metavar="N")
    epochs: int | None = option(
        None, "of labels and students (default: as many as a set's own labels have, else the "
        "protocol's)", group="size", type=options.positive_int)
    real_top1: float | str | None = option(
        None, "top-1 in per cent of the first student with hard labels on all real training "
        f"images, which the score LRS needs (ImageNet-1K 56.5, Tiny-ImageNet 46.4); {WHOLE}: train "
        "it too, all students", group="method", type=accuracy, metavar=f"PERCENT|{WHOLE}")


@dataclass(frozen=True)
class Real:
    """The real images."""

    dataset: str | None = option(
        None, "of the real images (default: what a set's record says, else imagefolder)",
        group="data", choices=DATASETS)
    train_dir: Path | None = option(
        None, "real training images: one folder per class, the folder of CIFAR or "
        "Fashion-MNIST, or hf:USER/NAME", group="data", type=hugging_face.train_images)
    val_dir: Path | None = option(None, "real test images, likewise", group="data",
                                  type=hugging_face.test_images)


@dataclass(frozen=True)
class Labels:
    """Who makes soft labels."""

    teachers: tuple | None = option(
        None, "the primary teacher first (default: those of the first set that has labels, else "
        "the protocol's)", group="method", nargs="+", metavar="NAME")
    teacher_weights: str | None = option(
        None, "their weights: a folder, or a name such as IMAGENET1K_V1 (default: likewise)",
        group="data")
    label_store: str = option("files", "none: store no labels, make them again for every student",
                              choices=("files", "none"))


@dataclass(frozen=True)
class Run:
    """How it runs."""

    output_dir: Path = option(
        ROOT / "results/compare", "labels, students, random subsets and the page", group="data",
        type=options.path)
    dry_run: bool = option(False, "print the commands, and stop")
    device: str = option("auto", "auto: a GPU if there is one", choices=("auto", "cuda", "cpu"))
    threads: int | None = option(None, "CPU threads of PyTorch (default: its choice)",
                                 type=options.thread_count)


@dataclass(frozen=True)
class Options(RoomOptions):
    """All options of a comparison."""

    students: Students
    real: Real
    labels: Labels
    run: Run


def parse(argv=None):
    """([(name or None, folder)], Options) of a command line."""
    parser = options.build_parser(Options, "reproduce.compare",
                                  "Compare anybody's distilled sets with random real images.")
    parser.usage = "python -m %(prog)s NAME=FOLDER [...] [--option value ...]"
    parser.add_argument("sets", nargs="+", type=set_or_folder, metavar="NAME=FOLDER",
                        help="a name, and a run folder, another tool's folder of class folders, or "
                        "hf:USER/NAME")
    given = vars(parser.parse_intermixed_args(argv))
    sets = given.pop("sets")
    return sets, options.from_values(Options, given)


def main(argv=None):
    given, o = parse(argv)

    # Imported after the options are read, so that --help answers at once.
    from report.runs import named_folders
    from reproduce import compare_plan, compare_report, steps
    from reproduce.run import run_commands
    from reproduce.sizes import Sizes

    plan = compare_plan.make(named_folders(given), o)
    if o.run.dry_run:
        print("\n".join(command.line() for command in plan.graph))
        return

    failures, total = run_commands(plan.graph, Sizes(output_dir=o.run.output_dir))
    compare_report.write(plan, o)
    steps.end(failures, total)


if __name__ == "__main__":
    run_entry(main)
