"""What a laboratory measured: rows with standard errors, a verdict per ordering of the paper, and a
picture."""

import csv
import statistics

from report.verdicts import FAILS, HOLDS, UNSURE, standard_error, verdict
from utils.files import write_bytes, written_whole
from utils.plots import save_figure
from utils.progress import size_words

_WHOLE = ("seed", "ipc", "iteration", "epochs", "label_bytes")


def write_csv(lines, path, columns=None):
    """Write a line per row and seed. lines: dicts with these columns (default: those they have)."""
    with written_whole(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, columns or list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def read_csv(path):
    """The lines that write_csv wrote, with numbers as numbers and None for what is empty."""
    def value(name, text):
        if name == "row" or not text:
            return text or None
        return int(text) if name in _WHOLE else float(text)

    with open(path, newline="") as file:
        return [{name: value(name, text) for name, text in line.items()}
                for line in csv.DictReader(file)]


def write_report(laboratory, measured, folder):
    """Write lab.png and report.md into `folder`, and print the text.

    measured: {part: lines}.
    """
    save_figure(draw(laboratory, measured), folder / "lab.png", dpi=120)
    sections = [f"## {name}: {sizes_words(lines)}\n\n{markdown(laboratory, name, lines)}"
                for name, lines in measured.items()]
    text = "\n\n".join(sections)
    report = folder / "report.md"
    write_bytes(report, f"# {laboratory.title}\n\n{text}\n\n![rows](lab.png)\n".encode())
    print(f"\n{text}\n\nReport: {report}", flush=True)


def sizes_words(lines):
    """"IPC 10, 100 steps, 50 epochs, 3 seeds of images, labels and student"."""
    numbers = {name: sorted({line[name] for line in lines if line[name]})
               for name in ("ipc", "iteration", "epochs")}
    ipc, steps, epochs = (" or ".join(map(str, values)) for values in numbers.values())
    seeds = len({line["seed"] for line in lines})
    return (f"IPC {ipc}, {f'{steps} steps, ' if steps else ''}{epochs} epochs, "
            f"{seeds} seed{'' if seeds == 1 else 's'} of images, labels and student")


def markdown(laboratory, name, lines):
    """The rows of a part and its verdicts, as Markdown."""
    part = laboratory.parts[name]
    values = by_row(lines, f"{part.judged}_top1")
    students = _students(part.table, values)
    table = _wide(part, lines, values, students) if students else _long(part, lines, laboratory)
    note = [part.note, ""] if part.note else []
    return "\n".join([*table, "", *note, *verdict_lines(laboratory, part, values)])


def _long(part, lines, laboratory):
    """A line per row: the best test and the last one, and what else was measured."""
    best, last = by_row(lines, "best_top1"), by_row(lines, "last_top1")
    cells = [part.table.cell(row) for row in best]
    columns = {
        "row": map(_label, cells),
        "the paper, ImageNet-1K": map(_paper, cells),
        f"{laboratory.title.lower()}, mean ± standard error": map(_with_error, best.values()),
        "last epoch": map(_with_error, last.values())}
    if best == last:  # students were tested once
        del columns["last epoch"]
    if part.measures_labels:
        columns["labels on disk"] = (size_words(statistics.mean(sizes))
                                     for sizes in by_row(lines, "label_bytes").values())
    return _table(columns)


def _wide(part, lines, values, students):
    """A line per set of images: top-1 of every student, diversity, distance from the start."""
    rows = _rows(part.table, values)
    cells = [next((cell for cell in of_student.values() if cell.paper is not None),
                  next(iter(of_student.values()))) for of_student in rows.values()]
    columns = {"images": map(_label, cells), "the paper, ImageNet-1K": map(_paper, cells)}
    for word in students:
        columns[f"{word} labels"] = [
            _with_error(values[of_student[word].name]) if word in of_student else ""
            for of_student in rows.values()]

    images = [[line for line in lines if line["row"] == f"{row} {students[0]}"] for row in rows]
    columns["cosine within a class"] = [_mean(own, "cosine", 3) for own in images]
    columns["moved, grey levels"] = [_mean(own, "moved", 0) for own in images]
    return _table(columns)


def _table(columns):
    """Markdown lines of {heading: a text per row}, without the columns that are empty."""
    columns = {head: list(texts) for head, texts in columns.items()}
    columns = {head: texts for head, texts in columns.items() if any(texts)}
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|",
            *(f"| {' | '.join(row)} |" for row in zip(*columns.values(), strict=True))]


def _students(table, values):
    """Words of the students of a table whose sets of images have several; () for others."""
    return tuple(dict.fromkeys(cell.words["student"] for cell in table.cells
                               if cell.name in values and "student" in cell.words))


def _rows(table, values):
    """{name without the student: {student: Cell}} of the cells that have values."""
    rows = {}
    for cell in table.cells:
        if cell.name in values:
            row = " ".join(word for kind, word in cell.words.items() if kind != "student")
            rows.setdefault(row, {})[cell.words["student"]] = cell
    return rows


def by_row(lines, column):
    """{row: numbers of a column, one per seed}, in the order of the lines."""
    values = {}
    for line in lines:
        values.setdefault(line["row"], []).append(line[column])
    return values


def _label(cell):
    return f"{cell.words['panel']}: {cell.title}" if "panel" in cell.words else cell.title


def _paper(cell):
    return "" if cell.paper is None else f"{cell.paper:g}"


def _with_error(numbers):
    error = standard_error(numbers)
    return f"{statistics.mean(numbers):.1f}" + ("" if error is None else f" ± {error:.1f}")


def _mean(lines, column, digits):
    numbers = [line[column] for line in lines if line.get(column) is not None]
    return f"{statistics.mean(numbers):.{digits}f}" if numbers else ""


def verdict_lines(laboratory, part, values):
    """How many of the orderings hold, and a line for each. values: {row: top-1 per seed}."""
    judged = [(claim, verdict(values[claim.higher], values[claim.lower]))
              for claim in part.table.claims if claim.higher in values and claim.lower in values]
    if not judged:
        return ["The paper has no ordering of these rows."]

    counts = ", ".join(
        f"{sum(v.word == word for _, v in judged)} {plural}"
        for word, plural in ((HOLDS, "hold"), (FAILS, "do not hold"), (UNSURE, "cannot be told")))
    head = f"Of {len(judged)} orderings: {counts}"
    if max(len(numbers) for numbers in values.values()) == 1:
        head += " (one seed tells nothing)."
    else:
        head += (
            ". A difference counts where a paired t-test over seeds says so at 5 %, because the "
            "rows share what a seed draws. Numbers after ± are standard errors, and brackets hold "
            "the 95 % confidence interval of a difference. They leave out what the choice of "
            f"{laboratory.test_images} and of one set of teachers adds. By chance alone about one "
            "ordering in twenty would seem clear.")
    several = len(_students(part.table, values)) > 1
    cell = part.table.cell
    return [head, "", *(_verdict_line(cell(claim.higher), cell(claim.lower), v, several)
                        for claim, v in judged)]


def _verdict_line(higher, lower, judged, several):
    """higher, lower: cells. judged: a Verdict. several: whether the table has several students."""
    mark = f" ({higher.words['student']} labels)" if several else ""
    error = "" if judged.error is None else f" ± {judged.error:.1f}"
    if judged.interval is not None:
        low, high = judged.interval
        error += f" [{low:+.1f}, {high:+.1f}], p {_chance(judged.p)}"
    paper = ("" if None in (higher.paper, lower.paper) else
             f"the paper {higher.paper - lower.paper:+.1f}, ")
    return (f"- {judged.word}{mark}: {_label(higher)} above {_label(lower)} ({paper}"
            f"here {judged.difference:+.1f}{error})")


def _chance(p):
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def draw(laboratory, measured):
    """A panel per part and student: mean ± standard error of each row, and the seeds."""
    from matplotlib.figure import Figure

    panels = []
    for name, lines in measured.items():
        part = laboratory.parts[name]
        values = by_row(lines, f"{part.judged}_top1")
        for word in _students(part.table, values) or (None,):
            rows = {row: numbers for row, numbers in values.items()
                    if part.table.cell(row).words.get("student") == word}
            title = f"{name}, {word} labels" if word else name
            panels.append((f"{title}:\n{sizes_words(lines)}", part.table, rows))

    columns = min(2, len(panels))
    height = 1.2 + 0.28 * max(len(rows) for *_, rows in panels)
    lines_of_panels = -(-len(panels) // columns)
    figure = Figure(figsize=(6.5 * columns, height * lines_of_panels), layout="constrained")
    grid = figure.subplots(lines_of_panels, columns, squeeze=False).flat
    for axes, panel in zip(grid, panels, strict=False):
        _draw_rows(axes, *panel, laboratory.test_images)
    for axes in list(grid)[len(panels):]:
        axes.set_axis_off()
    return figure


def _draw_rows(axes, title, table, rows, test_images):
    heights = range(len(rows), 0, -1)
    axes.errorbar([statistics.mean(numbers) for numbers in rows.values()], heights,
                  xerr=[standard_error(numbers) or 0 for numbers in rows.values()],
                  fmt="o", capsize=3)
    for y, numbers in zip(heights, rows.values(), strict=True):
        axes.plot(numbers, [y] * len(numbers), "|", color="tab:gray", alpha=0.6)
    axes.set_yticks(list(heights), [_label(table.cell(row)) for row in rows], fontsize=8)
    axes.set_xlabel(f"top-1 on {test_images} (%): mean ± standard error; bars: seeds", fontsize=8)
    axes.set_title(title, fontsize=8)
    axes.grid(alpha=0.3)
