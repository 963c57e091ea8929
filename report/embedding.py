"""Figure 1 of the paper: penultimate features of some classes in two dimensions, a panel a set."""

import math

import torch
from matplotlib.figure import Figure

from data.names import class_words
from report.options import EMBEDDINGS
from report.sets import choose_classes, features, of_class, open_with_network
from utils.errors import UserError
from utils.plots import MARKERS, save_figure, style_of
from utils.progress import progress_bar

MOST_CLASSES = 20  # more colours and markers than that cannot be told apart
LEAST = 5  # images: neighbours of fewer mean nothing


def fig1(options):
    """Draw figure 1. options: Fig1.

    All sets are embedded together, so that one panel can be compared with another; the paper does
    not say how its panels were made.
    """
    method = settle_method(options.embedding.embedding)
    sets, names, network, device = open_with_network(options)
    labels = choose_classes(options.classes.classes, names, MOST_CLASSES)
    indices = {name: torch.tensor([index for label in labels
                                   for index in of_class(images, label).values()])
               for name, images in sets.items()}

    with progress_bar(sum(map(len, indices.values())), "features", " images") as bar:
        parts = [features(images, indices[name], network, device, bar)
                 for name, images in sets.items()]
    points = embed(torch.cat(parts), method, options.embedding.seed)
    points = points.split([len(part) for part in parts])

    panels = {name: (panel, sets[name].labels[indices[name]])
              for name, panel in zip(sets, points, strict=True)}
    legend = {label: class_words(names[label]) for label in labels}
    title = (f"{EMBEDDINGS[method]} of {network.name}'s penultimate features, "
             "all sets embedded together")
    save_figure(draw(panels, legend, title), options.sets.output)


def settle_method(method):
    """umap or tsne: for auto UMAP, and t-SNE with a note where that is not installed.

    Raises UserError when UMAP is asked for and not installed.
    """
    if method == "tsne":
        return method
    try:
        from umap import UMAP  # noqa: F401
    except ImportError:
        if method == "auto":
            print("note: umap-learn, which the paper used, is not installed, so this is t-SNE")
            return "tsne"
        raise UserError("--embedding umap: umap-learn is not installed. Run pip install "
                        "umap-learn, or give --embedding tsne, which needs nothing more."
                        ) from None
    return "umap"


def embed(features, method, seed):
    """float [n, D] -> float64 [n, 2], by cosine distance.

    UMAP has 15 neighbours, t-SNE perplexity 30; both have less for few images.
    """
    n = len(features)
    if n < LEAST:
        raise UserError(f"{n} images in all: too few for an embedding. Give more --classes, or "
                        "sets with more images.")
    if method == "umap":
        from umap import UMAP

        reducer = UMAP(n_neighbors=min(15, n - 1), metric="cosine", random_state=seed, n_jobs=1)
    else:
        from sklearn.manifold import TSNE

        reducer = TSNE(perplexity=min(30, (n - 1) / 3), metric="cosine", init="pca",
                       random_state=seed)
    return torch.from_numpy(reducer.fit_transform(features.double().numpy())).double()


def draw(panels, legend, title):
    """A panel per set, the same axes for all, a colour and a marker per class.

    panels: {set: (points [n, 2], labels int64 [n])}. legend: {label: class name}, in its order.
    """
    columns = math.ceil(len(panels) / math.ceil(len(panels) / 4))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(0.3 + 3.3 * columns, 1.2 + 3.3 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()

    for axes, (set_name, (points, labels)) in zip(grid, panels.items(), strict=False):
        for i, (label, name) in enumerate(legend.items()):
            x, y = points[labels == label].unbind(1)
            colour, marker = style_of(i, MARKERS)
            axes.scatter(x, y, s=22, color=colour, marker=marker, label=name, linewidths=0)
        axes.set(xticks=[], yticks=[], title=set_name)
    for axes in grid[len(panels):]:
        axes.set_axis_off()

    handles, names = grid[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(5, len(names)), fontsize=8,
                  frameon=False)
    figure.suptitle(title, fontsize=9)
    return figure
