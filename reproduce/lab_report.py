"""What the digits laboratory measured, in words: rows with standard errors, a verdict per ordering of the paper, a picture."""

import csv
import statistics

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from report.verdicts import FAILS, HOLDS, UNSURE, judge, pooled_deviation, standard_error
from reproduce import table2, table3
from utils.files import written_whole

TABLES = {module.TABLE.name: module.TABLE for module in (table2, table3)}
COLUMNS = ("row", "seed", "ipc", "iteration", "epochs", "best_top1", "last_top1")


def write_csv(lines, path):
    """A line per row and seed. lines: dicts with COLUMNS."""
    with written_whole(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def read_csv(path):
    """What write_csv wrote, numbers as numbers."""
    with open(path, newline="") as file:
        return [{name: text if name == "row" else float(text) if "top1" in name else int(text) for name, text in line.items()}
                for line in csv.DictReader(file)]


def by_row(lines):
    """{row: best top-1 per seed}, in the order of the lines."""
    values = {}
    for line in lines:
        values.setdefault(line["row"], []).append(line["best_top1"])
    return values


def sizes_words(lines):
    """"IPC 10, 100 steps, 50 epochs, 3 seeds"."""
    one = {name: sorted({line[name] for line in lines}) for name in ("ipc", "iteration", "epochs")}
    seeds = len({line["seed"] for line in lines})
    return (f"IPC {_either(one['ipc'])}, {_either(one['iteration'])} steps, {_either(one['epochs'])} epochs, {seeds} "
            f"seed{'s' if seeds != 1 else ''} of images, labels and student")


def _either(values):
    return " or ".join(map(str, values))


def markdown(name, lines):
    """The rows of a table and its verdicts, as Markdown."""
    table, values = TABLES[name], by_row(lines)
    text = ["| row | the paper, ImageNet-1K | digits, mean ± standard error | last epoch |", "|---|---|---|---|"]
    last = {}
    for line in lines:
        last.setdefault(line["row"], []).append(line["last_top1"])
    for row, numbers in values.items():
        cell = table.cell(row)
        text.append(f"| {_label(cell)} | {cell.paper:g} | {_with_error(numbers)} | {_with_error(last[row])} |")
    return "\n".join([*text, "", *verdict_lines(name, lines)])


def _label(cell):
    return f"{cell.words['panel']}: {cell.title}" if "panel" in cell.words else cell.title


def _with_error(numbers):
    error = standard_error(numbers)
    return f"{statistics.mean(numbers):.1f}" + ("" if error is None else f" ± {error:.1f}")


def verdict_lines(name, lines):
    """A line per ordering of the paper, and how many hold."""
    table, values = TABLES[name], by_row(lines)
    found = judge(table.claims, values, {c.name: c.paper for c in table.cells}, {c.name: _label(c) for c in table.cells})
    deviation = pooled_deviation(list(values.values()))
    counts = ", ".join(f"{sum(f['verdict'] == word for f in found)} {plural}" for word, plural in
                       ((HOLDS, "hold"), (FAILS, "do not hold"), (UNSURE, "cannot be told")))
    if deviation is None:
        head = f"Of the paper's {len(found)} orderings: {counts} (one seed tells nothing)."
    else:
        head = (f"Of the paper's {len(found)} orderings: {counts}. A difference counts from two standard errors of it; one run's "
                f"standard deviation over seeds is {deviation:.1f} points, from all rows together. That leaves out what the choice "
                "of 500 test digits and of one set of teachers adds, and by chance alone about one ordering in twenty would seem "
                "clear.")
    return [head, ""] + [_verdict_line(f) for f in found]


def _verdict_line(found):
    error = "" if found["error"] is None else f" ± {found['error']:.1f}"
    return (f"- {found['verdict']}: {found['higher']} above {found['lower']} (the paper {found['paper']:+.1f}, here "
            f"{found['difference']:+.1f}{error})")


def draw(measured, path):
    """A panel per table: mean ± standard error of each row. measured: {table: lines}."""
    rows = max(len(by_row(lines)) for lines in measured.values())
    figure = Figure(figsize=(6.5 * len(measured), 1.2 + 0.28 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, lines) in zip(figure.subplots(1, len(measured), squeeze=False)[0], measured.items(), strict=True):
        values = by_row(lines)
        heights = range(len(values), 0, -1)
        means = [statistics.mean(numbers) for numbers in values.values()]
        axes.errorbar(means, heights, xerr=[standard_error(n) or 0 for n in values.values()], fmt="o", capsize=3)
        for height, numbers in zip(heights, values.values(), strict=True):
            axes.plot(numbers, [height] * len(numbers), "|", color="tab:gray", alpha=0.6)
        axes.set_yticks(list(heights), [_label(TABLES[name].cell(row)) for row in values], fontsize=8)
        axes.set_xlabel("top-1 on the test digits (%): mean ± standard error; bars: seeds", fontsize=8)
        axes.set_title(f"{name}: {sizes_words(lines)}", fontsize=8)
        axes.grid(alpha=0.3)
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
