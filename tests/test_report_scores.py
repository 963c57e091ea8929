import math

import pytest

from report import scores


def test_lrs_by_hand():
    # HLR = 0.9 - 0.7 = 0.2, IOR = 0.8 - 0.75 = 0.05, alpha = 0.025 - 0.1 = -0.075
    expected = (math.exp(-0.075) - math.exp(-1)) / (math.exp(1) - math.exp(-1))
    assert math.isclose(expected, 0.2381992, abs_tol=1e-6)
    assert math.isclose(scores.label_robust_score(0.9, 0.7, 0.8, 0.75), expected)


def test_ars_by_hand():
    # beta = (0.8 - 0.7) / 2 + (0.5 - 0.6) / 4 * 2 = 0: the score of a random subset itself
    assert math.isclose(scores.augmentation_robust_score(0.8, 0.7, 0.5, 0.6),
                        (1 - math.exp(-1)) / (math.e - math.exp(-1)))
    # beta = 0.25 * 0.1 + 0.75 * 0.2 = 0.175
    assert math.isclose(scores.augmentation_robust_score(0.8, 0.7, 0.5, 0.3, weight=0.25),
                        0.3503089, abs_tol=1e-6)


def test_the_ends_are_0_and_1():
    assert scores.label_robust_score(1, 0, 0, 1) == 0
    assert scores.label_robust_score(0, 1, 1, 0) == 1


def test_per_cent_is_refused():
    with pytest.raises(ValueError, match="accuracy 56.5, expected a fraction"):
        scores.label_robust_score(56.5, 0.7, 0.8, 0.75)
