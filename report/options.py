"""Options of report.figures, one class per figure, and of other entries. Imports no PyTorch."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from data import hugging_face
from data.names import DATASETS
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
        None, "sets of images: a name and a run folder each, a folder of class folders of another "
        "tool, or hf:USER/NAME", group="data", nargs="+", type=run_of_name, required=True,
        metavar="NAME=FOLDER")
    output: Path = option(
        None, "the figure: .png, .pdf or .svg (fig5, course: .png; report.verify: .png or .jpg)",
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

    embedding: str = option(
        "auto", "umap (paper; needs umap-learn) or t-SNE; auto: umap where it is installed",
        group="method", choices=("auto", *EMBEDDINGS))
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
        "one folder per class, the folder of CIFAR or Fashion-MNIST, or hf:USER/NAME", group="data",
        type=hugging_face.train_images)


@dataclass(frozen=True)
class RealImages:
    """The real images that a set is held beside."""

    dataset: str | None = option(
        None, "of the real images (default: what the sets' records say, else imagefolder)",
        group="data", choices=DATASETS)
    train_dir: Path | None = option(
        None, "the real training images: one folder per class, the folder of CIFAR or "
        "Fashion-MNIST, or hf:USER/NAME", group="data", type=hugging_face.train_images)
    val_dir: Path | None = option(
        None, "real images that nothing was made from, which are measured as one more set "
        "(default: the test images that the dataset itself has)", group="data",
        type=hugging_face.test_images)


@dataclass(frozen=True)
class Neighbours:
    """Which real images are neighbours."""

    neighbours: int = option(
        5, "k of the coverage: a real image is covered when an image of the set is within the "
        "distance to its k-th nearest real neighbour (Naeem et al. 2020: 5)", group="method",
        type=options.positive_int, metavar="K")
    real_per_class: int | None = option(
        None, "compare with so many random real images of each class (default: all of them)",
        group="size", type=options.positive_int, metavar="N")
    seed: int = option(0, "seed of random real images", type=options.seed)


@dataclass(frozen=True)
class PageFile:
    """The page."""

    output: Path | None = option(
        None, "the page, a name that ends in .html; the same as Markdown goes beside it, with its "
        "pictures in NAME_files/ (default: report.html, in the run folder where one is given, else "
        "in the folder where the command is typed)", group="data", type=options.path,
        metavar="FILE")
    dataset_name: str | None = option(None, "what the title calls the dataset (default: its name, "
                                      "if the sets' records say which)", group="data")
    images_shown: int = option(5, "images of a class that are shown", group="size",
                               type=options.positive_int, metavar="N")


@dataclass(frozen=True)
class PageFeatures:
    """The network whose penultimate features measure diversity and draw the map."""

    network: str | None = option(
        None, "whose penultimate features measure diversity and draw the map; none: neither "
        "(default: the primary teacher of the first set that names one)", group="method",
        metavar="NAME|none")
    teacher_weights: str | None = option(
        None, "where its weights are: a folder of NAME.safetensors / NAME.pth, or the name of "
        "published torchvision weights (default: where that set's teachers are; with --network "
        "IMAGENET1K_V1)", group="data")


@dataclass(frozen=True)
class Page(RoomOptions):
    """One page about some sets."""

    file: PageFile
    classes: Classes
    reals: RealImages
    features: PageFeatures
    neighbours: Neighbours
    run: Run


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
class Course(RoomOptions):
    """Images over the steps that made them: a strip, and a GIF beside it."""

    sets: Sets
    classes: Classes
    slices: Slices


@dataclass(frozen=True)
class Losses(RoomOptions):
    """Loss terms over the steps, one curve per teacher."""

    sets: Sets


@dataclass(frozen=True)
class DiversityOptions(RoomOptions):
    """How diverse some sets are, and how close to real images."""

    sets: Sets
    reals: RealImages
    features: Features
    weights: Weights
    neighbours: Neighbours
    run: Run


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


PICTURES = (".png", ".pdf", ".svg")
FIGURES = {"fig1": (Fig1, PICTURES), "fig4": (Fig4, PICTURES), "fig5": (Fig5, (".png",)),
           "course": (Course, (".png",)), "losses": (Losses, PICTURES)}


def parse(argv=None):
    """(figure, its options) from the command line. Raises UserError for wrong options."""
    argv = sys.argv[1:] if argv is None else argv
    parser = options.Parser(prog="report.figures",
                            description="Draw a figure from finished runs.",
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


def set_or_folder(text):
    """NAME=FOLDER, or a FOLDER alone, as (name or None, path); hf:USER/NAME is called so itself."""
    if text.startswith(hugging_face.PREFIX):
        return text.removeprefix(hugging_face.PREFIX), hugging_face.train_images(text)
    alone = options.path(text)
    return (None, alone) if "=" not in text or alone.is_dir() else run_of_name(text)


def parse_page(argv=None):
    """([(name or None, folder)], Page) from the command line. Raises UserError for wrong ones."""
    parser = options.build_parser(Page, "report.page",
                                  "One page about finished sets of images, anybody's.")
    parser.usage = "python -m %(prog)s FOLDER [NAME=FOLDER ...] [--option value ...]"
    parser.add_argument("sets", nargs="+", type=set_or_folder, metavar="FOLDER",
                        help="run folder, a folder of class folders of another tool, or "
                        "hf:USER/NAME, with a name if its own says too little")
    given = vars(parser.parse_intermixed_args(argv))
    folders = given.pop("sets")
    parsed = options.from_values(Page, given)
    output = parsed.file.output
    if output is not None and output.suffix != ".html":
        raise UserError(f"--output {output}: expected a name that ends in .html.")
    return folders, parsed


def parse_verify(argv=None):
    """Verify from the command line. Raises UserError for wrong options."""
    parsed = options.parse(Verify, argv, prog="report.verify",
                           description="Ask a network what the images of some sets show.")
    _check_sets(parsed.sets, (".png", ".jpg"))
    return parsed


def parse_diversity(argv=None):
    """DiversityOptions from the command line. Raises UserError for wrong options."""
    parsed = options.parse(DiversityOptions, argv, prog="report.diversity",
                           description=DiversityOptions.__doc__)
    _check_sets(parsed.sets, PICTURES)
    return parsed


def _check_sets(sets, suffixes):
    """Raise UserError for two sets of one name, and for a picture of another kind."""
    if len(dict(sets.runs)) < len(sets.runs):
        raise UserError("--runs: two sets have one name. Name each set differently.")
    if sets.output.suffix not in suffixes:
        raise UserError(f"--output {sets.output}: expected a name that ends in "
                        f"{' or '.join(suffixes)}.")
