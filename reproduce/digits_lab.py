"""Digits as a laboratory: the paper's Tables 2 and 3 with errors over seeds and verdicts.

    python -m reproduce.digits_lab [table2] [table3] [--seeds 0 1 2] [--option value ...]

Every seed makes its own images, labels and student; the teachers are trained once. Writes
digits_table2.csv and digits_table3.csv (a line per row and seed), digits_lab.png and report.md.
What is finished is skipped.
"""

from reproduce import ROOT, commands, table2, table3
from reproduce.run import run_cells
from reproduce.sizes import Sizes, settle
from utils import options
from utils.errors import run_entry

TABLES = {module.TABLE.name: module.TABLE for module in (table2, table3)}

# Table 3 has soft labels, which saturate above a few images per class. Its 50 images are one batch
# of 50, 64, 128 or 1024 alike, so 16, 32 and 50 are left of panel c.
IPC, EPOCHS = {"table2": 10, "table3": 5}, {"table2": 50, "table3": 60}
LEFT_OUT = ("batch b1024", "batch b64", "batch b128")


def get_args_parser():
    parser = options.Parser(prog="reproduce.digits_lab",
                            description="The paper's Tables 2 and 3 on digits, with errors.")
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], metavar="TABLE",
                        help="table2 or table3 (default: both)")
    parser.add_argument("--seeds", type=options.seed, nargs="+", default=[0, 1, 2],
                        help="of images, labels and student together")
    parser.add_argument("--ipc", type=options.positive_int,
                        help="images per class (default: Table 2 10, Table 3 5)")
    parser.add_argument("--iteration", type=options.positive_int, default=100,
                        help="steps of the longest slices")
    parser.add_argument("--epochs", type=options.positive_int,
                        help="of labels and students (default: Table 2 50, Table 3 60)")
    parser.add_argument("--teacher-weights",
                        help="folder of teachers (default: they are trained first)")
    parser.add_argument("--threads", type=options.thread_count,
                        help="CPU threads of PyTorch (default: its choice)")
    parser.add_argument("--output-dir", type=options.path,
                        default=ROOT / "results" / "digits_lab", help="run folders, report")
    parser.add_argument("--csv-dir", type=options.path,
                        help="where the CSV files go (default: OUTPUT_DIR)")
    return parser


def main(argv=None):
    args = get_args_parser().parse_intermixed_args(argv)
    names = args.tables or list(TABLES)

    from reproduce import lab_report, steps  # imported here, so that --help answers at once

    outcomes = [run_cells(lab_cells(name), lab_sizes(name, args)) for name in names]
    steps.end([failure for failures, _ in outcomes for failure in failures],
              sum(total for _, total in outcomes))

    measured = {}
    for name in names:
        measured[name] = measure(name, args)
        folder = args.csv_dir or args.output_dir
        lab_report.write_csv(measured[name], folder / f"digits_{name}.csv")
    lab_report.write_report(TABLES, measured, args.output_dir)


def measure(name, args):
    """What the finished rows of a table say: a dict per row and seed."""
    from utils.files import read_json

    sizes, lines = lab_sizes(name, args), []
    for cell in lab_cells(name):
        for seed in sizes.seeds:
            folder = commands.student_folder(cell, sizes, seed)
            result = read_json(folder / "result.json", "validate")
            lines.append({"row": cell.name, "seed": seed, "ipc": sizes.ipc,
                          "iteration": sizes.iteration, "epochs": sizes.epochs,
                          "best_top1": round(result["best"]["top1"], 2),
                          "last_top1": round(result["last"]["top1"], 2)})
    return lines


def lab_cells(name):
    """The rows of a table that digits can tell apart, with students that digits can train."""
    return [table2.for_digits(cell) for cell in TABLES[name].cells if cell.name not in LEFT_OUT]


def lab_sizes(name, args):
    """The Sizes of a table's runs."""
    ipc = args.ipc or IPC[name]
    return settle(Sizes(
        dataset="digits", output_dir=args.output_dir, teacher_weights=args.teacher_weights,
        iteration=args.iteration, epochs=args.epochs or EPOCHS[name], ipc=ipc,
        seeds=tuple(args.seeds), full_seeds=1, units_per_step=ipc, threads=args.threads), name)


if __name__ == "__main__":
    run_entry(main)
