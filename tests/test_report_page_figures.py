import xml.etree.ElementTree as ET

import numpy as np

from report import page_figures

HOSTILE = "<script>$\\frac$</script>&"


def texts(svg):
    root = ET.fromstring(svg)
    return ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]


def test_curves_have_a_line_per_seed_and_a_legend_per_set():
    lines = {HOSTILE: [((1, 10.0), (2, 20.0)), ((1, 11.0), (2, 21.0))], "B": [((1, 5.0),)]}
    svg = page_figures.curves(lines, "top-1 (%)")
    assert texts(svg).count("B") == 1
    assert HOSTILE in texts(svg)
    assert "top-1 (%)" in texts(svg)
    assert svg.count(b"stroke: #0072b2") > svg.count(b"stroke: #d55e00")


def test_the_colour_of_text_is_the_readers():
    svg = page_figures.curves({"A": [((1, 10.0),)]}, "y")
    assert b"#000000" not in svg
    assert b"var(--ink)" in svg
    assert b"prefers-color-scheme:dark" in svg


def test_figures_are_the_same_bytes_twice():
    points, labels = np.arange(12.0).reshape(6, 2), np.array([0, 0, 0, 2, 2, 2])
    first, second = (page_figures.scatter(points, labels, {0: "cat", 2: "dog", 1: "none"},
                                          ((0, 12), (0, 12))) for _ in range(2))
    assert first == second
    assert {"cat", "dog"} <= set(texts(first))
    assert "none" not in texts(first)  # has no image here


def test_a_panel_of_another_module_is_in_the_pages_style():
    svg = page_figures.panel(lambda axes, name: axes.plot([0, 1], color="black", label=name), "A")
    assert b"#000000" not in svg
    assert b"stroke: var(--ink)" in svg
