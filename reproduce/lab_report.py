"""What the digits laboratory measured: rows with standard errors, a verdict per ordering of the
paper, and a picture."""

import csv
import statistics

from report.verdicts import (
    FAILS,
    HOLDS,
    UNSURE,
    judge,
    pooled_deviation,
    standard_error,
)
from utils.files import write_bytes, written_whole

COLUMNS = ("row", "seed", "ipc", "iteration", "epochs", "best_top1", "last_top1")


def write_csv(lines, path, columns=COLUMNS):
    """Write a line per row and seed. lines: dicts with these columns."""
    with written_whole(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def read_csv(path):
    """The lines that write_csv wrote, with numbers as numbers."""
    def value(name, text):
        return text if name == "row" else float(text) if "top1" in name else int(text)

    with open(path, newline="") as file:
        return [{name: value(name, text) for name, text in line.items()}
                for line in csv.DictReader(file)]


def write_report(tables, measured, folder):
    """Write digits_lab.png and report.md into `folder`, and print the text.

    tables: {name: Table}. measured: {name: lines}.
    """
    draw(tables, measured, folder / "digits_lab.png")
    sections = [f"## {name}: {sizes_words(lines)}\n\n{markdown(tables[name], lines)}"
                for name, lines in measured.items()]
    text = "\n\n".join(sections)
    report = folder / "report.md"
    page = f"# Tables 2 and 3 on digits\n\n{text}\n\n![rows](digits_lab.png)\n"
    write_bytes(report, page.encode())
    print(f"\n{text}\n\nReport: {report}", flush=True)


def sizes_words(lines):
    """"IPC 10, 100 steps, 50 epochs, 3 seeds of images, labels and student"."""
    ipc, steps, epochs, seeds = (sorted({line[name] for line in lines})
                                 for name in ("ipc", "iteration", "epochs", "seed"))
    ipc, steps, epochs = (" or ".join(map(str, values)) for values in (ipc, steps, epochs))
    return (f"IPC {ipc}, {steps} steps, {epochs} epochs, "
            f"{len(seeds)} seed{'' if len(seeds) == 1 else 's'} of images, labels and student")


def markdown(table, lines):
    """The rows of a table and its verdicts, as Markdown."""
    best, last = by_row(lines, "best_top1"), by_row(lines, "last_top1")
    text = ["| row | the paper, ImageNet-1K | digits, mean ± standard error | last epoch |",
            "|---|---|---|---|"]
    for row in best:
        cell = table.cell(row)
        text.append(f"| {_label(cell)} | {cell.paper:g} | {_with_error(best[row])} "
                    f"| {_with_error(last[row])} |")
    return "\n".join([*text, "", *verdict_lines(table, best)])


def by_row(lines, column):
    """{row: numbers of a column, one per seed}, in the order of the lines."""
    values = {}
    for line in lines:
        values.setdefault(line["row"], []).append(line[column])
    return values


def _label(cell):
    return f"{cell.words['panel']}: {cell.title}" if "panel" in cell.words else cell.title


def _with_error(numbers):
    error = standard_error(numbers)
    return f"{statistics.mean(numbers):.1f}" + ("" if error is None else f" ± {error:.1f}")


def verdict_lines(table, values):
    """How many of the paper's orderings hold, and a line for each. values: {row: top-1 per seed}"""
    verdicts = judge(table.claims, values, {cell.name: cell.paper for cell in table.cells},
                     {cell.name: _label(cell) for cell in table.cells})
    counts = ", ".join(
        f"{sum(v['verdict'] == word for v in verdicts)} {plural}"
        for word, plural in ((HOLDS, "hold"), (FAILS, "do not hold"), (UNSURE, "cannot be told")))

    deviation = pooled_deviation(list(values.values()))
    head = f"Of the paper's {len(verdicts)} orderings: {counts}"
    if deviation is None:
        head += " (one seed tells nothing)."
    else:
        head += (
            ". A difference counts from two standard errors of it; one run's standard deviation "
            f"over seeds is {deviation:.1f} points, from all rows together. That leaves out what "
            "the choice of 500 test digits and of one set of teachers adds, and by chance alone "
            "about one ordering in twenty would seem clear.")
    return [head, "", *map(_verdict_line, verdicts)]


def _verdict_line(verdict):
    error = "" if verdict["error"] is None else f" ± {verdict['error']:.1f}"
    return (f"- {verdict['verdict']}: {verdict['higher']} above {verdict['lower']} (the paper "
            f"{verdict['paper']:+.1f}, here {verdict['difference']:+.1f}{error})")


def draw(tables, measured, path):
    """Draw a panel per table: mean ± standard error of each row, and the seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    values = {name: by_row(lines, "best_top1") for name, lines in measured.items()}
    height = 1.2 + 0.28 * max(map(len, values.values()))
    figure = Figure(figsize=(6.5 * len(measured), height), layout="constrained")
    FigureCanvasAgg(figure)

    panels = figure.subplots(1, len(measured), squeeze=False)[0]
    for axes, (name, lines) in zip(panels, measured.items(), strict=True):
        rows = values[name]
        heights = range(len(rows), 0, -1)
        axes.errorbar([statistics.mean(numbers) for numbers in rows.values()], heights,
                      xerr=[standard_error(numbers) or 0 for numbers in rows.values()],
                      fmt="o", capsize=3)
        for y, numbers in zip(heights, rows.values(), strict=True):
            axes.plot(numbers, [y] * len(numbers), "|", color="tab:gray", alpha=0.6)
        axes.set_yticks(list(heights), [_label(tables[name].cell(row)) for row in rows], fontsize=8)
        axes.set_xlabel("top-1 on the test digits (%): mean ± standard error; bars: seeds",
                        fontsize=8)
        axes.set_title(f"{name}: {sizes_words(lines)}", fontsize=8)
        axes.grid(alpha=0.3)
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
