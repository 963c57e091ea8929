"""Whether measured numbers agree with the paper's orderings, and how sure a few seeds make it."""

import math
import statistics
from dataclasses import dataclass

HOLDS, FAILS, UNSURE = "holds", "does not hold", "cannot be told"
LEVEL = 0.05  # of every test


def spread(values, digits=1):
    """"97.6", or "97.6 ± 0.3" with the standard deviation over seeds. digits: behind the point."""
    text = f"{statistics.mean(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {statistics.stdev(values):.{digits}f}"


def sampling_error(percent, count):
    """Standard error of a proportion p measured on n = `count` images, all in per cent.

    100 sqrt(p (1 - p) / n).
    """
    return 100 * math.sqrt(percent / 100 * (1 - percent / 100) / count)


def standard_error(values):
    """Standard error of a mean over seeds: s / sqrt(n), s with n - 1; None for one seed."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def stats():
    """scipy.stats, whose import takes longer than most commands that only need means."""
    import scipy.stats

    return scipy.stats


@dataclass(frozen=True)
class Verdict:
    """Of a claim: HOLDS, FAILS or UNSURE; the difference of means, its standard error, the
    probability of a difference so large between equal rows (two-sided t-test), and the two ends of
    the 95 % confidence interval of the difference.

    error is None for one seed, and p and interval where there is no error.
    """

    word: str
    difference: float
    error: float | None = None
    p: float | None = None
    interval: tuple | None = None


def verdict(higher, lower):
    """Judge the claim that `higher` is above `lower` by a paired t-test, as a Verdict.

    higher, lower: numbers over the same n seeds, in the same order. What a seed draws is the same
    for both rows (start images or noise, crops, the student's first weights), so each seed gives a
    difference d. With their standard deviation s, the error of the mean is s / sqrt(n), and
    mean / error has Student's t distribution with n - 1 degrees of freedom. A difference counts
    where p is below 5 %, which is where the 95 % confidence interval mean ± t error leaves out 0.
    Raises ValueError for other numbers of seeds.
    """
    differences = [a - b for a, b in zip(higher, lower, strict=True)]
    mean, error = statistics.mean(differences), standard_error(differences)
    if not error:
        return Verdict(UNSURE, mean, error)
    student = stats().t(len(differences) - 1)
    p = 2 * float(student.sf(abs(mean) / error))
    margin = float(student.isf(LEVEL / 2)) * error
    word = UNSURE if p >= LEVEL else HOLDS if mean > 0 else FAILS
    return Verdict(word, mean, error, p, (mean - margin, mean + margin))
