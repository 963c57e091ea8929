"""Numbers of a stage as curves in TensorBoard or Weights & Biases, where --report-to asks for them.

They are numbers that the stage prints or writes anyway, so no result depends on them and nothing
waits for a GPU because of them. The process that writes a folder reports it. The libraries are
imported when they are asked for.
"""

import contextlib
import importlib
import os
from pathlib import Path

from utils.errors import UserError
from utils.files import write_bytes


class Tracker:
    """Takes numbers and shows them nowhere."""

    def log(self, step, numbers):
        """Show {name: number} at a step. Steps do not fall."""

    def close(self):
        """Show what is left. Nothing can be logged after this."""


class TensorBoard(Tracker):
    """Curves in event files of a folder, which `tensorboard --logdir` shows with those above it."""

    def __init__(self, folder, first_step, _title):
        writer = _imported("tensorboard").SummaryWriter
        # What an earlier start logged from first_step on is shown no more.
        self._writer = writer(folder, purge_step=first_step)

    def log(self, step, numbers):
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, step)
        self._writer.flush()  # a kill would lose what waits, and a state may be newer than that

    def close(self):
        self._writer.close()


class WandB(Tracker):
    """Curves of a run of Weights & Biases, by the user's own login or offline (WANDB_MODE).

    The run's id is kept in the folder, so a later start adds to the same run. W&B itself leaves out
    steps that it has seen.
    """

    def __init__(self, folder, _first_step, title):
        wandb = _imported("wandb")
        group = str(folder.parent)
        with _own_login(wandb):
            # Several runs may be open at a time. Our terminal stays as it is.
            self._run = wandb.init(id=_run_id(folder), resume="allow", dir=folder, name=title,
                                   group=group, reinit="create_new", settings={"console": "off"})

    def log(self, step, numbers):
        self._run.log(numbers, step=step)

    def close(self):
        self._run.finish()


_TRACKERS = {"tensorboard": TensorBoard, "wandb": WandB}
_MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}


def open_tracker(kind, folder, name="", first_step=0):
    """The Tracker of --report-to. It writes into FOLDER/KIND/NAME.

    folder: of a run, a student or a teacher. name: of a part of it that has curves of its own.
    first_step: 0, or the step that a stopped run goes on at.
    """
    if kind == "none":
        return Tracker()
    place = Path(folder, kind, name)
    place.mkdir(parents=True, exist_ok=True)
    return _TRACKERS[kind](place, first_step, " ".join(filter(None, [Path(folder).name, name])))


def check(kind):
    """Raise UserError where the library of --report-to is missing, or nobody is logged in."""
    if kind != "none":
        library = _imported(kind)
        if kind == "wandb":
            with _own_login(library):
                library.login()


def _imported(kind):
    try:
        return importlib.import_module(_MODULES[kind])
    except ImportError as error:
        raise UserError(f"--report-to {kind}: the package cannot be imported ({error}). Install it "
                        f"(pip install {kind}), or leave the option out.") from None


@contextlib.contextmanager
def _own_login(wandb):
    """What W&B refuses becomes a UserError."""
    try:
        yield
    except wandb.Error as error:
        raise UserError(f"--report-to wandb: {error} Log in once (wandb login), or set "
                        "WANDB_MODE=offline.") from None


def _run_id(folder):
    """The id of a folder's run: drawn at its first start, and kept with it."""
    file = folder / "run_id"
    if not file.exists():
        write_bytes(file, os.urandom(8).hex().encode())
    return file.read_text()
