"""Options of report.figures, one class per figure. Imports no PyTorch."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from data import hugging_face
from utils import options
from utils.errors import UserError
from utils.options import RoomOptions, Run, option

EMBEDDINGS = {"umap": "UMAP", "tsne": "t-SNE"}


def run_of_name(text):
    """NAME=FOLDER as (name, path)."""
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(
            f"found {text!r}, expected NAME=FOLDER, such as PRISM=results/prism_r18_ipc10")
    return name, hugging_face.train_images(folder)


@dataclass(frozen=True)
class Sets:
    """The sets of images, and where the figure goes."""

    runs: tuple = option(
        None, "sets of images: a name and a run folder each, or a folder of class folders of "
        "another tool", group="data", nargs="+", type=run_of_name, required=True,
        metavar="NAME=FOLDER")
    output: Path = option(None, "the figure: .png, .pdf or .svg (fig5: .png)", group="data",
                          type=options.path, required=True, metavar="FILE")


@dataclass(frozen=True)
class Features:
    """The network whose penultimate features are compared."""

    network: str = option("resnet18", "whose penultimate features (paper: ResNet-18)",
                          group="method", metavar="NAME")
    teacher_weights: str = option(
        "IMAGENET1K_V1", "name of published torchvision weights, or a folder of NAME.safetensors / "
        "NAME.pth", group="data")


@dataclass(frozen=True)
class Classes:
    """Which classes are shown."""

    classes: tuple | None = option(
        None, "class names, wnids on ImageNet (default: the first ten)", group="data", nargs="+",
        metavar="CLASS")


@dataclass(frozen=True)
class Embedding:
    """How features become points of the plane."""

    embedding: str = option("umap", "umap (paper; needs umap-learn) or t-SNE", group="method",
                            choices=tuple(EMBEDDINGS))
    seed: int = option(0, "seed of the embedding", type=options.count)


@dataclass(frozen=True)
class Slices:
    """Which images of a class are shown."""

    slices: tuple = option((0,), "which images of a class (IPC slices)", group="data", nargs="+",
                           type=options.count, metavar="I")
    train_dir: Path | None = option(
        None, "where the start images are: the training images or those of recover's --start-dir, "
        "one folder per class, or the folder of CIFAR or Fashion-MNIST", group="data",
        type=options.path)


@dataclass(frozen=True)
class Fig1(RoomOptions):
    """Features of some classes in two dimensions, a panel per set."""

    sets: Sets
    features: Features
    classes: Classes
    embedding: Embedding
    run: Run


@dataclass(frozen=True)
class Fig4(RoomOptions):
    """Cosine similarity within a class, its distribution over the classes per set."""

    sets: Sets
    features: Features
    run: Run


@dataclass(frozen=True)
class Fig5(RoomOptions):
    """Start images above what each set made of them."""

    sets: Sets
    classes: Classes
    slices: Slices


FIGURES = {"fig1": (Fig1, (".png", ".pdf", ".svg")), "fig4": (Fig4, (".png", ".pdf", ".svg")),
           "fig5": (Fig5, (".png",))}


def parse(argv=None):
    """(figure, its options) from the command line. Raises UserError for wrong options."""
    argv = sys.argv[1:] if argv is None else argv
    parser = options.Parser(prog="report.figures",
                            description="Draw a figure of the paper from finished runs.",
                            epilog="python -m report.figures FIGURE --help lists its options.")
    summaries = "; ".join(f"{name}: {kind.__doc__[0].lower()}{kind.__doc__[1:-1]}"
                          for name, (kind, _) in FIGURES.items())
    parser.add_argument("figure", choices=list(FIGURES), help=summaries)
    figure = parser.parse_args(argv[:1]).figure

    kind, suffixes = FIGURES[figure]
    parsed = options.parse(kind, argv[1:], prog=f"report.figures {figure}",
                           description=kind.__doc__)
    if len(dict(parsed.sets.runs)) < len(parsed.sets.runs):
        raise UserError("--runs: two sets have one name. Name each set differently.")
    if parsed.sets.output.suffix not in suffixes:
        raise UserError(f"--output {parsed.sets.output}: expected a name that ends in "
                        f"{' or '.join(suffixes)}.")
    return figure, parsed
