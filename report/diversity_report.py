"""What report.diversity writes: a figure, tables and sentences from report.measures' numbers."""

import csv

from matplotlib.figure import Figure

from data.opening import check_order, open_real
from report.measures import BINS, measure_sets, random_subset
from report.sets import open_with_network
from report.start_grid import real_starts
from utils.errors import UserError
from utils.files import written_whole
from utils.plots import LINES, save_figure, style_of
from utils.progress import progress_bar

HELD_OUT = "held-out real"  # the reference: real images that nothing was made from
_PARTS = 40  # of the range of cosines that the figure shows


def write(options):
    """Measure the sets, and write figure and tables. options: DiversityOptions."""
    sets, names, network, device = open_with_network(options)
    result, measured, real = beside_reals(sets, dict(options.sets.runs), options, network, device)

    output, count = options.sets.output, options.neighbours.real_per_class
    write_csv(result, network.name, count, output.with_suffix(".csv"))
    write_classes(result, names, beside(output, "classes"))
    write_images(result, measured, real, beside(output, "images"))
    beside_what = compared(next(iter(result.values())), count)
    save_figure(draw(result, f"{network.name}'s penultimate features, {beside_what}"), output)
    print(f"In {network.name}'s penultimate features, {beside_what}:")
    for name, diversity in result.items():
        print(f"{name}: {sentence(diversity)}")
    print(f"diversity: {output}")


def beside_reals(sets, folders, options, network, device):
    """({set: Diversity}, {set: ImageSet}, the real ImageSet) of sets and of the reference.

    sets, folders: {name: ImageSet}, {name: run folder}. options: with reals, neighbours and run.
    """
    real, held_out = open_reals(sets, options.reals, options.run.workers)
    origins = {name: real_starts(folder) for name, folder in folders.items()}
    measured = {name: (images, images.by_class) for name, images in sets.items()}
    if len(set(map(len, sets.values()))) > 1:
        print("note: the sets differ in their number of images, so their coverage does not compare")
    if HELD_OUT in sets:
        raise UserError(f"{HELD_OUT!r} is what the reference is called. Name this set differently.")
    if held_out is None:
        print("note: no --val-dir, so there is no reference of held-out real images")
    else:
        measured[HELD_OUT] = held_out, as_many(held_out, next(iter(sets.values())))

    how, count = options.neighbours, options.neighbours.real_per_class
    total = sum(len(indices) for images, by_class in measured.values() for indices in by_class)
    total += sum(min(len(indices), count or len(indices)) for indices in real.by_class)
    with progress_bar(total, "features", " images") as bar:
        result = measure_sets(measured, real, network, device, origins, how, bar)
    return result, {name: images for name, (images, _) in measured.items()}, real


def open_reals(sets, reals, workers):
    """(training images, test images or None) of the sets' classes and size.

    reals: report.options.RealImages. Raises UserError for another number of classes.
    """
    first = next(iter(sets.values()))
    known = next(filter(None, (images.known_classes for images in sets.values())), None)
    datasets = [images.dataset for images in sets.values() if images.dataset != "imagefolder"]
    dataset = reals.dataset or next(iter(datasets), "imagefolder")

    def opened(split, root):
        return open_real(dataset, split, root, first.image_size, known, workers)

    real = opened("train", reals.train_dir)
    if len(real.classes) != len(first.classes):
        raise UserError(f"{reals.train_dir or dataset}: has {len(real.classes)} classes, the sets "
                        f"have {len(first.classes)}. Give the data that they were made from.")
    if known is None:  # else open_sets has held the sets against it
        for images in sets.values():
            check_order(images, real)
    if dataset == "imagefolder":
        return real, reals.val_dir and opened("test", reals.val_dir)
    return real, opened("test", reals.val_dir or reals.train_dir)


def as_many(held_out, images):
    """For each class the indices of as many random images as `images` have on average."""
    count = max(1, len(images) // len(images.classes))
    return [random_subset(indices, count, 0, label)
            for label, indices in enumerate(held_out.by_class)]


def compared(diversity, per_class):
    """Which real images a set was held beside, in words. per_class: of them, None for all."""
    count, total = diversity.reals, diversity.all_reals
    if count == total:
        return f"beside all real images of an image's class ({total:,} in all)"
    return (f"beside a random subset of the real images of an image's class (at most {per_class} "
            f"per class, {count:,} of {total:,} in all)")


def sentence(diversity):
    """What was measured on one set, in words."""
    parts = [f"{len(diversity.indices):,} images"]
    if diversity.mean_cosine is not None:
        parts.append(f"mean cosine within a class {diversity.mean_cosine:.3f} over all pairs")
    parts.append(f"median distance to the nearest real image {diversity.median_distance:.3g}")
    if diversity.own_starts:
        parts.append(f"{100 * diversity.own_start_share:.0f} % of the "
                     f"{len(diversity.own_starts):,} that started from one of these are nearest to "
                     "their own start")
    if diversity.coverage:
        parts.append(f"coverage {diversity.mean_coverage:.3f} (k = {diversity.k})")
    return "; ".join(parts)


# Tables

def beside(output, word):
    """FIGURE_WORD.csv."""
    return output.with_name(f"{output.stem}_{word}.csv")


def rounded(number, digits=4):
    """A number for a table, empty where there is none."""
    return "" if number is None else round(number, digits)


def write_csv(result, network, per_class, path):
    """Write a line per set. result: {set: Diversity}. per_class: real images, None for all."""
    _write(path, [
        "set", "network", "images", "mean_intra_class_cosine", "pairs", "median_cosine",
        "cosine_5_percent", "cosine_95_percent", "median_nearest_distance",
        "mean_nearest_distance", "known_starts", "own_start_share", "k", "coverage",
        "real_images_compared", "real_images", "random_real_per_class"],
        ([name, network, len(d.indices), rounded(d.mean_cosine), int(d.pairs.sum()),
          *(rounded(d.cosine_quantile(q), 3) for q in (0.5, 0.05, 0.95)),
          rounded(d.median_distance), rounded(float(d.distances.mean())), len(d.own_starts),
          rounded(d.own_start_share), d.k, rounded(d.mean_coverage), d.reals, d.all_reals,
          per_class or "all"] for name, d in result.items()))


def write_classes(result, names, path):
    """Write a line per set and class. names: of the classes."""
    _write(path, ["set", "class", "mean_cosine", "coverage"],
           ([name, names[label], rounded(d.cosines.get(label)), rounded(d.coverage.get(label))]
            for name, d in result.items() for label in range(len(names))))


def write_images(result, sets, real, path):
    """Write a line per image with its nearest real image. sets: {name: ImageSet}."""
    own = {True: "yes", False: "no", None: ""}
    _write(path, ["set", "image", "nearest_real_image", "distance", "own_start"],
           ([name, sets[name].names[index], real.origin(neighbour), rounded(distance),
             own[d.own_starts.get(index)]]
            for name, d in result.items()
            for index, distance, neighbour in zip(d.indices.tolist(), d.distances.tolist(),
                                                  d.neighbours.tolist(), strict=True)))


def _write(path, header, lines):
    with written_whole(path) as temporary, open(temporary, "w", newline="") as file:
        csv.writer(file).writerows([header, *lines])


# The figure

def draw(result, title):
    """Cosines of all pairs, distances to the nearest real image, coverage and own starts.

    result: {set: Diversity}. Panels that no set has numbers for are left out.
    """
    panels = [panel for panel, known in (
        (draw_cosines, any(d.cosines for d in result.values())), (draw_distances, True),
        (_draw_coverage, any(d.coverage for d in result.values())),
        (_draw_own_starts, any(d.own_starts for d in result.values()))) if known]
    figure = Figure(figsize=(5 * min(2, len(panels)), 0.4 + 3.6 * -(-len(panels) // 2)),
                    layout="constrained")
    for place, panel in enumerate(panels):
        panel(figure.add_subplot(-(-len(panels) // 2), min(2, len(panels)), place + 1), result)
    figure.suptitle(title, fontsize=9)
    return figure


def _style(result, name):
    """(colour, line) of a set; the reference is black and dashed."""
    return ("black", "--") if name == HELD_OUT else style_of(list(result).index(name), LINES)


def draw_cosines(axes, result):
    """The share of pairs over their cosine, a line per set."""
    with_pairs = {name: d for name, d in result.items() if d.cosines}
    shown = sum(d.pairs for d in with_pairs.values()).nonzero()[:, 0]
    width = max(1, -(-int(shown[-1] + 1 - shown[0]) // _PARTS))  # of a part, in bins
    first = max(0, int(shown[-1]) + 1 - _PARTS * width)
    edges = [2 * (first + i * width) / BINS - 1 for i in range(_PARTS + 1)]
    for name, d in with_pairs.items():
        parts = d.pairs[first : first + _PARTS * width].view(_PARTS, width).sum(1)
        colour, line = _style(result, name)
        axes.stairs(100 * parts / d.pairs.sum(), edges, color=colour, linestyle=line,
                    linewidth=1.8, label=f"{name}: {d.mean_cosine:.3f}")
    axes.set(xlabel="cosine of two images of a class", ylabel="pairs (%)", ylim=(0, None))
    axes.set_title("all pairs within a class, and their mean over classes", fontsize=9)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def draw_distances(axes, result):
    """The share of images whose nearest real image is at most so far away, a line per set."""
    for name, d in result.items():
        colour, line = _style(result, name)
        axes.ecdf(d.distances.numpy(), color=colour, linestyle=line, linewidth=1.8, label=name)
    axes.set(xlabel="distance to the nearest real image of the class", ylabel="share of images")
    axes.set_title("nearest real neighbours", fontsize=9)
    axes.legend(fontsize=8, loc="lower right")
    axes.grid(alpha=0.3)


def _draw_coverage(axes, result):
    k = next(iter(result.values())).k
    values = {name: 100 * d.mean_coverage for name, d in result.items() if d.coverage}
    _draw_bars(axes, result, values, f"real images covered (%), k = {k}")
    axes.set_title("coverage of the real images", fontsize=9)


def _draw_own_starts(axes, result):
    values = {name: 100 * d.own_start_share for name, d in result.items() if d.own_starts}
    _draw_bars(axes, result, values, "images (%)")
    axes.set_title("nearest to the real image they started from", fontsize=9)


def _draw_bars(axes, result, values, label):
    """A bar with its number for every set of `values` {set: per cent}."""
    colours = [_style(result, name)[0] for name in values]
    bars = axes.barh(range(len(values)), list(values.values()), color=colours, height=0.6)
    axes.bar_label(bars, [f"{value:.1f}" for value in values.values()], padding=3, fontsize=9)
    axes.set_yticks(range(len(values)), list(values), fontsize=9)
    axes.invert_yaxis()
    axes.set(xlabel=label, xlim=(0, max(1, 1.15 * max(values.values()))))
    axes.grid(axis="x", alpha=0.3)
