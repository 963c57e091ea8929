"""Rewrite the generated parts of docs/results.md: the laboratories, and DAP on digits.

    python -m reproduce.document

A part is between <!-- begin NAME --> and <!-- end NAME -->. Its numbers come from
results/measured/LABORATORY_PART.csv. The pictures of the paper's orderings are drawn anew too.
"""

import csv
import re

from reproduce import ROOT, dap_report, lab_pictures, lab_report
from reproduce.laboratory import LABORATORIES, Run
from utils.errors import UserError, run_entry
from utils.files import write_bytes
from utils.options import Parser
from utils.plots import save_figure

FILE = ROOT / "docs" / "results.md"
IMAGES = FILE.parent / "images"
MEASURED = ROOT / "results" / "measured"
_PART = re.compile(r"(<!-- begin (\S+) -->\n).*?(<!-- end \2 -->)", re.S)


def main(argv=None):
    parser = Parser(prog="reproduce.document", description=f"Rewrite the tables of {FILE.name}.")
    parser.parse_args(argv)
    rewrite(FILE, measured_parts())
    for laboratory in LABORATORIES.values():
        figure = lab_pictures.differences(laboratory, measured(laboratory))
        save_figure(figure, IMAGES / orderings_file(laboratory), dpi=100)


def measured_parts():
    """{part: text} of what was measured, and what that says of the paper's orderings."""
    parts = {}
    for laboratory in LABORATORIES.values():
        for name, lines in measured(laboratory).items():
            parts[f"{laboratory.name}-{name}"] = laboratory_part(laboratory, name, lines)
        parts[f"{laboratory.name}-orderings"] = (
            f"![Differences of top-1 here and in the paper](images/{orderings_file(laboratory)})"
            f"\n\n{lab_report.how_to_read(laboratory)}")
    path = MEASURED / "digits_dap.csv"
    parts["digits-dap"] = (
        "`DATASET=digits sh reproduce/table_dap.sh`, then `python -m reproduce.dap_report "
        f"--csv-dir results/measured`. Per seed: [{path.name}](../results/measured/{path.name})."
        "\n\n"
        f"{dap_report.markdown(dap_report.read_csv(path))}")
    parts["digits-ablation-dap"] = ablation_part(MEASURED / "digits_ablation_dap.csv")
    return parts


def measured(laboratory):
    """{part: lines of its CSV file} of the parts that have one."""
    paths = {name: csv_path(laboratory, name) for name in laboratory.parts}
    return {name: lab_report.read_csv(path) for name, path in paths.items() if path.exists()}


def csv_path(laboratory, name):
    return MEASURED / f"{laboratory.name}_{name}.csv"


def orderings_file(laboratory):
    return f"{laboratory.name}_orderings.png"


def laboratory_part(laboratory, name, lines):
    """A part of a laboratory as Markdown. lines: of the CSV file that it wrote."""
    path = csv_path(laboratory, name)
    seeds = tuple(sorted({line["seed"] for line in lines}))
    variables = "CSV_DIR=results/measured"
    if seeds != Run.seeds:
        variables += f' SEEDS="{" ".join(map(str, seeds))}"'
    return (f"`{variables} {laboratory.script} {name}`: "
            f"{lab_report.sizes_words(lines)}. Per seed: "
            f"[{path.name}](../results/measured/{path.name}).\n\n"
            f"{lab_report.markdown(laboratory, name, lines)}")


def ablation_part(path):
    """DAP's ablations on digits as Markdown. path: the CSV that ablation_dap.sh wrote."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    text = ["| panel | row | ConvNet-3, hard labels |", "|---|---|---|"]
    for row in rows:
        mean, deviation = float(row["last"]), float(row["last_std"])
        text.append(f"| {row['cell'].replace(' ', ' | ')} | {mean:.1f} ± {deviation:.1f} |")
    (seeds,) = {row["seeds"] for row in rows}
    return ("`DATASET=digits EPOCHS=100 SEEDS=\"0 1\" sh reproduce/ablation_dap.sh`: last top-1 in "
            f"%, mean ± standard deviation over {seeds} seeds of images and student. All columns: "
            f"[{path.name}](../results/measured/{path.name}).\n\n" + "\n".join(text))


def rewrite(file, parts):
    """Replace the generated parts of a page. parts: {name: text}."""
    write_bytes(file, replaced(file.read_text(), parts, file.name).encode())


def replaced(text, parts, name):
    """A page's text with its generated parts made anew.

    Raises UserError, with the page's name, where it has other parts than these.
    """
    present = [match[2] for match in _PART.finditer(text)]
    if sorted(present) != sorted(parts):
        raise UserError(f"{name}: its generated parts are {', '.join(present) or 'none'}, expected "
                        f"{', '.join(parts)}. Put the lines <!-- begin NAME --> and <!-- end NAME "
                        "--> back.")
    return _PART.sub(lambda match: match[1] + parts[match[2]] + "\n" + match[3], text)


if __name__ == "__main__":
    run_entry(main)
