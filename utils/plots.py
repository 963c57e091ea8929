"""Saving matplotlib figures."""

from pathlib import Path

from utils.files import written_whole


def save_figure(figure, path, dpi=150):
    """Write a figure whole or not at all, in the format of the suffix: .png, .pdf or .svg."""
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format=Path(path).suffix[1:])
