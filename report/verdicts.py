"""Whether measured numbers agree with the paper's orderings, and how sure a few seeds make it."""

import math
import statistics

HOLDS, FAILS, UNSURE = "holds", "does not hold", "cannot be told"


def spread(values):
    """"97.6", or "97.6 ± 0.3" with the standard deviation over seeds."""
    text = f"{statistics.mean(values):.1f}"
    return text if len(values) < 2 else f"{text} ± {statistics.stdev(values):.1f}"


def standard_error(values):
    """Standard error of a mean over seeds: s / sqrt(n), s with n - 1; None for one seed."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def pooled_deviation(rows):
    """The standard deviation over seeds from all rows of a table: a few seeds of one are too few.

    rows: lists of numbers. sqrt(sum of squared deviations from each row's mean / sum of (n - 1));
    None without repeated seeds.
    """
    freedom = sum(len(row) - 1 for row in rows)
    if freedom < 1:
        return None
    squares = sum((v - statistics.mean(row)) ** 2 for row in rows for v in row)
    return math.sqrt(squares / freedom)


def verdict(higher, lower, deviation):
    """Judge the claim that `higher` is above `lower`.

    higher, lower: numbers over seeds, n and m of them. deviation: standard deviation of one number
    over seeds, pooled; None gives UNSURE.
    Returns HOLDS, FAILS or UNSURE; the difference of the means; and its standard error, deviation *
    sqrt(1/n + 1/m). A difference counts from two standard errors.
    """
    difference = statistics.mean(higher) - statistics.mean(lower)
    if deviation is None:
        return UNSURE, difference, None
    error = deviation * math.sqrt(1 / len(higher) + 1 / len(lower))
    if abs(difference) < 2 * error or difference == 0:
        return UNSURE, difference, error
    return HOLDS if difference > 0 else FAILS, difference, error


def judge(claims, values, papers, titles):
    """Judge each claim: a list of {"higher", "lower", "paper", "difference", "error", "verdict"}.

    higher and lower are titles, paper is the difference in the paper, None where it gives none.
    claims: objects whose higher and lower are names of cells; a claim about a cell without values
    is left out. values: {cell: numbers over seeds}. papers, titles: {cell: the paper's number, its
    title}.
    """
    deviation, judged = pooled_deviation(list(values.values())), []
    for claim in claims:
        higher, lower = claim.higher, claim.lower
        if higher in values and lower in values:
            word, difference, error = verdict(values[higher], values[lower], deviation)
            judged.append({"higher": titles[higher], "lower": titles[lower],
                           "paper": _difference(papers[higher], papers[lower]),
                           "difference": difference,
                           "error": error, "verdict": word})
    return judged


def _difference(higher, lower):
    return None if None in (higher, lower) else higher - lower
