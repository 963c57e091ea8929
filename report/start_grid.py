"""Figure 5 of the paper: start images above what each method made of them."""

from pathlib import Path

import torch

from data import datasets, images
from report.sets import of_class
from utils.errors import UserError
from utils.files import read_json


def start_words(run):
    """{image path relative to the run: words that say where it started from}, from recover's records. {} without records."""
    found = {}
    for path in sorted((run / "units").glob("*.json")):
        record = read_json(path, "recover")
        start = record["start"]
        words = start.values() if isinstance(start, dict) else start
        found.update(zip(record["files"], words, strict=True))  # both in the order of the unit's images
    return found


class StartImages:
    """Start images of a run, found again by recover's words: a file's path, or a number in a dataset that lies in memory.

    run: the run folder. size: side in pixels. train_dir: where CIFAR lies. A start that was mirrored is shown as it was before.
    """

    def __init__(self, run, size, train_dir=None):
        self.words, self.size, self.train_dir = start_words(run), size, train_dir
        manifest = run / "images.json"
        content = read_json(manifest, "recover") if manifest.exists() else {}
        self.dataset = content.get("options", {}).get("dataset")
        self.as_it_is = content.get("identity", {}).get("start_images") is not None  # --start-dir: images of the right size
        self._real = None

    def image(self, relative_path):
        """The start of an image, uint8 [3, size, size]; None where it cannot be found again (noise, mosaics, files moved away)."""
        words = self.words.get(relative_path, "")
        if words.startswith(f"{self.dataset} train image "):
            if self._real is None:
                self._real = datasets.open_images(self.dataset, "train", self.train_dir, self.size)
            return self._real.centre(int(words.split()[-1]))
        if not Path(words).is_absolute() or not Path(words).is_file():
            return None
        image = images.decode(words)
        if self.as_it_is and image.size == (self.size, self.size):
            return images.to_tensor(image)
        return images.centre_crop(image, self.size)


def grid_rows(sets, runs, labels, numbers, train_dir=None):
    """Rows of the figure: for each number the start images, then each set's image.

    sets: {name: DistilledImages}. runs: {name: run folder}. labels: class indices, a column each. numbers: which images of a
    class (IPC slices). The starts are those of the first set whose starts can all be found again; no such set, no such row.
    Returns (rows, list of uint8 [columns, 3, S, S]; their names; names of sets known to have started from other images).
    """
    places = {name: [of_class(distilled, label) for label in labels] for name, distilled in sets.items()}
    size = next(iter(sets.values())).image_size
    starts = {name: StartImages(runs[name], size, train_dir) for name in sets}
    rows, row_names, others = [], [], []
    for number in numbers:
        columns = {name: _column(number, name, sets[name], places[name], labels) for name in sets}
        paths = {name: [f"images/{sets[name].paths[place].as_posix()}" for place in columns[name]] for name in sets}
        words = {name: [starts[name].words.get(path) for path in paths[name]] for name in sets}
        for name in sets:
            found = [starts[name].image(path) for path in paths[name]]
            if all(image is not None for image in found):
                rows.append(torch.stack(found))
                row_names.append(f"start {number}")
                others += [other for other in sets if None not in words[other] and words[other] != words[name]]
                break
        for name, distilled in sets.items():
            rows.append(torch.stack([distilled.image(place) for place in columns[name]]))
            row_names.append(f"{name} {number}")
    return rows, row_names, list(dict.fromkeys(others))


def _column(number, name, distilled, places, labels):
    for label, own in zip(labels, places, strict=True):
        if number not in own:
            raise UserError(f"{name}: class {distilled.classes[label]} has no image number {number}. Give other --slices or "
                            "--classes.")
    return [own[number] for own in places]
