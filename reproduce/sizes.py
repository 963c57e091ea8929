"""Options of the table runs: where the data is, and how large the runs are. Imports no PyTorch."""

from dataclasses import dataclass, replace
from pathlib import Path

from data import hugging_face
from data.names import DATASETS
from reproduce import ROOT
from utils import options
from utils.options import option
from utils.precision import PRECISIONS

ITERATION = 4000  # the steps that --iteration replaces; methods with fewer (EDC: 1000) scale alike

# What runs in minutes without a GPU. units_per_step: units of ten digits share a forward.
DIGITS = {"iteration": 100, "epochs": 20, "units_per_step": 10}
DIGITS_IPC = {"table2": 10, "table3": 5, "table_dap": 10, "ablation_dap": 10}
OWN_EPOCHS = ("table_dap", "ablation_dap")  # whose cells for digits say their epochs themselves


@dataclass(frozen=True)
class Sizes:
    """What the runs of a table are told beside its cells.

    None means: as in the paper (4000 steps, 300 epochs of soft and 90 of hard labels, the table's
    own IPC), or as the stage has it by default.
    """

    dataset: str = option("imagefolder", "digits needs no folder and no weights", group="data",
                          choices=DATASETS)
    train_dir: Path | None = option(None, "real training images", group="data",
                                    type=hugging_face.train_images)
    val_dir: Path | None = option(None, "real test images", group="data",
                                  type=hugging_face.test_images)
    teacher_weights: str | None = option(
        None, "weights name or folder, for all stages (default: each method's own; other data than "
        "image folders: teachers are trained first)", group="data")
    diffusion_weights: str | None = option(
        None, "name or folder of the diffusion model, for DAP (default: the published one; other "
        "data than image folders: one is trained first)", group="data")
    image_size: int | None = option(
        None, "side in pixels (default: 224 for image folders, else 32)", group="data",
        type=options.positive_int)
    output_dir: Path | None = option(
        None, "folder of the run folders (default: results/tables, for other data "
        "results/tables_NAME)", group="data", type=options.path)

    iteration: int | None = option(
        None, f"replaces {ITERATION} steps; other methods' steps scale in proportion (digits: "
        f"{DIGITS['iteration']})", group="size", type=options.positive_int)
    epochs: int | None = option(
        None, f"replaces 300 epochs, and the 90 of Table 2 (digits: {DIGITS['epochs']})",
        group="size", type=options.positive_int)
    ipc: int | None = option(
        None, "replaces the IPC of Table 2 (1300) and Table 3 (10) (digits: 10 and 5)",
        group="size", type=options.positive_int)
    seeds: tuple = option((0, 1, 2), "of the student", group="size", type=options.seed, nargs="+")
    full_seeds: int = option(0, "1: the seeds are of images and labels too", group="size",
                             type=int, choices=(0, 1))

    online_teacher: str | None = option(
        None, "teacher of the rows that are labelled online (DELT's, RDED's): a network, or "
        "student: the student's own (default: resnet18)", metavar="NAME")
    label_store: str | None = option(
        None, "none: store no soft labels, make them again in validate (default: files, 60 GB at "
        "IPC 100)", choices=("files", "none"))
    units_per_step: int | None = option(
        None, "units that share a forward in recover (digits: 10)", type=options.positive_int)
    precision: str | None = option(
        None, "of all stages; bf16: networks run in bfloat16 (default: fp32)", choices=PRECISIONS)
    compile: bool = option(False, "torch.compile the networks in all stages")
    threads: int | None = option(None, "CPU threads of PyTorch (default: its choice)",
                                 type=options.thread_count)

    @property
    def trains_teachers(self):
        """Whether teachers are trained first: none are given, and none are published."""
        return self.teacher_weights is None and self.dataset != "imagefolder"

    @property
    def teachers(self):
        """The folder or the name of the teachers' weights; None: each method's own."""
        return str(self.output_dir / "teachers") if self.trains_teachers else self.teacher_weights

    @property
    def trains_diffusion(self):
        """Whether a diffusion model is trained first, likewise."""
        return self.diffusion_weights is None and self.dataset != "imagefolder"

    @property
    def diffusion(self):
        """The folder or the name of the diffusion model; None: the published one."""
        own = str(self.output_dir / "diffusion")
        return own if self.trains_diffusion else self.diffusion_weights

    @property
    def as_paper(self):
        """Whether cells are made with the paper's sizes."""
        smaller = (self.iteration, self.epochs, self.ipc, self.image_size)
        return self.dataset == "imagefolder" and not any(smaller)

    def words(self):
        """What differs from the paper, in words."""
        texts = [None if self.dataset == "imagefolder" else self.dataset,
                 self.image_size and f"{self.image_size} px",
                 self.iteration and f"{self.iteration} steps instead of {ITERATION}",
                 self.epochs and f"{self.epochs} epochs",
                 self.ipc and f"IPC {self.ipc}"]
        return ", ".join(text for text in texts if text)


def settle(sizes, table_name=None):
    """The sizes with paths, and with the small sizes that a table has on digits, filled in."""
    digits = sizes.dataset == "digits"
    name = "tables" if sizes.dataset == "imagefolder" else f"tables_{sizes.dataset}"
    values = {"output_dir": sizes.output_dir or ROOT / "results" / name,
              "seeds": tuple(dict.fromkeys(sizes.seeds))}

    weights = sizes.teacher_weights
    if weights and options.path(weights).is_dir():
        values["teacher_weights"] = str(options.path(weights))

    diffusion = sizes.diffusion_weights
    if diffusion and options.path(diffusion).is_dir():
        values["diffusion_weights"] = str(options.path(diffusion))

    if sizes.dataset != "imagefolder":  # train and test images lie in one folder
        values["val_dir"] = sizes.val_dir or sizes.train_dir

    if digits:
        values |= {"train_dir": None, "val_dir": None}
        small = {**DIGITS, "ipc": DIGITS_IPC.get(table_name)}
        if table_name in OWN_EPOCHS:
            del small["epochs"]
        values |= {name: value for name, value in small.items() if getattr(sizes, name) is None}
    return replace(sizes, **values)
