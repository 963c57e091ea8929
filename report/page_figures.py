"""Figures of the page as SVG, whose text is text and follows light and dark: numbers in, bytes out.
"""

import contextlib
import io

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from utils.plots import MARKERS, style_of
from utils.text import printable

_INK = "#000000"  # becomes the colour of the page's text
# What matplotlib leaves black needs no colour in SVG, and has the whole picture's.
_STYLE = """<style>svg{--ink:#1f2328;fill:var(--ink)}
@media(prefers-color-scheme:dark){svg{--ink:#e6edf3}}</style>"""
_RC = {"svg.fonttype": "none", "svg.hashsalt": "page", "font.family": "sans-serif",
       "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
       "grid.alpha": 0.15, "legend.frameon": False, **dict.fromkeys(
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
    with _axes(4.8, 3.1) as axes:
        for i, (name, seeds) in enumerate(lines.items()):
            colour, marker = style_of(i, MARKERS)
            for seed, points in enumerate(seeds):
                axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=4,
                          linewidth=1.6, label=plain(name) if seed == 0 else None)
        axes.set(xlabel="epoch", ylabel=ylabel, xlim=(0, None))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
        return _svg(axes)


def panel(draw, *what):
    """A figure that another module draws: draw(axes, *what)."""
    with _axes(4.8, 3.1) as axes:
        draw(axes, *what)
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
            colour, marker = style_of(i, MARKERS)
            axes.scatter(*own.T, s=24, color=colour, marker=marker, linewidths=0, alpha=0.8)
            middle = np.median(own, axis=0)
            near = own[(np.abs(own - middle) < 0.08 * np.ptp(limits, axis=1)).all(axis=1)]
            top = near[:, 1].max() if len(near) else middle[1]
            axes.annotate(plain(name), (middle[0], top), (0, 4), textcoords="offset points",
                          ha="center", fontsize=9)
        axes.set(xticks=[], yticks=[], xlim=limits[0], ylim=limits[1])
        axes.spines[["left", "bottom"]].set_visible(False)
        return _svg(axes)


def plain(text):
    """A name that matplotlib shows as it is, and not as mathematics; long ones are cut."""
    text = printable(text).replace("$", r"\$")
    return text if len(text) <= 28 else text[:27] + "…"
