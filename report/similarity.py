"""Figure 4 of the paper: how alike the images of a class are, over the classes, for each set."""

import csv

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from report.sets import BATCH, features, open_with_network
from utils.errors import UserError
from utils.files import written_whole
from utils.plots import COLOURS, save_figure
from utils.progress import progress_bar


def intra_class_cosine(features, labels):
    """Mean cosine similarity over all pairs of images of a class (paper Fig. 4), for each class.

    features: float [n, D]; the paper takes ResNet-18's penultimate layer. labels: int [n].
    Returns {class: mean}. Classes with fewer than two images have no pairs and are left out.
    """
    features = F.normalize(features.double(), dim=1)
    cosines = {}
    for label in torch.unique(labels).tolist():
        of_class = features[labels == label]
        n = len(of_class)
        if n > 1:
            # |sum of unit vectors|^2 is the sum over all ordered pairs, and over n images with
            # themselves.
            total = of_class.sum(0).square().sum() - n
            cosines[label] = float(total / (n * (n - 1)))
    return cosines


def mean(cosines):
    """Mean over the classes of {class: cosine}; None without a class of two images."""
    return sum(cosines.values()) / len(cosines) if cosines else None


def cosines(images, network, device, progress=None):
    """intra_class_cosine of a set's penultimate features.

    Goes through a few classes at a time, so memory does not grow with the set.
    """
    result = {}
    for indices in _whole_classes(images.by_class):
        batch = features(images, indices, network, device, progress)
        result.update(intra_class_cosine(batch, images.labels[indices]))
    return result


def _whole_classes(by_class):
    """Yield int64 indices of whole classes, as many classes as fill a batch."""
    classes = []
    for indices in by_class:
        classes.append(indices)
        if sum(map(len, classes)) >= BATCH:
            yield torch.cat(classes)
            classes = []
    if classes:
        yield torch.cat(classes)


def fig4(options):
    """Draw figure 4, write its numbers beside it and print the means. options: Fig4."""
    sets, names, network, device = open_with_network(options)
    with progress_bar(sum(map(len, sets.values())), "features", " images") as bar:
        result = {name: cosines(images, network, device, bar) for name, images in sets.items()}
    check_pairs(result)

    output = options.sets.output
    write_csv(result, names, output.with_suffix(".csv"))
    save_figure(draw(result, f"{network.name}'s penultimate features, all pairs"), output)
    for name, values in result.items():
        print(f"{name}: mean cosine similarity within a class {mean(values):.3f} over "
              f"{len(values)} classes")


def check_pairs(result):
    """Raise UserError when a set has no class of two images. result: {set: {class: cosine}}."""
    for name, values in result.items():
        if not values:
            raise UserError(f"{name}: no class has two images, so there are no pairs to compare. "
                            "Give a set with more of them.")


def write_csv(result, names, path):
    """Write a line per class and a column per set, the means first. names: of the classes."""
    means = [round(mean(values), 4) for values in result.values()]
    with written_whole(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["class", *result])
        writer.writerow(["mean over classes", *means])
        for label, name in enumerate(names):
            writer.writerow([name, *(round(values[label], 4) if label in values else ""
                                     for values in result.values())])


def draw(result, title):
    """A violin per set over its classes, a box from quartile to quartile, the mean in numbers."""
    figure = Figure(figsize=(1.6 + 1.4 * len(result), 4), layout="constrained")
    axes = figure.add_subplot()
    values = [list(cosines.values()) for cosines in result.values()]
    places = range(1, len(values) + 1)

    violins = axes.violinplot(values, places, widths=0.8, showextrema=False)
    for i, body in enumerate(violins["bodies"]):
        body.set(facecolor=COLOURS[i % len(COLOURS)], alpha=0.4)
    axes.boxplot(values, positions=places, widths=0.1, showfliers=False,
                 medianprops={"color": "black"})

    for place, height in zip(places, map(mean, result.values()), strict=True):
        axes.plot(place, height, "D", color="white", markeredgecolor="black", markersize=6,
                  zorder=3)
        axes.annotate(f"{height:.3f}", (place, height), (12, 0), textcoords="offset points",
                      va="center", fontsize=9)

    axes.set_xticks(list(places), list(result))
    axes.set(ylabel="cosine similarity within a class", xlim=(0.4, len(values) + 0.6))
    axes.set_title(title, fontsize=9)
    axes.grid(axis="y", alpha=0.3)
    return figure
