"""Digits as a laboratory: the paper's Tables 2 and 3 on scikit-learn's digits, with errors over seeds and verdicts.

    python -m reproduce.digits_lab [table2] [table3] [--seeds 0 1 2] [--option value ...]

Every seed makes its own images, labels and student; the teachers are trained once. Writes digits_table2.csv and
digits_table3.csv (a line per row and seed), digits_lab.png and report.md. What is finished is skipped.
"""

from reproduce import commands, lab_report, steps, table2
from reproduce.run import run_cells
from reproduce.sizes import Sizes, add_run_arguments
from reproduce.steps import ROOT
from utils import options
from utils.errors import run_entry
from utils.files import read_json, write_bytes

# Table 3 has soft labels, which saturate above a few images per class. Its 50 images are one batch of 50, 64, 128 or 1024 alike, so
# of panel c only 16, 32 and 50 are left.
IPC, EPOCHS = {"table2": 10, "table3": 5}, {"table2": 50, "table3": 60}
LEFT_OUT = ("batch b1024", "batch b64", "batch b128")


def get_args_parser():
    parser = options.Parser(prog="reproduce.digits_lab", description="The paper's Tables 2 and 3 on digits, with errors.")
    parser.add_argument("tables", nargs="*", choices=[*lab_report.TABLES, []], metavar="TABLE", help="table2 or table3; none: both")
    parser.add_argument("--seeds", type=options.count, nargs="+", default=[0, 1, 2], help="of images, labels and student together")
    parser.add_argument("--ipc", type=options.positive_int, help="images per class (default: Table 2 10, Table 3 5)")
    parser.add_argument("--iteration", type=options.positive_int, default=100, help="steps of the longest slices")
    parser.add_argument("--epochs", type=options.positive_int, help="of labels and students (default: Table 2 50, Table 3 60)")
    parser.add_argument("--teacher-weights", type=options.path, help="folder of teachers (default: they are trained first)")
    add_run_arguments(parser)
    parser.add_argument("--output-dir", type=options.path, default=ROOT / "results" / "digits_lab", help="run folders, report")
    parser.add_argument("--csv-dir", type=options.path, help="where the CSV files go (default: OUTPUT_DIR)")
    return parser


def main(argv=None):
    args = get_args_parser().parse_intermixed_args(argv)
    names = args.tables or list(lab_report.TABLES)
    outcomes = [run_cells(lab_cells(name), lab_sizes(name, args)) for name in names]
    steps.end([failure for failures, _ in outcomes for failure in failures], sum(total for _, total in outcomes))
    measured = {name: measure(name, args) for name in names}
    lab_report.draw(measured, args.output_dir / "digits_lab.png")
    text = "\n\n".join(f"## {name}: {lab_report.sizes_words(lines)}\n\n{lab_report.markdown(name, lines)}"
                       for name, lines in measured.items())
    report = args.output_dir / "report.md"
    write_bytes(report, f"# Tables 2 and 3 on digits\n\n{text}\n\n![rows](digits_lab.png)\n".encode())
    print(f"\n{text}\n\nReport: {report}", flush=True)


def measure(name, args):
    """Read what a table's finished rows say and write its CSV. Returns the lines: dicts, one per row and seed."""
    found, lines = lab_sizes(name, args), []
    for cell in lab_cells(name):
        for seed in found.seeds:
            result = read_json(commands.student_folder(cell, found, seed) / "result.json", "validate")
            lines.append({"row": cell.name, "seed": seed, "ipc": found.ipc, "iteration": found.iteration, "epochs": found.epochs,
                          "best_top1": round(result["best"]["top1"], 2), "last_top1": round(result["last"]["top1"], 2)})
    lab_report.write_csv(lines, (args.csv_dir or args.output_dir) / f"digits_{name}.csv")
    return lines


def lab_cells(name):
    """The rows of a table that digits can tell apart, with students that digits can train."""
    return [table2.for_digits(cell) for cell in lab_report.TABLES[name].cells if cell.name not in LEFT_OUT]


def lab_sizes(name, args):
    """The Sizes of a table's runs."""
    ipc = args.ipc or IPC[name]
    return Sizes(output_dir=args.output_dir, dataset="digits", teacher_weights=args.teacher_weights and str(args.teacher_weights),
                 iteration=args.iteration, epochs=args.epochs or EPOCHS[name], ipc=ipc, seeds=tuple(dict.fromkeys(args.seeds)),
                 full_seeds=True, units_per_step=ipc, ngpu=args.ngpu, threads=args.threads)


if __name__ == "__main__":
    run_entry(main)
