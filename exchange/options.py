"""Options of the commands of exchange, one class per command. Imports no PyTorch."""

import sys
from dataclasses import dataclass
from pathlib import Path

from data import hugging_face
from data.class_lists import class_names
from data.names import AUGMENT_WORDS, AUGMENTS
from utils import options
from utils.errors import UserError
from utils.options import RoomOptions, option


@dataclass(frozen=True)
class Labels:
    """Our side: a run folder with images and their labels."""

    output_dir: Path | None = option(
        None, "our run folder, shared by the three stages", group="data", type=options.path)
    train_dir: Path | None = option(
        None, "distilled images that the labels belong to, one folder per class, of any tool "
        "or hf:USER/NAME (default: OUTPUT_DIR/images)", group="data",
        type=hugging_face.train_images)
    fkd_path: Path | None = option(
        None, "our labels (default: OUTPUT_DIR/labels)", group="data", type=options.path)


@dataclass(frozen=True)
class Images:
    """Our side: the images of a run folder, or of any other folder."""

    output_dir: Path | None = option(
        None, "our run folder, whose images are exported", group="data", type=options.path)
    train_dir: Path | None = option(
        None, "images of any tool instead, one folder per class, or hf:USER/NAME (default: "
        "OUTPUT_DIR/images)", group="data", type=hugging_face.train_images)


@dataclass(frozen=True)
class NewRun:
    """Our side: a run folder that is made."""

    output_dir: Path = option(
        None, "run folder to make: images/ and, where class names are known, images.json",
        group="data", type=options.path, required=True)


@dataclass(frozen=True)
class FkdTarget:
    """Where FKD files go."""

    folder: Path = option(None, "FKD label folder to write: epoch_0/batch_0.tar ...", group="data",
                          type=options.path, required=True)
    logits: str | None = option(
        None, "numbers that logits are written as (default: fp16 for labels in fp16, fp32 for all "
        "others, which loses nothing)", choices=("fp16", "fp32"))


@dataclass(frozen=True)
class FkdSource:
    """FKD files of any tool."""

    folder: Path = option(None, "FKD label folder to read: epoch_0/batch_0.tar ...", group="data",
                          type=options.path, required=True)
    fkd_seed: int = option(
        42, "seed of PyTorch's RandomSampler, which gives the order of the images in files of six "
        "items (SRe2L, LPLD)", type=options.seed)
    numpy_numbers: bool = option(
        False, "also read NumPy's single numbers, which old files have in their boxes and PyTorch "
        "refuses; nothing else is unpickled")


@dataclass(frozen=True)
class FkdExport(RoomOptions):
    """Write our labels as FKD label files of seven items, which other trainers read."""

    labels: Labels
    target: FkdTarget


@dataclass(frozen=True)
class FkdImport(RoomOptions):
    """Read FKD label files of any tool as our labels, which validate trains on."""

    labels: Labels
    source: FkdSource


@dataclass(frozen=True)
class RdedTarget:
    """Where images go by RDED's names."""

    folder: Path = option(None, "folder to write: 00000/class00000_id00000.jpg ...", group="data",
                          type=options.path, required=True)


@dataclass(frozen=True)
class RdedSource:
    """Images of RDED."""

    folder: Path = option(None, "folder to read: 00000/class00000_id00000.jpg ...", group="data",
                          type=options.path, required=True)
    classes: tuple | None = option(
        None, "names of the classes in their order: imagenette, imagewoof, imageidc, a text file "
        "with one in each line, or names with commas between them (default: unknown)",
        group="data", type=class_names)


@dataclass(frozen=True)
class RdedExport(RoomOptions):
    """Copy our images to a folder with RDED's names."""

    images: Images
    target: RdedTarget


@dataclass(frozen=True)
class RdedImport(RoomOptions):
    """Copy RDED's images to a run folder with our names."""

    target: NewRun
    source: RdedSource


@dataclass(frozen=True)
class HuggingFaceTarget:
    """The dataset that is written, and what its card says that images.json does not."""

    folder: Path = option(None, "folder to write: images, images.json and the card README.md",
                          group="data", type=options.path, required=True)
    layout: str = option(
        "parquet", "parquet: a table of the files as they are; imagefolder: a folder per class",
        group="data", choices=("parquet", "imagefolder"))
    classes: tuple | None = option(
        None, "names of the classes in their order: imagenette, imagewoof, imageidc, a text file "
        "with one in each line, or names with commas between them (default: those of images.json "
        "or of the class folders)", group="data", type=class_names)
    title: str | None = option(None, "heading of the card (default: data and IPC)")
    data: str | None = option(None, "what was distilled, for the card (default: the dataset that "
                              "images.json says, or not stated)")
    method: str | None = option(None, "what made the images (default: what images.json says)")
    data_licence: str | None = option(
        None, "licence of the data that was distilled, in your words (default: not stated)")
    weights_licence: str | None = option(
        None, "licence of the generator's weights, in your words (default: what images.json says, "
        "or not stated)")


@dataclass(frozen=True)
class HuggingFaceSource:
    """A dataset."""

    name: str = option(None, "hf:USER/NAME, hf:USER/NAME@REVISION, or a folder of a dataset",
                       group="data", required=True)
    classes: tuple | None = option(
        None, "what the training data calls these classes, wnids for instance, in the dataset's "
        "order: imagenette, imagewoof, imageidc, a text file with one in each line, or names with "
        "commas between them (default: the dataset's names)", group="data", type=class_names)


@dataclass(frozen=True)
class Upload:
    """What goes to the hub. Your token is read from HF_TOKEN in the environment."""

    folder: Path = option(None, "folder that export made", group="data", type=options.path,
                          required=True)
    name: str = option(None, "dataset on the hub; it is made where it is not there", group="data",
                       required=True, metavar="USER/NAME")
    private: bool = option(False, "make it so that only you see it", group="data")


@dataclass(frozen=True)
class HuggingFaceExport(RoomOptions):
    """Write images as a Hugging Face dataset with a card."""

    images: Images
    target: HuggingFaceTarget


@dataclass(frozen=True)
class HuggingFaceImport(RoomOptions):
    """Write the images of a Hugging Face dataset to a run folder."""

    target: NewRun
    source: HuggingFaceSource


@dataclass(frozen=True)
class HuggingFacePush(RoomOptions):
    """Upload an exported folder to the Hugging Face hub, with your own token in HF_TOKEN."""

    upload: Upload


@dataclass(frozen=True)
class Tensors:
    """DD-Ranking's files, and what their numbers mean."""

    images: Path = option(
        None, "file of the images: a tensor [C x IPC, 3, H, W], class after class", group="data",
        type=options.path, required=True, metavar="FILE")
    labels: Path | None = option(
        None, "file of the soft labels: a tensor [C x IPC, C] (default: none)", group="data",
        type=options.path, metavar="FILE")
    values: str = option(
        "normalised", "what images hold: normalised: (x - mean) / std of x from 0 to 1; unit: from "
        "0 to 1; bytes: from 0 to 255, uint8", choices=("normalised", "unit", "bytes"))
    mean: tuple | None = option(None, "with --values normalised (default: ImageNet's)", nargs=3,
                                type=options.fraction, metavar=("R", "G", "B"))
    std: tuple | None = option(None, "likewise", nargs=3, type=options.positive_float,
                               metavar=("R", "G", "B"))
    label_values: str = option("probabilities", "what soft labels hold",
                               choices=("probabilities", "logits"))


@dataclass(frozen=True)
class FixedLabels:
    """How fixed labels become our label files, which hold the views of every epoch."""

    classes: tuple | None = option(
        None, "names of the classes in their order: imagenette, imagewoof, imageidc, a text file "
        "with one in each line, or names with commas between them (default: unknown)",
        group="data", type=class_names)
    ipc: int | None = option(None, "images per class, where neither --labels nor --classes says "
                             "how many classes there are", group="data", type=options.positive_int)
    epochs: int = option(300, "epochs of label files; each shows every image with its label",
                         group="size", type=options.positive_int)
    batch_size: int = option(50, "the student's batch", group="size", type=options.positive_int)
    augment: str = option("none", f"how an image is cut into a view; {AUGMENT_WORDS}",
                          choices=AUGMENTS)
    flip_prob: float = option(0.0, "probability of mirroring", type=options.fraction)
    fkd_seed: int = option(42, "seed of order, crops and flips", group="size", type=options.seed)


@dataclass(frozen=True)
class DDRankingExport(RoomOptions):
    """Write images, and labels of unmixed views, as DD-Ranking's tensors."""

    labels: Labels
    tensors: Tensors


@dataclass(frozen=True)
class DDRankingImport(RoomOptions):
    """Read DD-Ranking's tensors as a run folder: images/, and labels/ with --labels."""

    target: NewRun
    tensors: Tensors
    fixed: FixedLabels


def parse(prog, commands, argv=None):
    """(command, its options) from the command line.

    commands: {name: RoomOptions class}. --help without a command prints the help of all.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = options.Parser(prog=prog, add_help=False)
    parser.add_argument("command", choices=list(commands))
    if argv[:1] in (["--help"], ["-h"]):
        print("\n".join(_parser(prog, name, commands).format_help() for name in commands))
        sys.exit()

    command = parser.parse_args(argv[:1]).command
    kind = commands[command]
    parsed = options.parse(kind, argv[1:], prog=f"{prog} {command}", description=kind.__doc__)
    if hasattr(parsed, "images") and not (parsed.images.output_dir or parsed.images.train_dir):
        raise UserError("which images are exported? Give --output-dir, a run folder, or "
                        "--train-dir, a folder of class folders.")
    if hasattr(parsed, "labels"):
        _check_labels(parsed.labels, getattr(parsed, "tensors", None))
    return command, parsed


def _check_labels(places, tensors):
    """Raise UserError for images or labels that are nowhere. tensors: without labels, or None."""
    without = tensors is not None and tensors.labels is None
    known = places.train_dir and (without or places.fkd_path)
    if not (places.output_dir or known):
        raise UserError("where are the images and their labels? Give --output-dir, a run folder, "
                        "or --train-dir" + ("." if without else " and --fkd-path."))


def _parser(prog, name, commands):
    kind = commands[name]
    return options.build_parser(kind, f"{prog} {name}", kind.__doc__)
