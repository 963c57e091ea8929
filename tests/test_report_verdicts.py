import math

from report import verdicts


def test_sampling_error_by_hand():
    assert math.isclose(verdicts.sampling_error(90.0, 400), 1.5)


def test_spread_over_seeds():
    assert verdicts.spread([97.64]) == "97.6"
    assert verdicts.spread([97.0, 99.0]) == "98.0 ± 1.4"
    assert verdicts.spread([0.2, 0.4], 3) == "0.300 ± 0.141"
