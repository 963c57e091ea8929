"""How matplotlib figures look, and saving them."""

from pathlib import Path

from utils.files import written_whole

# Okabe and Ito's colours, which people with any kind of colour vision tell apart. Their yellow is
# left out: it is too light on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P")
LINES = ("-", "--", ":", "-.")


def style_of(i, shapes):
    """(colour, shape) of the i-th thing in a figure; both differ from one to the next.

    shapes: MARKERS or LINES. 28 things differ with LINES, 42 with MARKERS.
    """
    return COLOURS[i % len(COLOURS)], shapes[i % len(shapes)]


def save_figure(figure, path, dpi=150):
    """Write a figure whole or not at all, in the format of the suffix: .png, .pdf or .svg."""
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format=Path(path).suffix[1:])
