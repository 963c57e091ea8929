"""Pictures of a laboratory's rows and of the paper's orderings."""

import pytest

from report.verdicts import HOLDS, UNSURE
from reproduce import lab_pictures, table2
from reproduce.laboratory import LABORATORIES

FASHION = LABORATORIES["fashion_mnist"]


def lines(student, cells, top1=lambda place, seed: 60.0 + place + seed):
    return [{"row": f"{cell} {student}".strip(), "seed": seed, "last_top1": top1(place, seed)}
            for place, cell in enumerate(cells) for seed in range(3)]


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes if axes.axison]


def test_rows_have_a_line_per_part_and_a_panel_per_student():
    names = [cell.name for cell in table2.TABLE.cells]
    figure = lab_pictures.rows(FASHION, {
        "table2": lines("soft", names) + lines("hard", names),
        "table3-images": lines("", [c.name for c in FASHION.parts["table3-images"].cells])})
    assert titles(figure) == ["table2, hard labels", "table2, soft labels", "table3-images"]
    assert len(figure.axes) == 4  # the last is empty and not shown
    assert len(figure.axes[0].get_yticklabels()) == len(names)


def test_differences_are_beside_the_paper_s():
    """G-VBSM is 5.0 to 5.2 below SRe2L, against the paper's order; PRISM varies."""
    top1 = {"prism": (60.0, 50.0, 70.0), "sre2l": (50.0, 51.0, 52.0), "gvbsm": (45.0, 45.9, 46.8)}
    names = list(top1)
    measured = {"methods": lines("soft", names, lambda place, seed: top1[names[place]][seed])}
    figure = lab_pictures.differences(FASHION, measured)
    (axes,) = figure.axes
    assert titles(figure) == ["methods"]
    rows = [text.get_text() for text in axes.get_yticklabels()]
    assert rows == ["PRISM above G-VBSM", "PRISM above SRe2L", "G-VBSM above SRe2L"]

    points = [line for line in axes.get_lines() if len(line.get_xdata()) == 1]
    ours, paper = points[0::2], points[1::2]
    assert [line.get_xdata()[0] for line in ours] == pytest.approx([14.1, 9.0, -5.1])
    assert [line.get_xdata()[0] for line in paper] == pytest.approx([18.0, 28.1, 10.1])
    assert [line.get_ydata()[0] for line in ours] == [3, 2, 1]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [HOLDS, "does not hold", UNSURE, "the paper, on ImageNet-1K"]


def test_settings_of_ours_have_no_number_of_the_paper():
    rows = ["prism-real-0.05", "sre2l-real-0.05"]
    assert lab_pictures.differences(FASHION, {"settings": lines("soft", rows)}) is None
