"""Rewrite the generated parts of EXPERIMENTS.md: tables of cells, commands, numbers and speed.

    python -m reproduce.document

A part lies between <!-- begin NAME --> and <!-- end NAME -->, NAME one of PARTS. Numbers come from the cells, from
results/tables/TABLE.csv (full-size runs only), from results/measured/digits_TABLE.csv and from results/benchmarks.
"""

import csv
import functools
import re

from benchmarks import document as speed
from reproduce import lab_report
from reproduce.cost import OPERATIONS_PER_SECOND, gpu_hours
from reproduce.results import paper_words
from reproduce.run import TABLES
from reproduce.steps import ROOT
from utils import options
from utils.errors import UserError, run_entry
from utils.files import write_bytes

FILE = ROOT / "EXPERIMENTS.md"
TABLES_CSV, MEASURED = ROOT / "results" / "tables", ROOT / "results" / "measured"
_PART = re.compile(r"(<!-- begin (\S+) -->\n).*?(<!-- end \2 -->)", re.S)


def get_args_parser():
    return options.Parser(prog="reproduce.document", description="Rewrite the generated parts of EXPERIMENTS.md.")


def main(argv=None):
    get_args_parser().parse_args(argv)
    text = FILE.read_text()
    write_bytes(FILE, rewritten(text).encode())


def rewritten(text):
    """The text with every generated part made anew. Raises UserError for a part of another name, or one that is missing."""
    found = [match[2] for match in _PART.finditer(text)]
    if sorted(found) != sorted(PARTS):
        raise UserError(f"{FILE.name}: its generated parts are {', '.join(found) or 'none'}, expected {', '.join(PARTS)}. Put the "
                        "lines <!-- begin NAME --> and <!-- end NAME --> back.")
    return _PART.sub(lambda match: match[1] + PARTS[match[2]]() + "\n" + match[3], text)


def cells_part(name):
    """A row per cell: command, paper's number, ours; what the sources leave unsaid as numbered notes."""
    table, ours, notes = TABLES[name], measured_cells(name), {}
    lines = [f"{table.caption}; top-1 %.", "", "| command | row | the paper | ours |", "|---|---|---|---|"]
    for cell in table.cells:
        marks = sorted(notes.setdefault(note, len(notes) + 1) for note in cell.note.split("; ") if note)
        title = cell.title + (f" <sup>{', '.join(map(str, marks))}</sup>" if marks else "")
        number = ours.get(cell.name) or f"not run: needs ImageNet and about {_round(gpu_hours(cell))} GPU-hours"
        lines.append(f"| `sh reproduce/{name}.sh {cell.name}` | {title} | {paper_words(cell)} | {number} |")
    return "\n".join([*lines, "", *(f"{number}. {note[0].upper()}{note[1:]}." for note, number in notes.items())])


def measured_cells(name):
    """{cell name: our number} of the full-size runs in results/tables."""
    path = TABLES_CSV / f"{name}.csv"
    if not path.exists():
        return {}
    with open(path, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["ours"] != "not run" and not row["departures"]]
    return {row["cell"]: _ours(row) for row in rows}


def _ours(row):
    spread = f" ± {float(row['ours_std']):.1f}" if row["ours_std"] else ""
    return f"{float(row['ours']):.1f}{spread} ({row['seeds']} seeds, {float(row['hours']):.1f} h on {row['device']})"


def _round(hours):
    """Two digits at most: more would say that the assumed speed is known."""
    return f"{hours:.0f}" if hours < 100 else f"{round(hours, -1 if hours < 1000 else -2):.0f}"


def digits_part(name):
    """What the laboratory measured on digits, and what it says of the paper's orderings."""
    path = MEASURED / f"digits_{name}.csv"
    command = f"`CSV_DIR=results/measured sh reproduce/digits.sh {name}`"
    if not path.exists():
        return f"{command}: not run yet."
    lines = lab_report.read_csv(path)
    return (f"{command}: {lab_report.sizes_words(lines)}. Per seed: [{path.name}]({path.relative_to(ROOT)}).\n\n"
            f"{lab_report.markdown(name, lines)}")


def cost_part():
    return ("GPU-hours are counted, not measured: multiply-adds of every net's passes at 224 px (torchvision's numbers; forward\n"
            "1, forward and back to the images 2, training 3) for images, labels and three students, over an assumed\n"
            f"{OPERATIONS_PER_SECOND / 1e12:g} TFLOP/s (`reproduce/cost.py`). Cells that share images or labels count them each.")


PARTS = {**{name: functools.partial(cells_part, name) for name in TABLES},
         **{f"digits-{name}": functools.partial(digits_part, name) for name in lab_report.TABLES}, "cost": cost_part,
         "speed": speed.markdown}

if __name__ == "__main__":
    run_entry(main)
