"""Options of report.figures, one class per figure, and of report.verify. Imports no PyTorch."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

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
    return name, options.path(folder)


@dataclass(frozen=True)
class Sets:
    """The sets of images, and where the figure goes."""

    runs: tuple = option(
        None, "sets of images: a name and a run folder each, or a folder of class folders of "
        "another tool", group="data", nargs="+", type=run_of_name, required=True,
        metavar="NAME=FOLDER")
    output: Path = option(
        None, "the figure: .png, .pdf or .svg (fig5: .png; report.verify: .png or .jpg)",
        group="data", type=options.path, required=True, metavar="FILE")


@dataclass(frozen=True)
class Features:
    """The network whose penultimate features are compared."""

    network: str = option("resnet18", "whose penultimate features (paper: ResNet-18)",
                          group="method", metavar="NAME")


@dataclass(frozen=True)
class Verifier:
    """The network that is asked."""

    verifier: str | None = option(
        None, "network that says what the images show, best one that guided none of them; "
        "torchvision name or timm/NAME", group="method", metavar="NAME", required=True)


@dataclass(frozen=True)
class Weights:
    """Where the network's weights come from."""

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
class Columns:
    """How wide a picture is."""

    columns: int = option(5, "classes side by side; the others follow below",
                          type=options.positive_int, metavar="N")


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


@dataclass(frozen=True)
class Starts:
    """Where start images are."""

    train_dir: Path | None = option(
        None, "where the start images are: the training images or those of recover's --start-dir, "
        "one folder per class, or the folder of CIFAR or Fashion-MNIST", group="data",
        type=options.path)


@dataclass(frozen=True)
class Fig1(RoomOptions):
    """Features of some classes in two dimensions, a panel per set."""

    sets: Sets
    features: Features
    weights: Weights
    classes: Classes
    embedding: Embedding
    run: Run


@dataclass(frozen=True)
class Fig4(RoomOptions):
    """Cosine similarity within a class, its distribution over the classes per set."""

    sets: Sets
    features: Features
    weights: Weights
    run: Run


@dataclass(frozen=True)
class Fig5(RoomOptions):
    """Start images above what each set made of them."""

    sets: Sets
    classes: Classes
    slices: Slices
    starts: Starts


@dataclass(frozen=True)
class Verify(RoomOptions):
    """What a network sees in the images of some sets."""

    sets: Sets
    verifier: Verifier
    weights: Weights
    classes: Classes
    slices: Slices
    columns: Columns
    run: Run


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
    _check_sets(parsed.sets, suffixes)
    return figure, parsed


def parse_verify(argv=None):
    """Verify from the command line. Raises UserError for wrong options."""
    parsed = options.parse(Verify, argv, prog="report.verify",
                           description="Ask a network what the images of some sets show.")
    _check_sets(parsed.sets, (".png", ".jpg"))
    return parsed


def _check_sets(sets, suffixes):
    """Raise UserError for two sets of one name, and for a picture of another kind."""
    if len(dict(sets.runs)) < len(sets.runs):
        raise UserError("--runs: two sets have one name. Name each set differently.")
    if sets.output.suffix not in suffixes:
        raise UserError(f"--output {sets.output}: expected a name that ends in "
                        f"{' or '.join(suffixes)}.")
