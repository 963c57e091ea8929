import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from utils.plots import COLOURS, LINES, MARKERS, save_figure, style_of


@pytest.mark.parametrize(("shapes", "count"), [(LINES, 28), (MARKERS, 42)])
def test_things_differ_in_more_than_colour(shapes, count):
    styles = [style_of(i, shapes) for i in range(count)]
    assert len(set(styles)) == count
    for one, next_one in zip(styles, styles[1:], strict=False):
        assert one[0] != next_one[0]
        assert one[1] != next_one[1]


def test_every_colour_is_dark_enough_on_white():
    for colour in COLOURS:
        r, g, b = to_rgb(colour)
        assert 0.2126 * r + 0.7152 * g + 0.0722 * b < 0.75


def test_a_figure_is_saved_in_the_format_of_its_name_or_not_at_all(tmp_path):
    figure = Figure()
    figure.add_subplot().plot([0, 1], [1, 0])
    for suffix, start in ((".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")):
        save_figure(figure, tmp_path / f"a{suffix}")
        assert (tmp_path / f"a{suffix}").read_bytes().startswith(start)
    with pytest.raises(ValueError, match="not supported"):
        save_figure(figure, tmp_path / "a.mp3")
    assert not (tmp_path / "a.mp3").exists()
