"""Options of the table runs: where data lies, and how large the runs are. As in the paper, or smaller where one says so."""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

from data import datasets
from models.teachers import weights_folder
from reproduce.steps import ROOT
from utils import options

ITERATION = 4000  # the steps that --iteration replaces; methods with fewer (EDC: 1000) scale alike
# Without a GPU in minutes. units_per_step: units of ten digits share a forward.
SMALL = {"digits": {"iteration": 100, "epochs": 20, "ipc": {"table2": 10, "table3": 5}, "units_per_step": 10}}


@dataclass(frozen=True)
class Sizes:
    """What a table run is told beside its cells.

    seeds: of the student; full_seeds: of images and labels as well. None: as the paper (iteration 4000, 300 epochs of soft and 90
    of hard labels, the table's own IPC), or as the dataset's other defaults.
    """

    output_dir: Path
    dataset: str = "imagefolder"
    train_dir: Path | None = None
    val_dir: Path | None = None
    teacher_weights: str | None = None
    image_size: int | None = None
    iteration: int | None = None
    epochs: int | None = None
    ipc: int | None = None
    seeds: tuple = (0, 1, 2)
    full_seeds: bool = False
    online_teacher: str | None = None
    label_store: str | None = None
    units_per_step: int | None = None
    ngpu: int = 1
    threads: int | None = None

    @property
    def teachers(self):
        """Where teachers are: what was given, or those that are trained first where none are published."""
        if self.teacher_weights is not None or self.dataset == "imagefolder":
            return self.teacher_weights
        return str(self.output_dir / "teachers")

    @property
    def as_paper(self):
        """Whether cells are made with the paper's sizes."""
        return self.dataset == "imagefolder" and not any((self.iteration, self.epochs, self.ipc, self.image_size))

    def words(self):
        """What differs from the paper, in words."""
        named = ((self.dataset if self.dataset != "imagefolder" else None, "{}"), (self.image_size, "{} px"),
                 (self.iteration, f"{{}} steps instead of {ITERATION}"), (self.epochs, "{} epochs"), (self.ipc, "IPC {}"))
        return ", ".join(words.format(value) for value, words in named if value is not None)


def add_arguments(parser):
    """The options of Sizes, for the tables and for the digits laboratory."""
    data = parser.add_argument_group("data")
    data.add_argument("--dataset", choices=datasets.NAMES, default="imagefolder", help="digits needs no folder and no weights")
    data.add_argument("--train-dir", type=options.path, help="real training images")
    data.add_argument("--val-dir", type=options.path, help="real test images")
    data.add_argument("--teacher-weights",
                      help="weights name or folder, for all stages (default: each method's own; digits: trained first)")
    data.add_argument("--image-size", type=options.positive_int, help="side in pixels (default: 224, or 32 for CIFAR and digits)")
    data.add_argument("--output-dir", type=options.path, help="folder of the run folders (default: results/tables, for other data "
                                                              "results/tables_NAME)")
    size = parser.add_argument_group("size")
    size.add_argument("--iteration", type=options.positive_int, metavar="STEPS",
                      help=f"replaces {ITERATION} steps; other methods' are scaled in proportion (digits: 100)")
    size.add_argument("--epochs", type=options.positive_int, help="replaces 300 epochs, and Table 2's 90 (digits: 20)")
    size.add_argument("--ipc", type=options.positive_int,
                      help="replaces the IPC of Table 2 (1300) and Table 3 (10) (digits: 10 and 5)")
    size.add_argument("--seeds", type=options.count, nargs="+", default=[0, 1, 2], help="of the student")
    size.add_argument("--full-seeds", type=options.count, default=0, metavar="0|1", help="1: seeds of images and labels too")
    size.add_argument("--online-teacher", metavar="NAME",
                      help="teacher of the rows that are labelled online (DELT's, RDED's), a net or student: the student's own "
                           "(default: resnet18)")
    run = parser.add_argument_group("run")
    run.add_argument("--label-store", choices=["files", "none"],
                     help="none: store no soft labels, make them again in validate (60 GB at IPC 100)")
    run.add_argument("--units-per-step", type=options.positive_int, metavar="N", help="of recover (digits: 10)")
    add_run_arguments(run)


def add_run_arguments(group):
    """How a machine's GPUs and cores are used, for the tables and for the digits laboratory."""
    group.add_argument("--ngpu", type=_ngpu, default=1, metavar="NGPU",
                       help="GPUs, each with one cell, part of a cell or seed at a time; on a machine without: processes")
    group.add_argument("--threads", type=options.positive_int,
                       help="CPU threads of each process (default: PyTorch's choice over NGPU)")


def _ngpu(text):
    try:
        return options.positive_int(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"NGPU: {error}") from None


def from_arguments(args, table=None):
    """Sizes from parsed options; table: name of the table, whose small IPC counts where the dataset has one."""
    embedded = args.dataset == "digits"  # needs no folders
    weights = args.teacher_weights and (weights_folder(args.teacher_weights) or args.teacher_weights)
    name = "tables" if args.dataset == "imagefolder" else f"tables_{args.dataset}"
    found = Sizes(output_dir=args.output_dir or ROOT / "results" / name, dataset=args.dataset,
                  train_dir=None if embedded else args.train_dir, val_dir=None if embedded else args.val_dir,
                  teacher_weights=weights and str(weights), image_size=args.image_size, iteration=args.iteration,
                  epochs=args.epochs, ipc=args.ipc, seeds=tuple(dict.fromkeys(args.seeds)), full_seeds=bool(args.full_seeds),
                  online_teacher=args.online_teacher, label_store=args.label_store, units_per_step=args.units_per_step,
                  ngpu=args.ngpu, threads=args.threads)
    small = dict(SMALL.get(args.dataset, {}))
    small["ipc"] = small.get("ipc", {}).get(table)
    return replace(found, **{name: value for name, value in small.items() if getattr(found, name) is None})
