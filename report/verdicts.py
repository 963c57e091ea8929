"""Whether measured numbers agree with the paper's orderings, and how sure a few seeds make it."""

import math
import statistics
from dataclasses import dataclass

HOLDS, FAILS, UNSURE = "holds", "does not hold", "cannot be told"
LEVEL = 0.05  # of every test


def spread(values):
    """"97.6", or "97.6 ± 0.3" with the standard deviation over seeds."""
    text = f"{statistics.mean(values):.1f}"
    return text if len(values) < 2 else f"{text} ± {statistics.stdev(values):.1f}"


def standard_error(values):
    """Standard error of a mean over seeds: s / sqrt(n), s with n - 1; None for one seed."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


@dataclass(frozen=True)
class Shared:
    """One standard deviation over seeds for all rows of a table, and its degrees of freedom."""

    deviation: float
    freedom: int


def shared_deviation(rows):
    """The Shared deviation of rows whose own ones differ no more than chance makes them.

    A few seeds of one row tell little of its spread, so rows that are alike lend each other
    theirs: s^2 = sum of squared deviations from each row's mean / sum of (n - 1). Returns None
    where Bartlett's test rejects equal spreads at 5 %, a row is constant, or no seed is repeated.
    rows: lists of numbers over seeds; those with one number are left out, and a row that is in a
    table twice counts once.
    """
    rows = [row for row in dict.fromkeys(map(tuple, rows)) if len(row) > 1]
    if not rows or any(len(set(row)) == 1 for row in rows):
        return None
    if len(rows) > 1 and stats().bartlett(*rows).pvalue < LEVEL:
        return None
    freedom = sum(len(row) - 1 for row in rows)
    squares = sum(statistics.variance(row) * (len(row) - 1) for row in rows)
    return Shared(math.sqrt(squares / freedom), freedom)


def stats():
    """scipy.stats, whose import takes longer than most commands that only need means."""
    import scipy.stats

    return scipy.stats


@dataclass(frozen=True)
class Verdict:
    """Of a claim: HOLDS, FAILS or UNSURE; the difference of means, its standard error, and the
    probability of a difference so large between equal rows (two-sided t-test).

    error and p are None where a row has one seed and no other row's spread helps.
    """

    word: str
    difference: float
    error: float | None = None
    p: float | None = None


def verdict(higher, lower, shared=None):
    """Judge the claim that `higher` is above `lower`, as a Verdict.

    higher, lower: numbers over seeds, n and m of them. shared: a Shared deviation s: Student's
    t-test with error s sqrt(1/n + 1/m). None: each row's own, s_1 and s_2: Welch's t-test with
    error sqrt(s_1^2/n + s_2^2/m) and (s_1^2/n + s_2^2/m)^2 / ((s_1^2/n)^2/(n-1) +
    (s_2^2/m)^2/(m-1)) degrees of freedom. A difference counts where p is below 5 %.
    """
    difference = statistics.mean(higher) - statistics.mean(lower)
    n, m = len(higher), len(lower)
    if shared is not None:
        error, freedom = shared.deviation * math.sqrt(1 / n + 1 / m), shared.freedom
    elif min(n, m) > 1:
        parts = [statistics.variance(row) / len(row) for row in (higher, lower)]
        error = math.sqrt(sum(parts))
        if not error:
            return Verdict(UNSURE, difference, error)
        freedom = sum(parts) ** 2 / sum(part**2 / (len(row) - 1) for part, row in
                                        zip(parts, (higher, lower), strict=True))
    else:
        return Verdict(UNSURE, difference)

    p = 2 * float(stats().t.sf(abs(difference) / error, freedom))
    word = UNSURE if p >= LEVEL else HOLDS if difference > 0 else FAILS
    return Verdict(word, difference, error, p)


def judge(claims, values, papers, titles):
    """Judge each claim, as a list of (claim in words, Verdict).

    The words are a dict: higher and lower are titles, paper is the difference in the paper, None
    where it gives none. claims: objects whose higher and lower are names of cells; a claim about a
    cell without values is left out. values: {cell: numbers over seeds}. papers, titles: {cell: the
    paper's number, its title}.
    """
    shared, judged = shared_deviation(list(values.values())), []
    for claim in claims:
        higher, lower = claim.higher, claim.lower
        if higher in values and lower in values:
            words = {"higher": titles[higher], "lower": titles[lower],
                     "paper": _difference(papers[higher], papers[lower])}
            judged.append((words, verdict(values[higher], values[lower], shared)))
    return judged


def _difference(higher, lower):
    return None if None in (higher, lower) else higher - lower
