"""students/NAME in a run folder: weights, the state to go on from, metrics, result and curve."""

import io
import json
import os
from pathlib import Path

from data.run_folder import settle_manifest
from models.networks import save_network
from utils.checkpoint import load_state, save_state
from utils.files import (
    check_space,
    check_writable,
    damaged,
    read_json,
    remove_leftovers,
    write_bytes,
    write_json,
)

SAVE_SECONDS = 60  # after which a state that is older is saved


class StudentFolder:
    """options.json, {last,best}.safetensors, state.pt, metrics.jsonl, result.json and curve.png.

    writes: whether this process writes them. Other ranks read and check alone.
    """

    def __init__(self, path, writes=True):
        self.path, self.writes = Path(path), writes

    def claim(self, network, manifest):
        """Make the folder this student's.

        Raises UserError where nothing can be written, where the disk has no room for the student,
        and where the folder was started with other options.
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

    def settle(self, manifest):
        """Raise UserError when the folder was started with other options."""
        path = self.path / "options.json"
        if self.writes or path.exists():
            settle_manifest(path, manifest, "Give another --student-name, or remove the folder.")

    # The state to go on from

    def load_state(self):
        """The state to go on from, or None."""
        file = self.path / "state.pt"
        return load_state(file) if file.exists() else None

    def restore(self, take_over):
        """Hand the state to go on from, if there is one, to take_over(state).

        Raises UserError for a state that it cannot take over.
        """
        state = self.load_state()
        if state is not None:
            try:
                take_over(state)
            except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
                raise damaged(self.path / "state.pt", "validate", error) from None

    def save_state(self, state):
        if self.writes:
            save_state(self.path / "state.pt", state)

    def save_weights(self, which, network, about):
        """which: last or best. about: facts for the file's header, without times.

        So the same run gives the same bytes.
        """
        if self.writes:
            save_network(self.path / f"{which}.safetensors", network, about)

    # A line of metrics per epoch

    def metrics(self):
        """Lines of metrics.jsonl as dicts; a line that a kill cut short is left out."""
        file, lines = self.path / "metrics.jsonl", []
        for text in file.read_text().splitlines() if file.exists() else []:
            try:
                lines.append(json.loads(text))
            except ValueError:
                continue
        return lines

    def drop_metrics(self, start):
        """Forget the lines of epochs from `start` on, which will be trained again."""
        if self.writes:
            lines = [json.dumps(line) + "\n" for line in self.metrics() if line["epoch"] < start]
            write_bytes(self.path / "metrics.jsonl", "".join(lines).encode())

    def add_metrics(self, line):
        if not self.writes:
            return
        path = self.path / "metrics.jsonl"
        size = path.stat().st_size
        try:
            with open(path, "a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:  # a full disk: leave no half line
            os.truncate(path, size)
            error.filename = str(path)
            raise

    # The result

    def result(self):
        """result.json of a finished student, or None."""
        file = self.path / "result.json"
        if not file.exists():
            return None
        result = read_json(file, "validate")
        try:
            self.summary(result)
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(file, "validate", error) from None
        (self.path / "state.pt").unlink(missing_ok=True)  # left by a kill after the result
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
        title = f"{self.path.name}: top-1 {result['top1']:.2f} % (best)"
        write_bytes(self.path / "curve.png", draw_curve(self.metrics(), title))
        write_json(self.path / "result.json", result)
        (self.path / "state.pt").unlink(missing_ok=True)


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
