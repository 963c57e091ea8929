"""students/NAME in a run folder: weights, the state to go on from, a line of metrics per epoch, the result and its curve."""

import io
import json
import os
from pathlib import Path

from data.run_folder import settle_manifest
from models.networks import save_network
from utils.checkpoint import load_state, save_state
from utils.errors import UserError
from utils.files import check_space, read_json, write_bytes, write_json


class StudentFolder:
    """options.json (what the student is), last and best .safetensors, state.pt, metrics.jsonl, result.json, curve.png."""

    def __init__(self, path):
        self.path = Path(path)

    def settle(self, manifest):
        """Refuse to go on with other options than the folder was started with."""
        settle_manifest(self.path / "options.json", manifest, "Give another --student-name, or remove the folder.")

    def result(self):
        """result.json of a finished student, or None."""
        file = self.path / "result.json"
        if not file.exists():
            return None
        found = read_json(file, "validate")
        for which in ("best", "last"):
            for name in ("epoch", "top1", "top5"):
                if not isinstance(found.get(which), dict) or not isinstance(found[which].get(name), (int, float)):
                    raise UserError(f"{file}: does not say {name} of {which}. Remove it and run validate again.")
        (self.path / "state.pt").unlink(missing_ok=True)  # left by a kill just after the result was written
        return found

    def check_space(self, network):
        """Say how much a student takes at most: best and last weights, and a state of weights, their average and two moments
        beside the one it replaces. Refuse what the disk has no room for."""
        one = sum(tensor.nbytes for tensor in network.net.state_dict().values())
        check_space("validate", self.path, (2 + 2 * 4) * one, "Free some space, or choose another --output-dir.")

    def save_weights(self, which, network, about):
        """which: last or best. about: facts kept in the file's header; no times, so that the same run gives the same bytes."""
        save_network(self.path / f"{which}.safetensors", network, about)

    def save_state(self, state):
        save_state(self.path / "state.pt", state)

    def load_state(self):
        """The state to go on from, or None."""
        file = self.path / "state.pt"
        return load_state(file) if file.exists() else None

    def metrics(self, before=None):
        """Lines of metrics.jsonl as dicts, those of epochs below `before`; a line cut short by a kill is left out."""
        file, lines = self.path / "metrics.jsonl", []
        for text in file.read_text().splitlines() if file.exists() else []:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if before is None or line["epoch"] < before:
                lines.append(line)
        return lines

    def drop_metrics(self, start):
        """Forget lines of epochs from `start` on: they will be trained again."""
        lines = self.metrics(before=start)
        write_bytes(self.path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())

    def add_metrics(self, line):
        path = self.path / "metrics.jsonl"
        size = path.stat().st_size
        try:
            with open(path, "a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:  # a full disk: leave no half line
            os.truncate(path, size)
            error.filename = str(path)
            raise

    def finish(self, result):
        """Draw the curve, write result.json, whose presence says that the student is finished, and drop the state."""
        write_bytes(self.path / "curve.png", draw_curve(self.metrics(), f"{self.path.name}: top-1 {result['top1']:.2f} % (best)"))
        write_json(self.path / "result.json", result)
        (self.path / "state.pt").unlink(missing_ok=True)


class OthersFolder(StudentFolder):
    """The folder as ranks other than 0 use it: they read and check, and write nothing."""

    def settle(self, manifest):
        if (self.path / "options.json").exists():
            super().settle(manifest)

    def _nothing(self, *_):
        pass

    save_weights = save_state = drop_metrics = add_metrics = finish = _nothing


def draw_curve(lines, title):
    """Loss and top-1 over epochs as the bytes of a PNG. lines: those of metrics.jsonl."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, and needed once
    from matplotlib.figure import Figure

    epochs = [line["epoch"] + 1 for line in lines]
    tested = [line for line in lines if "top1" in line]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss, top1 = figure.subplots(1, 2)
    loss.plot(epochs, [line["loss"] for line in lines], marker="." if len(lines) < 40 else None)
    loss.set(xlabel="epoch", ylabel="training loss")
    top1.plot(epochs, [line["train_top1"] for line in lines], color="tab:gray", label="training (un-mixed class)")
    top1.plot([line["epoch"] + 1 for line in tested], [line["top1"] for line in tested], marker="o", label="test")
    top1.set(xlabel="epoch", ylabel="top-1 (%)", ylim=(0, 100))
    top1.legend(loc="lower right")
    for axes in (loss, top1):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(title)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
