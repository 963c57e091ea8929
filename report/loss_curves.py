"""Loss terms over the steps of recover: the cross-entropy, and the BN term of each teacher."""

import numpy as np
from matplotlib.figure import Figure

from utils.errors import UserError
from utils.files import read_json
from utils.plots import COLOURS, LINES, save_figure, style_of

WORDS = {"ce": "cross-entropy"}
_FEW = 5  # points: fewer make no curve
_GRID = np.linspace(0, 100, 101)  # per cent of a unit's steps


def losses(options):
    """Draw the loss terms of some runs. options: Losses."""
    result = {name: read_terms(name, run) for name, run in options.sets.runs}
    for name, units in result.items():
        if max(len(rows) for _, rows in units) < _FEW:
            print(f"note: {name} keeps {max(len(rows) for _, rows in units)} steps of a unit; "
                  "recover --log-every 10 keeps more")
    save_figure(draw(result), options.sets.output)


def read_terms(name, run):
    """[(steps, [{"step", term: number}, ...])] of every unit that was optimised, from its record.

    Raises UserError for a set without such records.
    """
    records = [read_json(path, "recover") for path in sorted((run / "units").glob("*.json"))]
    units = [(record["steps"], record["terms"]) for record in records
             if record.get("terms") and "ce" in record["terms"][0]]
    if not units:
        raise UserError(f"{name}: no loss terms in {run / 'units'}. recover's records of images "
                        "by optimisation have them; leave this set out.")
    return units


def curves(units):
    """{term: [(per cent of the unit's steps, values)] for every unit that has it}."""
    result = {}
    for steps, rows in units:
        for term in dict.fromkeys(name for row in rows for name in row if name != "step"):
            points = [(100 * row["step"] / max(1, steps - 1), row[term])
                      for row in rows if term in row]
            result.setdefault(term, []).append(tuple(zip(*points, strict=True)))
    return result


def mean_curve(lines):
    """(per cent, mean) over the units of a term where all of them have values, interpolated."""
    first = max(x[0] for x, _ in lines)
    last = min(x[-1] for x, _ in lines)
    grid = np.array([x for x in _GRID if first <= x <= last])
    return grid, np.mean([np.interp(grid, x, values) for x, values in lines], axis=0)


def draw(result):
    """A column per set: cross-entropy above, BN terms below, a colour and line per teacher.

    result: {set: units as of read_terms}. Thin lines are units, thick ones their mean.
    """
    figure = Figure(figsize=(0.6 + 3.8 * len(result), 6.4), layout="constrained")
    grid = figure.subplots(2, len(result), sharex=True, sharey="row", squeeze=False)
    by_set = {name: curves(units) for name, units in result.items()}
    terms = dict.fromkeys(term for lines in by_set.values() for term in lines)
    teachers = [term for term in terms if term.startswith("bn ")]
    styles = {term: style_of(i, LINES) for i, term in enumerate(teachers)}
    styles |= {term: (COLOURS[-1], LINES[i]) for i, term in enumerate(
        term for term in terms if term not in teachers)}

    for (above, below), (name, lines) in zip(grid.T, by_set.items(), strict=True):
        for term, of_units in lines.items():
            _draw_term(below if term in teachers else above, of_units, *styles[term],
                       WORDS.get(term, term.removeprefix("bn ")))
        steps = sorted({steps for steps, _ in result[name]})
        units = f"{len(result[name])} unit" + ("s" if len(result[name]) > 1 else "")
        words = " to ".join(f"{count:,}" for count in dict.fromkeys((steps[0], steps[-1])))
        above.set_title(f"{name}: {units} of {words} steps", fontsize=10)
        below.set_xlabel("part of the steps (%)")
        below.set_yscale("log")
        below.legend(fontsize=8)
        for axes in (above, below):
            axes.grid(alpha=0.3)
    others = [WORDS.get(term, term) for term in terms if term not in teachers]
    if len(others) > 1:
        grid[0, 0].legend(fontsize=8)
    grid[0, 0].set(ylabel=" and ".join(others), ylim=(0, None))
    grid[1, 0].set_ylabel("BN term of a teacher, without its weight")
    return figure


def _draw_term(axes, lines, colour, line, label):
    if len(lines) > 1:
        for x, values in lines:
            axes.plot(x, values, color=colour, linewidth=0.6, alpha=0.3)
    axes.plot(*mean_curve(lines), color=colour, linestyle=line, linewidth=2, label=label)
