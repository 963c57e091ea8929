"""The paper's orderings of a laboratory's rows."""

import pytest

from report.verdicts import FAILS, HOLDS, UNSURE
from reproduce import lab_orderings, table2
from reproduce.laboratory import LABORATORIES

FASHION = LABORATORIES["fashion_mnist"]


def judged(higher, lower):
    """The Ordering of Table 2 that is +14.1 in the paper."""
    values = {"single-pre": higher, "single-intra": lower}
    (ordering,) = lab_orderings.orderings(table2.TABLE, values)
    return ordering


@pytest.mark.parametrize(("differences", "word", "smaller"), [
    ((1.0, 2.0, 3.0), UNSURE, True),     # 2 ± 4.303 / sqrt(3): up to 4.5
    ((-3.0, 0.0, 9.0), UNSURE, False),   # 2 ± 4.303 * 3.606: up to 17.5
    ((1.9, 2.0, 2.1), HOLDS, False),
    ((-1.9, -2.0, -2.1), FAILS, False)])
def test_what_is_below_the_paper(differences, word, smaller):
    lower = [50.0, 55.0, 53.0]
    ordering = judged([b + d for b, d in zip(lower, differences, strict=True)], lower)
    assert ordering.paper == pytest.approx(32.4 - 18.3)
    assert (ordering.verdict.word, ordering.is_smaller) == (word, smaller)


def test_one_seed_is_not_below_the_paper():
    assert not judged([50.0], [50.0]).is_smaller


def test_students_are_judged_apart():
    values = {f"{row} {word}": [60.0, 61.0] for row in ("prism-real-0.05", "sre2l-real-0.05")
              for word in ("soft", "hard")}
    found = lab_orderings.orderings(FASHION.parts["settings"].table, values)
    assert [(ordering.student, ordering.paper, ordering.words) for ordering in found] == [
        (word, None, "PRISM from real images, lr 0.05 above SRe2L from real images, lr 0.05")
        for word in ("soft", "hard")]


def test_the_panel_is_part_of_a_row_s_name():
    cell = LABORATORIES["fashion_mnist"].parts["table3-labels"].cells[0]
    assert lab_orderings.label(cell) == f"labels: {cell.title}"
