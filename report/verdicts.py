"""Whether measured numbers say what the paper's say: orderings of rows, and how sure a few seeds are of them."""

import math
import statistics

HOLDS, FAILS, UNSURE = "holds", "does not hold", "cannot be told"


def spread(values):
    """"97.6", or "97.6 ± 0.3" (standard deviation over seeds)."""
    text = f"{statistics.mean(values):.1f}"
    return text if len(values) < 2 else f"{text} ± {statistics.stdev(values):.1f}"


def standard_error(values):
    """Of a mean over seeds: s / sqrt(n), s with n - 1; None for one seed."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def pooled_deviation(rows):
    """The standard deviation over seeds, from all rows of a table together: a few seeds of a single row cannot tell theirs.

    rows: lists of numbers. sqrt(sum of squared deviations from each row's mean / sum of (n - 1)); None without repeated seeds.
    """
    freedom = sum(len(row) - 1 for row in rows)
    if freedom < 1:
        return None
    return math.sqrt(sum((v - statistics.mean(row)) ** 2 for row in rows for v in row) / freedom)


def verdict(higher, lower, deviation):
    """(HOLDS, FAILS or UNSURE, difference, its standard error) of the claim that `higher` is above `lower`.

    higher, lower: numbers over seeds. deviation: of one number over seeds, pooled; None: UNSURE. The error of the difference is
    deviation * sqrt(1/n + 1/m); a difference counts from two of them.
    """
    difference = statistics.mean(higher) - statistics.mean(lower)
    if deviation is None:
        return UNSURE, difference, None
    error = deviation * math.sqrt(1 / len(higher) + 1 / len(lower))
    if abs(difference) < 2 * error or difference == 0:
        return UNSURE, difference, error
    return HOLDS if difference > 0 else FAILS, difference, error


def judge(claims, values, papers, titles):
    """A dict per claim: higher, lower (titles), paper (difference there), difference, error, verdict.

    claims: Claims. values: {cell name: numbers over seeds}; claims about other cells are left out. papers, titles: by cell name.
    """
    deviation, found = pooled_deviation(list(values.values())), []
    for claim in claims:
        if claim.higher in values and claim.lower in values:
            word, difference, error = verdict(values[claim.higher], values[claim.lower], deviation)
            found.append({"higher": titles[claim.higher], "lower": titles[claim.lower],
                          "paper": papers[claim.higher] - papers[claim.lower], "difference": difference, "error": error,
                          "verdict": word})
    return found
