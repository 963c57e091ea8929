"""students/NAME in a run folder: weights, the state to go on from, metrics, result and curve."""

import contextlib
import io
import json
import os
from pathlib import Path

from filelock import FileLock, Timeout

from data.run_folder import settle_manifest
from models.networks import save_network
from utils.checkpoint import load_state, save_state
from utils.distributed import print0
from utils.errors import UserError
from utils.files import (
    check_space,
    check_writable,
    damaged,
    read_json,
    remove_leftovers,
    write_bytes,
    write_json,
)
from utils.report_to import Tracker, open_tracker

SAVE_SECONDS = 60  # after which a state that is older is saved
LOCK_SECONDS = 10  # to wait for the workers of a killed process, which outlive it by a few
_LOCK = ".training.lock"
_LINE = ("epoch", "lr", "loss", "train_top1", "seconds")  # of metrics.jsonl; more after a test
_TEST = ("epoch", "top1", "top5")


class StudentFolder:
    """options.json, {last,best}.safetensors, state.pt, metrics.jsonl, result.json and curve.png.

    writes: whether this process writes them. Other ranks read and check alone. report_to: where the
    lines of metrics.jsonl are shown as curves, too. metrics: these lines, of which there is one per
    epoch, or per test with hard labels.
    """

    def __init__(self, path, writes=True, report_to="none"):
        self.path, self.writes, self.metrics = Path(path), writes, []
        self._report_to, self._tracker = report_to if writes else "none", Tracker()

    @contextlib.contextmanager
    def claimed(self, network, manifest):
        """Make the folder this student's and, inside the block, this process's alone.

        Raises UserError where nothing can be written, where the disk has no room for the student,
        where the folder was started with other options, and where another process trains there.
        """
        if self.writes:
            check_writable(self.path)
            remove_leftovers(self.path)
        # At most: best and last weights; a state of weights, their average and two moments, beside
        # the state that it replaces.
        weights = sum(tensor.nbytes for tensor in network.net.state_dict().values())
        check_space("validate", self.path, (2 + 2 * 4) * weights,
                    "Free some space, or choose another --output-dir.")
        self.settle(manifest)
        with self._locked() if self.writes else contextlib.nullcontext():
            yield

    @contextlib.contextmanager
    def _locked(self):
        """Hold the folder's lock, which ends with the process however that ends."""
        lock = FileLock(self.path / _LOCK)
        try:
            lock.acquire(timeout=LOCK_SECONDS)
        except Timeout:
            raise UserError(f"{self.path}: another process trains this student. Wait for its end, "
                            "or give another --student-name.") from None
        except (OSError, NotImplementedError) as error:
            print0(f"note: {self.path} cannot be locked ({error}): run this command only once at "
                   "a time.")
        try:
            if self.result() is not None:
                raise UserError(f"{self.path}: another process has just finished this student. Run "
                                "the same command again to see its result.")
            yield
        finally:
            lock.release()

    def settle(self, manifest):
        """Raise UserError when the folder was started with other options."""
        path = self.path / "options.json"
        if self.writes or path.exists():
            settle_manifest(path, manifest, "Give another --student-name, or remove the folder.")

    def _check_there(self):
        """Raise UserError when somebody has removed the folder: a part of it would be of no use."""
        if not (self.path / "options.json").exists():
            raise UserError(f"{self.path}: was removed while the student was trained. Run the same "
                            "command again: it starts anew.")

    # The state to go on from

    def restore(self, take_over, epochs):
        """Hand the state to go on from, if there is one, to take_over(state).

        epochs: of the whole training. metrics.jsonl is written anew from the state, which holds its
        lines: what a kill or a power loss left in the file does not matter. Raises UserError for a
        state that cannot be taken over.
        """
        file, first = self.path / "state.pt", 0
        if file.exists():
            state = load_state(file)
            try:
                check_progress(state, epochs)
                take_over(state)
            except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
                raise damaged(file, "validate", error) from None
            self.metrics, first = state["metrics"], state["epochs"]
        if self.writes:
            lines = "".join(json.dumps(line) + "\n" for line in self.metrics)
            write_bytes(self.path / "metrics.jsonl", lines.encode())
        self._tracker = open_tracker(self._report_to, self.path, first_step=first)

    def save_state(self, state):
        """state: what take_over of `restore` needs; see check_progress."""
        if self.writes:
            self._check_there()
            save_state(self.path / "state.pt", {**state, "metrics": self.metrics})

    def save_weights(self, which, network, about):
        """which: last or best. about: facts for the file's header, without times.

        So the same run gives the same bytes.
        """
        if self.writes:
            self._check_there()
            save_network(self.path / f"{which}.safetensors", network, about)

    def save_last(self, network, about, is_best):
        """save_weights of the last weights; where they are the best, these get a second name."""
        if is_best and self.writes:
            last = self.path / "last.safetensors"
            last.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # some file systems have no hard links
                os.link(self.path / "best.safetensors", last)
                return
        self.save_weights("last", network, about)

    def add_metrics(self, line):
        """Add a line to metrics.jsonl. line: {name: number}, with the names in _LINE at least."""
        self.metrics.append(line)
        if not self.writes:
            return
        self._check_there()
        path = self.path / "metrics.jsonl"
        size = path.stat().st_size
        try:
            with open(path, "a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:  # a full disk: leave no half line
            os.truncate(path, size)
            error.filename = str(path)
            raise
        self._tracker.log(line["epoch"], {name: number for name, number in line.items()
                                          if name != "epoch"})

    # The result

    def result(self):
        """result.json of a finished student, or None."""
        file = self.path / "result.json"
        if not file.exists():
            return None
        result = read_json(file, "validate")
        try:
            check_numbers([result["best"], result["last"]], _TEST)
            check_numbers([result], ("seconds",))
            check_numbers([result["options"]], ("seed",))
        except (LookupError, TypeError, ValueError) as error:
            raise damaged(file, "validate", error) from None
        self._drop_state()  # left by a kill after the result
        return result

    def summary(self, result):
        """The best and the last test of a result as one line."""
        best, last = result["best"], result["last"]
        return (f"{self.path.name}: top-1 {best['top1']:.2f} % (best, epoch {best['epoch'] + 1}), "
                f"top-5 {best['top5']:.2f} %; last top-1 {last['top1']:.2f} %, top-5 "
                f"{last['top5']:.2f} % (epoch {last['epoch'] + 1})")

    def finish(self, result):
        """Draw the curve; write result.json, which marks the end of training; drop the state."""
        if not self.writes:
            return
        self._check_there()
        self._tracker.close()
        title = f"{self.path.name}: top-1 {result['top1']:.2f} % (best)"
        write_bytes(self.path / "curve.png", draw_curve(self.metrics, title))
        write_json(self.path / "result.json", result)
        self._drop_state()

    def _drop_state(self):
        """Remove what only training needs."""
        for name in ("state.pt", _LOCK):
            (self.path / name).unlink(missing_ok=True)


def check_progress(state, epochs):
    """Raise ValueError unless the numbers in a state are those of a student in training.

    state: a dict with "epochs" (finished ones), "seconds", "last" and "best" (tests, or None before
    the first), "metrics". epochs: of the whole training. Raises KeyError or TypeError where parts
    are missing.
    """
    if not isinstance(state["epochs"], int) or not 0 < state["epochs"] <= epochs:
        raise ValueError(f"{state['epochs']!r} of {epochs} epochs")
    tests = [state[which] for which in ("last", "best") if state[which] is not None]
    if state["epochs"] == epochs and len(tests) < 2:
        raise ValueError("no test after the last epoch")
    check_numbers(tests, _TEST)
    check_numbers(state["metrics"], _LINE)
    check_numbers([state], ("seconds",))


def check_numbers(entries, names):
    """Raise ValueError unless each dict has finite numbers by these names, KeyError without one."""
    for entry in entries:
        for name in names:
            number = entry[name]
            if not isinstance(number, (int, float)) or not -1e300 < number < 1e300:  # nor nan
                raise ValueError(f"{name} {number!r}, expected a number")


def draw_curve(lines, title):
    """Loss and top-1 over epochs as the bytes of a PNG. lines: those of metrics.jsonl."""
    # Slow to import, and needed once.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    epochs = [line["epoch"] + 1 for line in lines]
    tested = [line for line in lines if "top1" in line]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss, top1 = figure.subplots(1, 2)

    loss.plot(epochs, [line["loss"] for line in lines], marker="." if len(lines) < 40 else None)
    loss.set(xlabel="epoch", ylabel="training loss")
    top1.plot(epochs, [line["train_top1"] for line in lines], color="tab:gray",
              label="training (un-mixed class)")
    top1.plot([line["epoch"] + 1 for line in tested], [line["top1"] for line in tested],
              marker="o", label="test")
    top1.set(xlabel="epoch", ylabel="top-1 (%)", ylim=(0, 100))
    top1.legend(loc="lower right")

    for axes in (loss, top1):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(title)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
