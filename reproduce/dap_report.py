"""DAP on digits: every set of images of table_dap beside its diversity and its distance to reals.

    DATASET=digits sh reproduce/table_dap.sh
    python -m reproduce.dap_report [--seeds 0 1 2] [--csv-dir results/measured]

Reads the finished cells of the table and measures their images. Writes digits_dap.csv (a line per
set and seed), digits_dap.md (the table of means) and digits_dap.png (images of every set).
"""

import csv
import statistics

from report.verdicts import spread
from reproduce import ROOT, commands, table_dap
from reproduce.lab_report import write_csv
from reproduce.sizes import Sizes, settle
from utils import options
from utils.errors import UserError, run_entry
from utils.files import read_json, write_bytes
from utils.options import Parser

STUDENTS = tuple(table_dap.DIGITS_STUDENTS)
COLUMNS = ("images", "seed", *STUDENTS, "cosine", "distance", "form_cosine")
TITLES = {row: title for row, (title, _) in table_dap.DIGITS_IMAGES.items()}


def get_args_parser():
    parser = Parser(prog="reproduce.dap_report",
                    description="What DAP's table on digits measured, and its images.")
    parser.add_argument("--seeds", type=options.seed, nargs="+", default=[0, 1, 2],
                        help="of images, labels and student together")
    parser.add_argument("--output-dir", type=options.path,
                        default=ROOT / "results" / "tables_digits",
                        help="the table's folder, for the page and the picture too")
    parser.add_argument("--csv-dir", type=options.path,
                        help="where digits_dap.csv goes (default: OUTPUT_DIR)")
    return parser


def main(argv=None):
    args = get_args_parser().parse_args(argv)
    sizes = settle(Sizes(dataset="digits", output_dir=args.output_dir, seeds=tuple(args.seeds),
                         full_seeds=1), "table_dap")
    check_finished(sizes)

    from reproduce import dap_measures  # needs PyTorch, which --help does not

    lines = [{**line, **top1(line["images"], line["seed"], sizes)}
             for line in dap_measures.measure(digits_images(sizes), sizes)]
    write_csv(lines, (args.csv_dir or args.output_dir) / "digits_dap.csv", COLUMNS)
    dap_measures.draw(digits_images(sizes), args.output_dir / "digits_dap.png")
    text = markdown(lines)
    write_bytes(args.output_dir / "digits_dap.md", f"{text}\n".encode())
    print(f"\n{text}\n\nImages to look at: {args.output_dir / 'digits_dap.png'}", flush=True)


def digits_images(sizes):
    """{(row, seed): run folder} of all sets of images."""
    cells = {cell.words["images"]: cell for cell in table_dap.digits_cells()}
    return {(row, seed): commands.run_folder(cell, sizes, seed)
            for row, cell in cells.items() for seed in sizes.seeds}


def check_finished(sizes):
    """Raise UserError where a cell has no result yet."""
    for cell in table_dap.digits_cells():
        for seed in sizes.seeds:
            folder = commands.student_folder(cell, sizes, seed)
            if not (folder / "result.json").exists():
                raise UserError(f"{folder}: no result.json, the cell {cell.name} of seed {seed} is "
                                "not finished. Run DATASET=digits sh reproduce/table_dap.sh with "
                                "these SEEDS first.")


def top1(row, seed, sizes):
    """{student: top-1} of a set of images and a seed: the test that its protocol reports."""
    numbers = {}
    for cell in table_dap.digits_cells():
        if cell.words["images"] == row:
            result = read_json(commands.student_folder(cell, sizes, seed) / "result.json",
                               "validate")
            which = "last" if cell.student.options.get("protocol") == "dc" else "best"
            numbers[cell.words["student"]] = round(result[which]["top1"], 2)
    return numbers


def read_csv(path):
    """The lines of digits_dap.csv, with numbers as numbers."""
    with open(path, newline="") as file:
        return [{name: text if name == "images" else int(text) if name == "seed" else
                 float(text) if text else None for name, text in line.items()}
                for line in csv.DictReader(file)]


def markdown(lines):
    """The table of means ± standard deviations over seeds, as Markdown."""
    text = ["| images | ConvNet-3, hard | ResNet-18, hard | ResNet-18, soft "
            "| cosine within a class | mean D_K to held-out reals |", "|---|---|---|---|---|---|"]
    for row, title in TITLES.items():
        own = [line for line in lines if line["images"] == row]
        numbers = [spread([line[student] for line in own]) for student in STUDENTS]
        text.append(f"| {title} | {' | '.join(numbers)} "
                    f"| {statistics.mean(line['cosine'] for line in own):.3f} "
                    f"| {statistics.mean(line['distance'] for line in own):.2f} |")
    forms = [line["form_cosine"] for line in lines if line["form_cosine"] is not None]
    seeds = sorted({line["seed"] for line in lines})
    note = ("Top-1 in % is the last test of ConvNet-3 and the best one of ResNet-18, as mean ± "
            f"standard deviation over {len(seeds)} seeds of images, labels and student. The "
            "gradient of the class-mean form has a cosine of at least "
            f"{min(forms):.4f} with that of the exact mean.")
    return "\n".join([*text, "", note])


if __name__ == "__main__":
    run_entry(main)
