"""Figure 1 of the paper: penultimate features of some classes in two dimensions, a panel for each set of images."""

import math

import matplotlib
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from report.sets import of_class
from utils.errors import UserError
from utils.files import written_whole

METHODS = ("umap", "tsne")
MOST_CLASSES = 20  # more colours than that cannot be told apart
_LEAST = 5  # images: neighbours of fewer mean nothing


def check_method(method):
    """UserError when UMAP is asked for and not installed."""
    if method == "umap":
        try:
            from umap import UMAP  # noqa: F401
        except ImportError:
            raise UserError("--embedding umap: umap-learn is not installed. Run pip install umap-learn, or give --embedding tsne, "
                            "which needs nothing more.") from None


def places_of(distilled, labels):
    """Places in the set of all images of these classes, and their class of each, int64."""
    places = [place for label in labels for place in of_class(distilled, label).values()]
    return places, distilled.labels[places]


def embed(features, method, seed):
    """float [n, D] -> float64 [n, 2]: UMAP (15 neighbours) or t-SNE (perplexity 30, less for few images), by cosine distance."""
    n = len(features)
    if n < _LEAST:
        raise UserError(f"{n} images in all: too few for an embedding. Give more --classes, or sets with more images.")
    if method == "umap":
        from umap import UMAP

        reducer = UMAP(n_neighbors=min(15, n - 1), metric="cosine", random_state=seed, n_jobs=1)
    else:
        from sklearn.manifold import TSNE

        reducer = TSNE(perplexity=min(30, (n - 1) / 3), metric="cosine", init="pca", random_state=seed)
    return torch.from_numpy(reducer.fit_transform(features.double().numpy())).double()


def draw(panels, names, path, title):
    """A panel per set, the same axes for all, a colour per class.

    panels: {set: (points [n, 2], labels int64 [n])}. names: {label: class name} in the legend's order.
    """
    colours = matplotlib.colormaps["tab10" if len(names) <= 10 else "tab20"]
    columns = math.ceil(len(panels) / math.ceil(len(panels) / 4))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(0.3 + 3.3 * columns, 1.2 + 3.3 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axes, (set_name, (points, labels)) in zip(grid, panels.items(), strict=False):
        for i, (label, name) in enumerate(names.items()):
            own = points[labels == label]
            axes.scatter(own[:, 0], own[:, 1], s=16, color=colours(i), label=name, linewidths=0)
        axes.set(xticks=[], yticks=[], title=set_name)
    for axes in grid[len(panels):]:
        axes.set_axis_off()
    handles, found = grid[0].get_legend_handles_labels()
    figure.legend(handles, found, loc="outside lower center", ncols=min(5, len(names)), fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=9)
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=150, format=path.suffix[1:])
