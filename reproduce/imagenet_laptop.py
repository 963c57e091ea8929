"""Networks that were trained on ImageNet draw ten of its classes at 224 px, without a GPU.

    sh reproduce/imagenet_laptop.sh

PRISM and SRe2L start from the same noise, and a network that guided neither says what it sees.
"""

from dataclasses import dataclass
from pathlib import Path

from models.efficientnet_lite import NAMES
from reproduce import ROOT
from utils import options
from utils.errors import UserError, run_entry
from utils.options import RoomOptions, option
from utils.progress import duration

PRIMARY = NAMES[0]
CLASSES = ("n01443537", "n01496331", "n02129604", "n02391049", "n02504458", "n02007558",
           "n01806143", "n07753275", "n02782093", "n03028079")
SECONDS = 0.03  # of an image's step through a network at 224 px, on two cores


@dataclass(frozen=True)
class Laptop:
    """What both methods are told, and who says what the images show."""

    classes: str = option(",".join(CLASSES), "as recover's --classes", group="data",
                          metavar="LIST")
    bn_teachers: tuple = option(
        (NAMES[1],), f"PRISM's BN teachers beside {PRIMARY}, which is the logit teacher of both "
        "methods", group="method", nargs="+", choices=NAMES[1:], metavar="NAME")
    verifier: str = option(NAMES[2], "says what the images show; guides none of them",
                           group="method", choices=NAMES, metavar="NAME")
    ipc: int = option(2, "images per class", group="size", type=options.positive_int)
    iteration: int = option(500, "steps of every image", group="size", type=options.positive_int)
    image_size: int = option(224, "side in pixels", group="size", type=options.side)
    lr: float = option(
        0.25, "learning rate of both methods (SRe2L's; PRISM's own 0.05 hardly leaves the noise in "
        "so few steps)", group="method", type=options.positive_float)
    r_bn: float = option(
        0.05, "weight of both methods' BN term, which is divided by the layers", group="method",
        type=options.weight)
    tv_l2: float = option(
        0.02, "weight of SRe2L's total-variation prior in both methods, which takes away the noise "
        "that they start from", group="method", type=options.weight)
    seed: int = option(0, "seed of both methods", group="size", type=options.seed)
    output_dir: Path = option(ROOT / "results" / "imagenet_laptop", "teachers, run folders, "
                              "pictures", group="data", type=options.path)
    threads: int | None = option(None, "CPU threads (default: PyTorch's choice)",
                                 type=options.thread_count)
    device: str = option("auto", "auto: a GPU if there is one", choices=("auto", "cuda", "cpu"))
    dry_run: bool = option(False, "print the commands, and stop")


@dataclass(frozen=True)
class Options(RoomOptions):
    """All options of this entry."""

    laptop: Laptop


def main(argv=None):
    o = options.parse(Options, argv, prog="reproduce.imagenet_laptop",
                      description="Draw ten ImageNet classes with networks trained on ImageNet."
                      ).laptop
    check(o)

    # Imported after the options are read, so that --help answers at once.
    from reproduce.quickstart import print_steps
    from reproduce.steps import Steps

    steps = list_steps(o)
    if o.dry_run:
        print_steps(steps)
        return

    print(f"PRISM and SRe2L, about {duration(seconds(o))} on two CPU cores where nothing is done "
          "yet", flush=True)
    runner = Steps(len(steps), o.output_dir / "timings.json")
    for title, entry, arguments in steps:
        runner.run(title, entry, *arguments)


def check(o):
    """Raise UserError for a verifier that guides images."""
    if o.verifier in (PRIMARY, *o.bn_teachers):
        raise UserError(f"--verifier {o.verifier}: guides PRISM's images, so its answers would be "
                        "no evidence. Choose another one, or leave it out of --bn-teachers.")


def seconds(o):
    """How long both methods take on two cores: PRISM's images pass every BN teacher too."""
    from data.class_lists import class_list

    images = len(class_list(o.classes)) * o.ipc
    networks = 1 + 1 + len(o.bn_teachers)
    return SECONDS * networks * images * o.iteration * (o.image_size / 224) ** 2


def list_steps(o):
    """[(title, entry module, arguments)] in order."""
    from models import efficientnet_lite
    from recover import data_synthesis
    from report import verify

    run = ["--device", o.device, *(() if o.threads is None else ("--threads", o.threads))]
    weights = ["--teacher-weights", o.output_dir / "teachers"]
    # The BN term of these networks is far too strong unless it is divided by their layers, and
    # ten of the head's columns alone are a weak target (docs/results.md).
    both = ["--start", "noise", "--classes", o.classes, "--image-size", o.image_size, *weights,
            "--head", "full", "--bn-normalise", "layers", "--r-bn", o.r_bn, "--tv-l2", o.tv_l2,
            "--lr", o.lr, "--iteration", o.iteration, "--steps", "constant", "--ipc-end", o.ipc,
            "--seed", o.seed, *run]
    law = ["--bn-teachers", *o.bn_teachers, "--bn-law", "exact", "--bn-count",
           1 + len(o.bn_teachers)]
    folders = {"PRISM": o.output_dir / "prism", "SRe2L": o.output_dir / "sre2l"}

    return [
        ("teachers: convert EfficientNet-Lite", efficientnet_lite, [
            "--networks", PRIMARY, *o.bn_teachers, o.verifier,
            "--output-dir", o.output_dir / "teachers"]),
        ("recover: PRISM", data_synthesis, [
            "--primary-teacher", PRIMARY, *law, *both, "--output-dir", folders["PRISM"]]),
        ("recover: SRe2L", data_synthesis, [
            "--preset", "sre2l", "--primary-teacher", PRIMARY, *both,
            "--output-dir", folders["SRe2L"]]),
        ("report: what the verifier sees", verify, [
            "--runs", *(f"{name}={folder}" for name, folder in folders.items()),
            "--verifier", o.verifier, *weights, "--output", o.output_dir / "pictures.png", *run])]


if __name__ == "__main__":
    run_entry(main)
