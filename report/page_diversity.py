"""The page's section about diversity: numbers, distributions and a map, by a network's features."""

import torch

from data.names import class_words
from report import diversity_report, document, embedding, measures, page_figures
from report.document import Picture, Pictures, Section, Table, Text
from report.sets import features, of_class
from utils.progress import progress_bar

MAP_IMAGES = 100  # of a class and set, in the map


def diversity_section(page):
    """How alike the images of a class are, how close to real ones, and a map of all."""
    if page.network is None:
        return Section("Diversity", (Text(page.why),) if page.why else ())
    measured = measure(page)
    beside_reals = any(d.reals for d in measured.values())
    blocks = [diversity_table(measured), Text(diversity_words(page, measured))]
    panels = [("cosines", diversity_report.draw_cosines, "Cosines of all pairs of images of a "
               "class", any(d.cosines for d in measured.values())),
              ("distances", diversity_report.draw_distances, "Share of images over the distance to "
               "the nearest real image of the class", beside_reals)]
    names = {page_figures.plain(name): d for name, d in measured.items()}
    blocks.append(Pictures(tuple(
        Picture(f"{stem}.svg", page_figures.panel(draw, names), f"{words}, {', '.join(measured)}")
        for stem, draw, words, known in panels if known)))
    pictures = map_pictures(page)
    if pictures:
        blocks += [Pictures(pictures), Text(
            "Each point is an image: t-SNE of the features by cosine distance, of "
            f"{len(page.shown)} classes, all sets embedded together.")]
    return Section("Diversity", tuple(blocks))


def measure(page):
    """{set: report.measures.Diversity}; with real images where they are given or in memory."""
    o, network, device = page.options, page.network, page.device
    sets = {name: run.images for name, run in page.runs.items()}
    if has_reals(sets, o.reals):
        folders = {name: run.folder for name, run in page.runs.items()}
        return diversity_report.beside_reals(sets, folders, o, network, device)[0]
    with progress_bar(sum(map(len, sets.values())), "features", " images") as bar:
        return {name: measures.measure_alone(images, network, device, bar)
                for name, images in sets.items()}


def has_reals(sets, reals):
    """Whether {name: ImageSet} are held beside real images, which are given or in memory.

    reals: report.options.RealImages.
    """
    datasets = [reals.dataset] if reals.dataset else [images.dataset for images in sets.values()]
    return reals.train_dir is not None or "digits" in datasets


def diversity_table(measured):
    """A line per measure, a column per set; without the measures that no set has."""
    rows = (("mean cosine of a class's pairs", [_number(d.mean_cosine) for d in measured.values()]),
            ("median distance to the nearest real image",
             [f"{d.median_distance:.3g}" if d.reals else document.NONE for d in measured.values()]),
            ("nearest to its own start",
             [document.NONE if d.own_start_share is None else f"{100 * d.own_start_share:.0f} %"
              for d in measured.values()]),
            ("coverage of the real images", [_number(d.mean_coverage) for d in measured.values()]))
    return Table(("", *measured), tuple((name, *cells) for name, cells in rows
                                        if set(cells) != {document.NONE}))


def diversity_words(page, measured):
    """What the numbers of diversity_table are."""
    words = (f"In {page.network.name}'s penultimate features. The cosine is the mean over all "
             "pairs of images of a class, then over the classes; lower is more diverse.")
    first = next(iter(measured.values()))
    if not first.reals:
        return words + " With --train-dir the sets are also held beside the real images."
    words += (f" Distances and coverage are {diversity_report.compared(first, per_class(page))}: a "
              "real image is covered when an image of the set is no farther than its "
              f"{first.k}th nearest real neighbour. Coverage grows with the number of images.")
    if diversity_report.HELD_OUT in measured:
        words += (" The held-out column is the reference: as many random test images of each "
                  "class, which nothing was made from.")
    return words


def per_class(page):
    """Real images of a class that are compared, None for all."""
    return page.options.neighbours.real_per_class


def _number(value):
    return document.NONE if value is None else f"{value:.3f}"


def map_pictures(page):
    """A picture per set of its features in two dimensions; () for too few images."""
    indices = {name: torch.tensor([index for label in page.shown for index in
                                   list(of_class(run.images, label).values())[:MAP_IMAGES]])
               for name, run in page.runs.items()}
    if sum(map(len, indices.values())) < embedding.LEAST:
        return ()
    parts = [features(run.images, indices[name], page.network, page.device)
             for name, run in page.runs.items()]
    points = embedding.embed(torch.cat(parts), "tsne", seed=0).numpy()
    low, high = points.min(0), points.max(0)
    margin = 0.04 * (high - low)
    limits = tuple(zip(low - margin, high + margin, strict=True))
    names, pictures, done = {label: class_words(page.names[label]) for label in page.shown}, [], 0
    for i, (name, run) in enumerate(page.runs.items()):
        own, labels = points[done : done + len(indices[name])], run.images.labels[indices[name]]
        done += len(own)
        pictures.append(Picture(f"map{i}.svg", page_figures.scatter(own, labels.numpy(), names,
                                                                     limits),
                                f"Map of the images of {name} by class", name))
    return tuple(pictures)
