"""What the laboratory's numbers say of the paper's orderings."""

import math

import pytest

from report import verdicts
from reproduce import lab_report, table2
from reproduce.cells import Claim


def lab_lines(seeds=(0, 1)):
    """Table 2's rows: real and multi4 are far above the others, which are equal."""
    top1 = {"real": 90.0, "multi4": 70.0}
    return [{"row": cell.name, "seed": seed, "ipc": 10, "iteration": 100, "epochs": 50,
             "best_top1": top1.get(cell.name, 60.0) + seed,
             "last_top1": top1.get(cell.name, 60.0) + seed - 1}
            for cell in table2.TABLE.cells for seed in seeds]


def test_rows_and_verdicts(tmp_path):
    lab_report.write_csv(lab_lines(), tmp_path / "digits_table2.csv")
    lines = lab_report.read_csv(tmp_path / "digits_table2.csv")
    assert lines == lab_lines()
    assert lab_report.sizes_words(lines) == (
        "IPC 10, 100 steps, 50 epochs, 2 seeds of images, labels and student")
    text = lab_report.markdown(table2.TABLE, lines)
    assert "| real data | 70 | 90.5 ± 0.5 | 89.5 ± 0.5 |" in text
    assert "Of the paper's 10 orderings: 3 hold, 0 do not hold, 7 cannot be told." in text
    assert ("- holds: real data above 4 BN teachers, pre-distillation (the paper +30.9, here "
            "+20.0 ± 0.7)") in text


def test_one_seed_tells_nothing():
    text = lab_report.markdown(table2.TABLE, lab_lines(seeds=(0,)))
    assert "10 cannot be told (one seed tells nothing)" in text
    assert "| real data | 70 | 90.0 | 89.0 |" in text


def test_verdicts_by_hand():
    # The deviations from the means are (1, -1) and (2, -2): their squares add up to 10, freedom 2.
    deviation = verdicts.pooled_deviation([[51.0, 49.0], [42.0, 38.0]])
    assert math.isclose(deviation, 5**0.5)
    # The error of the difference is sqrt(5) * sqrt(1/2 + 1/2), and two of them count.
    holds = verdicts.verdict([51.0, 49.0], [42.0, 38.0], deviation)
    assert holds == (verdicts.HOLDS, 10.0, pytest.approx(5**0.5))
    for higher, lower, word in (([42.0, 38.0], [51.0, 49.0], verdicts.FAILS),
                                ([51.0, 49.0], [48.0, 44.0], verdicts.UNSURE),  # 4 < 4.47
                                ([51.0, 49.0], [47.0, 44.0], verdicts.HOLDS)):  # 4.5 > 4.47
        assert verdicts.verdict(higher, lower, deviation)[0] == word
    assert verdicts.verdict([51.0, 49.0, 50.0], [47.0], deviation)[2] == pytest.approx(
        5**0.5 * (4 / 3) ** 0.5)


def test_claims_about_missing_rows_are_left_out():
    names = {"a": 50.0, "b": 40.0}
    found = verdicts.judge([Claim("a", "b"), Claim("b", "c")], {"a": [5.0, 5.2], "b": [9.0, 9.2]},
                           names, names)
    assert [(f["higher"], f["paper"], f["verdict"]) for f in found] == [
        (50.0, 10.0, verdicts.FAILS)]
