"""What a laboratory measured, as text: rows with standard errors, and the paper's orderings."""

import collections
import csv
import statistics

from report.verdicts import FAILS, HOLDS, UNSURE, standard_error
from reproduce import lab_pictures
from reproduce.lab_orderings import by_row, label, orderings, students
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
    """Write report.md and its pictures into `folder`, and print the text.

    measured: {part: lines}.
    """
    pictures = {"lab.png": lab_pictures.rows(laboratory, measured),
                "orderings.png": lab_pictures.differences(laboratory, measured)}
    pictures = {name: figure for name, figure in pictures.items() if figure is not None}
    for name, figure in pictures.items():
        save_figure(figure, folder / name, dpi=120)

    sections = [f"## {name}: {sizes_words(lines)}\n\n{markdown(laboratory, name, lines)}"
                for name, lines in measured.items()]
    text = "\n\n".join([*sections, how_to_read(laboratory)])
    images = "\n\n".join(f"![]({name})" for name in pictures)
    report = folder / "report.md"
    write_bytes(report, f"# {laboratory.title}\n\n{text}\n\n{images}\n".encode())
    print(f"\n{text}\n\nReport: {report}", flush=True)


def how_to_read(laboratory):
    """What the numbers about an ordering mean."""
    return (
        "A row is above another one where a paired t-test over seeds says so at 5 %. The test is "
        "paired because the rows share what a seed draws. Numbers after ± are standard errors, and "
        "brackets hold the 95 % confidence interval of a difference. They leave out what the "
        f"choice of {laboratory.test_images} and of one set of teachers adds. By chance alone "
        "about one ordering in twenty would seem clear. \"Smaller\" means that the whole interval "
        "is below the paper's difference.")


def sizes_words(lines):
    """"IPC 10, 100 steps, 50 epochs, 3 seeds of images, labels and student"."""
    numbers = {name: sorted({line[name] for line in lines if line[name]})
               for name in ("ipc", "iteration", "epochs")}
    ipc, steps, epochs = (" or ".join(map(str, values)) for values in numbers.values())
    seeds = len({line["seed"] for line in lines})
    return (f"IPC {ipc}, {f'{steps} steps, ' if steps else ''}{epochs} epochs, "
            f"{seeds} seed{'' if seeds == 1 else 's'} of images, labels and student")


def markdown(laboratory, name, lines):
    """The rows of a part and the paper's orderings of them, as Markdown."""
    part = laboratory.parts[name]
    values = by_row(lines, f"{part.judged}_top1")
    kinds = students(part.table, values)
    table = _wide(part, lines, values, kinds) if kinds else _long(part, lines, laboratory)
    note = [part.note, ""] if part.note else []
    return "\n".join([*table, "", *note, *ordering_lines(orderings(part.table, values))])


def _long(part, lines, laboratory):
    """A line per row: the best test and the last one, and what else was measured."""
    best, last = by_row(lines, "best_top1"), by_row(lines, "last_top1")
    cells = [part.table.cell(row) for row in best]
    columns = {
        "row": map(label, cells),
        "the paper, ImageNet-1K": map(_paper, cells),
        f"{laboratory.title.lower()}, mean ± standard error": map(_with_error, best.values()),
        "last epoch": map(_with_error, last.values())}
    if best == last:  # students were tested once
        del columns["last epoch"]
    if part.measures_labels:
        columns["labels on disk"] = (size_words(statistics.mean(sizes))
                                     for sizes in by_row(lines, "label_bytes").values())
    return _table(columns)


def _wide(part, lines, values, kinds):
    """A line per set of images: top-1 of every student, diversity, distance from the start."""
    rows = _rows(part.table, values)
    cells = [next((cell for cell in of_student.values() if cell.paper is not None),
                  next(iter(of_student.values()))) for of_student in rows.values()]
    columns = {"images": map(label, cells), "the paper, ImageNet-1K": map(_paper, cells)}
    for word in kinds:
        columns[f"{word} labels"] = [
            _with_error(values[of_student[word].name]) if word in of_student else ""
            for of_student in rows.values()]

    images = [[line for line in lines if line["row"] == f"{row} {kinds[0]}"] for row in rows]
    columns["cosine within a class"] = [_mean(own, "cosine", 3) for own in images]
    columns["moved, grey levels"] = [_mean(own, "moved", 0) for own in images]
    return _table(columns)


def _table(columns):
    """Markdown lines of {heading: a text per row}, without the columns that are empty."""
    columns = {head: list(texts) for head, texts in columns.items()}
    columns = {head: texts for head, texts in columns.items() if any(texts)}
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|",
            *(f"| {' | '.join(row)} |" for row in zip(*columns.values(), strict=True))]


def _rows(table, values):
    """{name without the student: {student: Cell}} of the cells that have values."""
    rows = {}
    for cell in table.cells:
        if cell.name in values:
            row = " ".join(word for kind, word in cell.words.items() if kind != "student")
            rows.setdefault(row, {})[cell.words["student"]] = cell
    return rows


def _paper(cell):
    return "" if cell.paper is None else f"{cell.paper:g}"


def _with_error(numbers):
    error = standard_error(numbers)
    return f"{statistics.mean(numbers):.1f}" + ("" if error is None else f" ± {error:.1f}")


def _mean(lines, column, digits):
    numbers = [line[column] for line in lines if line.get(column) is not None]
    return f"{statistics.mean(numbers):.{digits}f}" if numbers else ""


def ordering_lines(judged):
    """How many Orderings hold, and a table of all."""
    if not judged:
        return ["The paper has no ordering of these rows."]

    count = collections.Counter(ordering.verdict.word for ordering in judged)
    smaller = sum(ordering.is_smaller for ordering in judged)
    counts = ", ".join(f"{count[word]} {plural}" for word, plural in (
        (HOLDS, "hold"), (FAILS, "do not hold"), (UNSURE, "cannot be told")))
    if smaller:
        counts += f" (in {smaller} of these the difference is smaller than the paper's)"
    if all(ordering.verdict.error is None for ordering in judged):
        counts += " (one seed tells nothing)"

    verdicts = [ordering.verdict for ordering in judged]
    return [f"Of {len(judged)} orderings: {counts}.", "", *_table({
        "verdict": [v.word + (", smaller" if ordering.is_smaller else "")
                    for v, ordering in zip(verdicts, judged, strict=True)],
        "ordering": [ordering.words for ordering in judged],
        "labels": [ordering.student or "" for ordering in judged],
        "the paper": ["" if ordering.paper is None else f"{ordering.paper:+.1f}"
                      for ordering in judged],
        "here": [f"{v.difference:+.1f}" + ("" if v.error is None else f" ± {v.error:.1f}")
                 for v in verdicts],
        "95 % interval": ["" if v.interval is None else "[{:+.1f}, {:+.1f}]".format(*v.interval)
                          for v in verdicts],
        "p": ["" if v.p is None else _chance(v.p) for v in verdicts]})]


def _chance(p):
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
