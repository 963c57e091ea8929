"""What the laboratory's numbers say of the paper's orderings."""

import math

import pytest

from report import verdicts
from reproduce import lab_report, table2
from reproduce.cells import Claim
from reproduce.laboratory import LABORATORIES

DIGITS, FASHION = LABORATORIES["digits"], LABORATORIES["fashion_mnist"]


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
    text = lab_report.markdown(DIGITS, "table2", lines)
    assert "| real data | 70 | 90.5 ± 0.5 | 89.5 ± 0.5 |" in text
    assert "Of 10 orderings: 3 hold, 0 do not hold, 7 cannot be told." in text
    assert ("- holds: real data above 4 BN teachers, pre-distillation (the paper +30.9, here "
            "+20.0 ± 0.7, p < 0.001)") in text


def test_one_seed_tells_nothing():
    text = lab_report.markdown(DIGITS, "table2", lab_lines(seeds=(0,)))
    assert "10 cannot be told (one seed tells nothing)" in text
    assert "| real data | 70 | 90.0 | 89.0 |" in text


def test_alike_rows_share_one_spread():
    # The deviations from the means are (1, -1) and (2, -2): their squares add up to 10, freedom 2.
    shared = verdicts.shared_deviation([[51.0, 49.0], [42.0, 38.0], [7.0], [51.0, 49.0]])
    assert (shared.deviation, shared.freedom) == (pytest.approx(5**0.5), 2)
    # The error of the difference is sqrt(5) * sqrt(1/2 + 1/2). With 2 degrees of freedom Student's
    # t is 4.303 at 5 %, and its distribution function is 1/2 + t / (2 sqrt(t^2 + 2)).
    found = verdicts.verdict([51.0, 49.0], [42.0, 38.0], shared)
    t = 10 / 5**0.5
    assert (found.word, found.difference, found.error) == (
        verdicts.HOLDS, 10.0, pytest.approx(5**0.5))
    assert found.p == pytest.approx(1 - t / math.sqrt(t**2 + 2))
    for higher, lower, word in (([42.0, 38.0], [52.0, 48.0], verdicts.FAILS),
                                ([51.0, 49.0], [42.4, 38.4], verdicts.UNSURE),  # 9.6 < 9.621
                                ([51.0, 49.0], [42.3, 38.3], verdicts.HOLDS)):  # 9.7 > 9.621
        assert verdicts.verdict(higher, lower, shared).word == word
    assert verdicts.verdict([51.0, 49.0, 50.0], [47.0], shared).error == pytest.approx(
        5**0.5 * (4 / 3) ** 0.5)


def test_rows_of_unlike_spread_are_judged_by_their_own():
    """Welch's test, with numbers worked out by hand."""
    steady, wild = [50.0, 50.1, 49.9], [60.0, 70.0, 50.0]
    assert verdicts.shared_deviation([steady, wild]) is None
    # s^2/n: 0.01/3 and 100/3; freedom: (a + b)^2 / (a^2/2 + b^2/2) = 2.0004
    found = verdicts.verdict(wild, steady)
    assert (found.word, found.difference) == (verdicts.UNSURE, pytest.approx(10.0))
    assert found.error == pytest.approx(math.sqrt(100.01 / 3))
    t = 10 / found.error
    assert found.p == pytest.approx(1 - t / math.sqrt(t**2 + 2), abs=1e-3)
    assert verdicts.verdict(steady, [49.0, 48.9, 49.1]).word == verdicts.HOLDS


def test_what_tells_nothing():
    """A row of one seed has no spread, and neither has a constant one."""
    assert verdicts.shared_deviation([[5.0], [6.0]]) is None
    assert verdicts.verdict([5.0], [6.0, 7.0]) == verdicts.Verdict(verdicts.UNSURE, -1.5)
    assert verdicts.shared_deviation([[5.0, 5.0], [6.0, 7.0]]) is None
    assert verdicts.verdict([5.0, 5.0], [6.0, 6.0]).word == verdicts.UNSURE


def test_claims_about_missing_rows_are_left_out():
    names = {"a": 50.0, "b": 40.0}
    found = verdicts.judge([Claim("a", "b"), Claim("b", "c")], {"a": [5.0, 5.2], "b": [9.0, 9.2]},
                           names, names)
    assert [(words["higher"], words["paper"], v.word) for words, v in found] == [
        (50.0, 10.0, verdicts.FAILS)]


def test_students_are_columns_and_judged_apart():
    """PRISM wins with soft labels; hard labels vary too much to tell."""
    lines = []
    for row, (soft, hard) in {"prism": (60.0, 50.0), "sre2l": (50.0, 49.0)}.items():
        for word, top1, spread in (("soft", soft, 0.5), ("hard", hard, 20.0)):
            for seed in (0, 1):
                lines.append({"row": f"{row}-real-0.05 {word}", "seed": seed, "ipc": 10,
                              "iteration": 200, "epochs": 100, "best_top1": 99.0,
                              "last_top1": top1 + spread * seed, "cosine": 0.9, "moved": None})
    text = lab_report.markdown(FASHION, "settings", lines)
    # Nothing moved, and the paper has no such rows: these columns are left out.
    assert "| images | soft labels | hard labels | cosine within a class |\n" in text
    assert "| PRISM from real images, lr 0.05 | 60.2 ± 0.2 | 60.0 ± 10.0 | 0.900 |\n" in text
    assert "Of 2 orderings: 1 hold, 0 do not hold, 1 cannot be told." in text
    assert "with soft labels Student's, with one run's standard deviation over seeds" in text
    assert "from all rows, 0.4 points; with hard labels " in text
    assert ("- holds (soft labels): PRISM from real images, lr 0.05 above SRe2L from real images, "
            "lr 0.05 (here +10.0 ± 0.4, p 0.001)") in text


def test_a_part_s_note_follows_its_table():
    lines = [{"row": "random hard", "seed": seed, "ipc": 10, "iteration": 200, "epochs": 300,
              "best_top1": 73.0, "last_top1": 73.0 + seed} for seed in (0, 1)]
    text = lab_report.markdown(FASHION, "methods", lines)
    assert text.index("73.5 ± 0.5") < text.index("random real images 73.8, herding 71.1")
    assert "The paper has no ordering of these rows." in text


def test_the_picture_has_a_panel_per_part_and_student():
    lines = [{**line, "row": f"{line['row']} hard"} for line in lab_lines()]
    figure = lab_report.draw(FASHION, {"table2": lines})
    assert [axes.get_title().split(":")[0] for axes in figure.axes] == ["table2, hard labels"]
