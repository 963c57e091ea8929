import math

import pytest

from report import verdicts


def test_sampling_error_by_hand():
    assert math.isclose(verdicts.sampling_error(90.0, 400), 1.5)


def test_spread_over_seeds():
    assert verdicts.spread([97.64]) == "97.6"
    assert verdicts.spread([97.0, 99.0]) == "98.0 ± 1.4"
    assert verdicts.spread([0.2, 0.4], 3) == "0.300 ± 0.141"


def test_a_paired_t_test_by_hand():
    """The differences are 1, 2 and 6: their mean is 3, s^2 is (4 + 1 + 9) / 2 = 7."""
    found = verdicts.verdict([51.0, 62.0, 76.0], [50.0, 60.0, 70.0])
    t = 3 / (7 / 3) ** 0.5
    assert (found.word, found.difference) == (verdicts.UNSURE, pytest.approx(3.0))
    assert found.error == pytest.approx((7 / 3) ** 0.5)
    # Student's distribution function with 2 degrees of freedom is 1/2 + t / (2 sqrt(t^2 + 2)).
    assert found.p == pytest.approx(1 - t / math.sqrt(t**2 + 2))
    # It is 0.975 at t = 4.3027.
    margin = 4.3027 * (7 / 3) ** 0.5
    assert found.interval == pytest.approx((3 - margin, 3 + margin), abs=1e-3)


def test_a_difference_counts_from_5_percent_on():
    """With 2 degrees of freedom t is 4.303 at 5 %, here with an error of 1."""
    spread = 3**0.5
    for shift, word in ((4.31, verdicts.HOLDS), (4.29, verdicts.UNSURE), (-4.31, verdicts.FAILS)):
        higher = [50.0 + shift - spread, 60.0 + shift, 70.0 + shift + spread]
        assert verdicts.verdict(higher, [50.0, 60.0, 70.0]).word == word


def test_what_tells_nothing():
    """One seed has no spread, and neither have equal differences."""
    assert verdicts.verdict([5.0], [6.5]) == verdicts.Verdict(verdicts.UNSURE, -1.5)
    assert verdicts.verdict([5.0, 6.0], [6.0, 7.0]).word == verdicts.UNSURE
    with pytest.raises(ValueError, match="zip"):
        verdicts.verdict([5.0, 6.0], [6.0])
