"""Figure 4 of the paper: how alike the images of a class are, over the classes, for several sets of images."""

import csv

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from report.metrics import intra_class_cosine
from report.sets import BATCH, features
from utils.errors import UserError
from utils.files import written_whole


def cosines(distilled, network, device, workers, bar):
    """{class index: mean cosine similarity of penultimate features over all pairs of its images} (paper Fig. 4).

    Goes through a few classes at a time, so memory does not grow with the set. Classes of a single image have no pairs and are
    left out.
    """
    found = {}
    for places in _whole_classes(distilled.labels):
        found.update(intra_class_cosine(features(distilled, places, network, device, workers, bar), distilled.labels[places])[0])
    return found


def _whole_classes(labels):
    """Places of the images of whole classes, so many classes that they fill a batch. labels: int64 [N], sorted."""
    places = []
    for own in torch.arange(len(labels)).split(labels.unique_consecutive(return_counts=True)[1].tolist()):
        places += own.tolist()
        if len(places) >= BATCH:
            yield places
            places = []
    if places:
        yield places


def mean(values):
    """Mean over the classes of {class: cosine}."""
    return sum(values.values()) / len(values)


def check_pairs(found):
    """UserError when a set has no class of two images. found: {set: {class: cosine}}."""
    for name, values in found.items():
        if not values:
            raise UserError(f"{name}: no class has two images, so there are no pairs to compare. Give a set with more of them.")


def write_csv(found, names, path):
    """A line per class and a column per set, the means first. names: of the classes."""
    check_pairs(found)
    with written_whole(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["class", *found])
        writer.writerow(["mean over classes", *(round(mean(values), 4) for values in found.values())])
        for label, name in enumerate(names):
            writer.writerow([name, *(round(values[label], 4) if label in values else "" for values in found.values())])


def draw(found, title, path):
    """A violin per set over its classes, the box from quartile to quartile inside, and the mean in numbers."""
    check_pairs(found)
    figure = Figure(figsize=(1.6 + 1.4 * len(found), 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    values = [list(own.values()) for own in found.values()]
    places = range(1, len(values) + 1)
    for i, body in enumerate(axes.violinplot(values, places, widths=0.8, showextrema=False)["bodies"]):
        body.set(facecolor=f"C{i}", alpha=0.4)
    axes.boxplot(values, positions=places, widths=0.1, showfliers=False, medianprops={"color": "black"})
    for place, own in zip(places, found.values(), strict=True):
        axes.plot(place, mean(own), "D", color="white", markeredgecolor="black", markersize=6, zorder=3)
        axes.annotate(f"{mean(own):.3f}", (place, mean(own)), (12, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_xticks(list(places), list(found))
    axes.set(ylabel="cosine similarity within a class", xlim=(0.4, len(values) + 0.6))
    axes.set_title(title, fontsize=9)
    axes.grid(axis="y", alpha=0.3)
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=150, format=path.suffix[1:])
