"""Figures of the page as SVG, whose text is text and follows light and dark: numbers in, bytes out.
"""

import contextlib
import io

import matplotlib
import numpy as np
from matplotlib.figure import Figure

# Okabe and Ito's colours, which everybody tells apart; a marker of its own says the same again.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vPX*<>"
_INK = "#010203"  # a stand-in for the colour of text and lines
_STYLE = """<style>svg{--ink:#1f2328}
@media(prefers-color-scheme:dark){svg{--ink:#e6edf3}}</style>"""
_RC = {"svg.fonttype": "none", "svg.hashsalt": "page", "font.family": "sans-serif",
       "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
       "grid.alpha": 0.15, **dict.fromkeys(
           ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color",
            "grid.color"), _INK)}


@contextlib.contextmanager
def _axes(width, height):
    """Axes of a figure in inches, drawn in the page's style."""
    with matplotlib.rc_context(_RC):
        yield Figure(figsize=(width, height), layout="constrained").add_subplot()


def _svg(axes):
    """The bytes of a drawn figure; the same for the same numbers."""
    text = io.StringIO()
    axes.figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    head, tag, body = text.getvalue().partition("<defs>")
    svg = f"{head}{_STYLE}{tag}{body}"
    return svg.replace(_INK, "var(--ink)").encode()


def curves(lines, ylabel):
    """Numbers over epochs: a colour and a marker per set, a line per seed.

    lines: {set: [((epoch, number), ...) of each seed]}.
    """
    with _axes(5.6, 3.4) as axes:
        for i, (name, seeds) in enumerate(lines.items()):
            for seed, points in enumerate(seeds):
                axes.plot(*zip(*points, strict=True), color=COLOURS[i % len(COLOURS)],
                          marker=MARKERS[i % len(MARKERS)], markersize=4, linewidth=1.6,
                          label=_plain(name) if seed == 0 else None)
        axes.set(xlabel="epoch", ylabel=ylabel, xlim=(0, None))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False)
        return _svg(axes)


def histogram(shares, edges, means, xlabel):
    """Shares of pairs over bins, an outline per set, and below it a marker at its mean.

    shares: {set: [bins]}. edges: [bins + 1]. means: {set: number}.
    """
    with _axes(5.6, 3.4) as axes:
        top = max(map(max, shares.values()))
        for i, (name, values) in enumerate(shares.items()):
            colour = COLOURS[i % len(COLOURS)]
            axes.stairs(values, edges, color=colour, linewidth=1.8, label=_plain(name))
            axes.stairs(values, edges, color=colour, alpha=0.12, fill=True)
            axes.plot(means[name], -0.04 * top, MARKERS[i % len(MARKERS)], color=colour,
                      markersize=7, clip_on=False)
        used = np.nonzero(np.max(list(shares.values()), axis=0))[0]
        axes.set(xlabel=xlabel, ylabel="share of pairs", ylim=(-0.08 * top, None),
                 xlim=(edges[used[0]], edges[used[-1] + 1]))
        axes.legend(frameon=False, loc="upper left")
        return _svg(axes)


def scatter(points, labels, names, limits):
    """Points of the plane, a colour and a marker per class, the class's name above its middle.

    points: [n, 2]. labels: [n]. names: {label: words}. limits: ((x, x), (y, y)).
    """
    with _axes(4.4, 4.2) as axes:
        for i, (label, name) in enumerate(names.items()):
            own = points[labels == label]
            if not len(own):
                continue
            colour = COLOURS[i % len(COLOURS)]
            axes.scatter(*own.T, s=24, color=colour, marker=MARKERS[i % len(MARKERS)],
                         linewidths=0, alpha=0.8)
            x, y = np.median(own, axis=0)
            top = own[np.abs(own[:, 0] - x) < 0.1 * np.ptp(limits[0])]
            axes.annotate(_plain(name), (x, top[:, 1].max() if len(top) else y), (0, 4),
                          textcoords="offset points", ha="center", fontsize=9)
        axes.set(xticks=[], yticks=[], xlim=limits[0], ylim=limits[1])
        axes.spines[["left", "bottom"]].set_visible(False)
        return _svg(axes)


def _plain(text):
    """A name that matplotlib shows as it is, and not as mathematics; long ones are cut."""
    text = str(text).replace("$", r"\$")
    return text if len(text) <= 28 else text[:27] + "…"
