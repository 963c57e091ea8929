"""Figure 5 of the paper: start images above what each method made of them."""

from pathlib import Path

import torch

from data.images import decode, save_grid, sized
from data.names import class_words, crop_rule
from data.opening import open_real
from report.sets import choose_classes, class_names, of_class, open_sets
from utils.errors import UserError
from utils.files import read_json

FONT = 16  # pixels


def fig5(options):
    """Draw figure 5, and say which sets it does not show the starts of. options: Fig5."""
    runs = dict(options.sets.runs)
    sets = open_sets(runs, workers=1)
    names = class_names(sets)
    labels = choose_classes(options.classes.classes, names, len(names))

    rows, row_names, others = grid_rows(sets, runs, labels, options.slices.slices,
                                        options.starts.train_dir)
    for name in others:
        print(f"note: {name} started from other images than those shown")
    if not any(name.startswith("start ") for name in row_names):
        print("note: no set's start images could be found again, so they are not shown. Those that "
              "are files are looked for in --train-dir")
    words = [class_words(names[label]) for label in labels]
    save_grid(rows, options.sets.output, row_names, words, font=FONT)


def start_origins(run):
    """{image's path below the run folder: words that say where it started from}.

    They come from recover's records; {} for a folder without records.
    """
    origins = {}
    for path in sorted((run / "units").glob("*.json")):
        origins.update(read_json(path, "recover")["start"])
    return origins


def real_starts(run):
    """{image's name below images/: the training image it started from, as ImageSet.origin has it}.

    {} for a folder without records, and where the starts were images of another folder. Noise and
    mosaics have their words too, which are no image's.
    """
    manifest = run / "images.json"
    content = read_json(manifest, "recover") if manifest.exists() else {}
    if content.get("identity", {}).get("start_images"):
        return {}
    return {path.removeprefix("images/"): origin for path, origin in start_origins(run).items()}


class StartImages:
    """Start images of a run, found again by what recover noted.

    A start is a file "CLASS FOLDER/FILE", or a number in a dataset that lies in memory. One that
    was mirrored is shown as it was before. run: the run folder. size: side in pixels. train_dir:
    the folder of class folders that the starts came from, or that of a dataset.
    """

    def __init__(self, run, size, train_dir=None):
        self.origins, self.size, self.train_dir = start_origins(run), size, train_dir
        manifest = run / "images.json"
        content = read_json(manifest, "recover") if manifest.exists() else {}
        options = content.get("options", {})
        self.dataset = options.get("dataset")
        self.crop = crop_rule(options.get("crop") or "auto", size)
        self._real = None

    def image(self, path):
        """The start of an image, uint8 [3, size, size].

        path: the image's, below the run folder. None where the start cannot be found again: noise,
        mosaics, files that are not below train_dir.
        """
        origin = self.origins.get(path, "")
        if origin.startswith(f"{self.dataset} train image "):
            if self._real is None:
                self._real = open_real(self.dataset, "train", self.train_dir, self.size)
            return self._real.image(int(origin.split()[-1]))

        file = Path(self.train_dir or "", origin)
        if not file.is_absolute() or not file.is_file():
            return None
        return sized(decode(file), self.size, self.crop)


def grid_rows(sets, runs, labels, numbers, train_dir=None):
    """Rows of the figure: for each number the start images, then each set's images.

    sets: {name: ImageSet}. runs: {name: run folder}. labels: class indices, a column each. numbers:
    which images of a class (IPC slices). The starts are those of the first set whose starts can all
    be found again; without such a set there is no row of them.
    Returns the rows, a list of uint8 [columns, 3, S, S]; their names; and the names of sets that
    are known to have started from other images.
    """
    size = next(iter(sets.values())).image_size
    starts = {name: StartImages(runs[name], size, train_dir) for name in sets}
    rows, row_names, others = [], [], []
    for number in numbers:
        mark = "" if len(numbers) == 1 else f" {number}"
        columns = {name: column(name, images, labels, number) for name, images in sets.items()}
        paths = {name: [f"images/{images.names[index]}" for index in columns[name]]
                 for name, images in sets.items()}

        shown = _first_starts(starts, paths)
        if shown is not None:
            name, row = shown
            unlike = _other_starts(starts, paths, name)
            rows.append(row)
            row_names.append((f"start of {name}" if unlike else "start") + mark)
            others += unlike

        for name, images in sets.items():
            rows.append(torch.stack([images.image(index) for index in columns[name]]))
            row_names.append(f"{name}{mark}")
    return rows, row_names, list(dict.fromkeys(others))


def column(name, images, labels, number):
    """Index of the image of this number in each class."""
    indices = []
    for label in labels:
        numbered = of_class(images, label)
        if number not in numbered:
            raise UserError(f"{name}: class {images.classes[label]} has no image number {number}. "
                            "Give other --slices or --classes.")
        indices.append(numbered[number])
    return indices


def _first_starts(starts, paths):
    """(set, its starts uint8 [columns, 3, S, S]) of the first set whose starts all exist."""
    for name, start_images in starts.items():
        images = [start_images.image(path) for path in paths[name]]
        if all(image is not None for image in images):
            return name, torch.stack(images)
    return None


def _other_starts(starts, paths, shown):
    """Names of the sets whose starts are known and are not those of the set `shown`."""
    origins = {name: [start_images.origins.get(path) for path in paths[name]]
               for name, start_images in starts.items()}
    return [name for name, column in origins.items()
            if None not in column and column != origins[shown]]
