"""Pictures of what a laboratory measured: its rows, and its differences beside the paper's."""

import statistics

from report.verdicts import FAILS, HOLDS, UNSURE, standard_error
from reproduce.lab_orderings import by_row, label, orderings, students
from utils.plots import COLOURS

_COLOUR = {HOLDS: COLOURS[2], FAILS: COLOURS[1], UNSURE: "#888888"}
_PAPER = {"marker": "D", "color": "black", "markerfacecolor": "none", "linestyle": "none"}
_LINE = 0.22  # inches of a row
_FRAME = 0.75  # of a panel's title and axis


def rows(laboratory, measured):
    """Top-1 of each row: mean ± standard error, and the seeds. measured: {part: lines}.

    A line of panels per part, and a panel per student. Returns a matplotlib Figure.
    """
    parts = list(_parts(laboratory, measured))
    words = [students(table, values) or (None,) for _, table, values in parts]
    counts = [len(values) // len(own) for (*_, values), own in zip(parts, words, strict=True)]
    figure, grid = _stacked(counts, max(map(len, words)))

    for line, (name, table, values), own in zip(grid, parts, words, strict=True):
        for axes, word in zip(line, own, strict=False):
            panel = {row: numbers for row, numbers in values.items()
                     if table.cell(row).words.get("student") == word}
            _draw_rows(axes, panel)
            _finish(axes, f"{name}, {word} labels" if word else name,
                    [label(table.cell(row)) for row in panel])
        for axes in line[1:]:
            axes.tick_params(axis="y", labelleft=False)
        for axes in line[len(own):]:
            axes.set_axis_off()
    figure.supxlabel(f"top-1 on {laboratory.test_images} (%): mean ± standard error; bars: seeds",
                     fontsize=9)
    return figure


def _draw_rows(axes, values):
    heights = range(len(values), 0, -1)
    axes.errorbar([statistics.mean(numbers) for numbers in values.values()], heights,
                  xerr=[standard_error(numbers) or 0 for numbers in values.values()],
                  fmt="o", capsize=3, color=COLOURS[0])
    for y, numbers in zip(heights, values.values(), strict=True):
        axes.plot(numbers, [y] * len(numbers), "|", color="tab:gray", alpha=0.6)


def differences(laboratory, measured):
    """The orderings that the paper has numbers for, a panel per part and student.

    Each has a dot with its 95 % confidence interval, coloured by the verdict, and the paper's
    difference as a diamond. measured: {part: lines}. Returns a matplotlib Figure, or None where the
    paper has none of these numbers.
    """
    from matplotlib.lines import Line2D

    panels = _with_paper(laboratory, measured)
    if not panels:
        return None
    figure, grid = _stacked([len(judged) for judged in panels.values()])
    for (axes,), (title, judged) in zip(grid, panels.items(), strict=True):
        for y, ordering in zip(range(len(judged), 0, -1), judged, strict=True):
            v = ordering.verdict
            axes.plot(v.interval or (), [y, y] if v.interval else (), linewidth=2,
                      color=_COLOUR[v.word])
            axes.plot(v.difference, y, "o", color=_COLOUR[v.word])
            axes.plot(ordering.paper, y, **_PAPER)
        axes.axvline(0, color="black", linewidth=0.8)
        _finish(axes, title, [ordering.words for ordering in judged])

    grid[-1, 0].set_xlabel("difference of top-1, in points; bars: 95 % confidence interval",
                           fontsize=9)
    handles = [Line2D([], [], marker="o", linewidth=2, color=colour, label=word)
               for word, colour in _COLOUR.items()]
    handles.append(Line2D([], [], **_PAPER, label="the paper, on ImageNet-1K"))
    figure.legend(handles=handles, loc="outside upper center", ncols=4, fontsize=9, frameon=False)
    return figure


def _with_paper(laboratory, measured):
    """{title of a panel: its Orderings that the paper has numbers for}."""
    panels = {}
    for name, table, values in _parts(laboratory, measured):
        for ordering in orderings(table, values):
            if ordering.paper is not None:
                word = ordering.student
                title = f"{name}, {word} labels" if word else name
                panels.setdefault(title, []).append(ordering)
    return panels


def _parts(laboratory, measured):
    """(name, Table, {row: top-1 per seed}) of each part."""
    for name, lines in measured.items():
        part = laboratory.parts[name]
        yield name, part.table, by_row(lines, f"{part.judged}_top1")


def _stacked(counts, columns=1):
    """(Figure, array of axes) with a line of panels for each of these numbers of rows."""
    from matplotlib.figure import Figure

    heights = [_FRAME + _LINE * count for count in counts]
    figure = Figure(figsize=(10 if columns == 1 else 13, sum(heights) + 0.5), layout="constrained")
    return figure, figure.subplots(len(counts), columns, squeeze=False, height_ratios=heights)


def _finish(axes, title, names):
    """Title, the rows' names and a grid. names: from the top."""
    axes.set_yticks(range(len(names), 0, -1), names, fontsize=9)
    axes.set_ylim(0.4, len(names) + 0.6)
    axes.set_title(title, fontsize=10, loc="left")
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", alpha=0.3)
