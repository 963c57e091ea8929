"""Run cells of the paper's tables, or print their commands.

    python -m reproduce.run table1 r50 ipc50 delt [--dry-run] [--seeds 0 1 2] [--option value ...]

A cell is picked by words (all cells without any); words of one kind are alternatives (r18 r50). What is finished is skipped, so
the same command goes on where it stopped. When a step fails, those that need it are left out and all others run.
"""

import os
import sys
from dataclasses import replace

from data import datasets
from reproduce import commands, results, side_by_side, sizes, steps, table1, table2, table3
from reproduce.cells import pick
from utils import options
from utils.errors import UserError, run_entry
from utils.files import check_writable

CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100}
TABLES = {module.TABLE.name: module.TABLE for module in (table1, table2, table3)}


def get_args_parser():
    parser = options.Parser(prog="reproduce.run", description="Run cells of the paper's tables, or print their commands.")
    parser.add_argument("table", choices=list(TABLES), help="which table of the paper")
    parser.add_argument("words", nargs="*", metavar="WORD", help="cells by name, such as r50 ipc50 delt; none: all")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and the paper's numbers, run nothing")
    sizes.add_arguments(parser)
    return parser


def main(argv=None):
    args = get_args_parser().parse_intermixed_args(argv)
    table = TABLES[args.table]
    if args.ipc is not None and not table.ipc_can_change:
        raise UserError(f"--ipc {args.ipc}: the cells of {table.name} are picked by their IPC; name it, as in {table.name} ipc10.")
    found = sizes.from_arguments(args, table.name)
    table = cells_for(table, found.dataset)
    cells = pick(table, args.words)
    if args.dry_run:
        print("\n".join(listing(table, cells, found)))
        return
    check_folders(found)
    failures, total = run_cells(cells, found, after_student=lambda: results.write_csv(table, found))
    if not found.as_paper:
        print(f"\nThe paper's numbers are for ImageNet-1K at full size; these runs: {found.words()}.")
    print("\n" + "\n".join(results.lines(cells, found)))
    print(f"\nWork that cells share is counted in each of them. All cells: {results.write_csv(table, found)}", flush=True)
    steps.end(failures, total)


def cells_for(table, dataset):
    """The table with cells that a dataset can make: digits has its own where classes are too small or a recipe too long."""
    if dataset != "digits":
        return table
    return replace(table, cells=[table1.for_digits(table2.for_digits(cell)) for cell in table.cells])


def check_folders(found):
    """Raise UserError for folders of images that a later stage would stumble over."""
    if found.dataset == "imagefolder":
        for folder, name in ((found.train_dir, "TRAIN_DIR"), (found.val_dir, "VAL_DIR")):
            if folder is None or not folder.is_dir():
                raise UserError(f"{folder}: no such folder of images. Set {name} to a folder with one sub-folder per class.")
        datasets.class_folders(found.val_dir)  # small, so listed whole; recover lists the other


def listing(table, cells, found):
    """What would run: a command a line, grouped by cell; commands that stand above already come again as comments."""
    lines, seen = [f"# {table.name}: {table.caption}" + ("" if found.as_paper else f"; run with {found.words()}")], set()
    if found.ngpu > 1:
        lines.append(f"# NGPU={found.ngpu}: so many commands at a time, each on one GPU; recover, relabel and the training of "
                     f"teachers in up to {found.ngpu} parts (--shard I/{found.ngpu})")
    squeeze = commands.squeeze([c for cell in cells for c in commands.cell_commands(cell, found)], found)
    if squeeze is not None:
        lines += ["", "# teachers", squeeze.line()]
    for cell in cells:
        lines += ["", f"# {cell.name}: {cell.title}, paper {results.paper_words(cell)}" + (f" ({cell.note})" if cell.note else "")]
        for command in commands.cell_commands(cell, found):
            lines.append(("# as above: " if command in seen else "") + command.line())
            seen.add(command)
    return lines


def run_cells(cells, found, after_student=None):
    """Run the commands of some cells, equal ones once; side by side on found.ngpu GPUs when these are several.

    after_student(): called after each student. Returns (list of Failure, number of steps). Ctrl-C and SIGTERM end it all.
    """
    needs = commands.needs(cells, found)
    where = side_by_side.places(found.ngpu, found.threads) if found.ngpu > 1 else []
    check_writable(found.output_dir)
    after = after_student or (lambda: None)
    return _side_by_side(needs, where, found, after) if where else _one_by_one(needs, found, after)


def _one_by_one(needs, found, after_student):
    """Run commands ({command: those it needs}, in order) in this process. Returns as run_cells."""
    for name in [name for name in os.environ if name.startswith("SLURM_ARRAY_")]:
        del os.environ[name]  # recover and relabel would take it for a part of their work, and nobody would do the others
    run, failures = steps.Steps(len(needs), found.output_dir / "timings.json"), {}
    for command, before in needs.items():
        if any(need in failures for need in before):
            failure = run.leave_out(command.title)
        else:
            failure = run.attempt(command.title, commands.ENTRIES[command.stage], *command.arguments)
        if failure is not None:
            failures[command] = failure
        if command.stage == "validate":
            after_student()
    return list(failures.values()), len(needs)


def _side_by_side(needs, where, found, after_student):
    """Run commands as tasks on several Places. Returns as run_cells, with tasks for steps."""
    timings = steps.Timings(found.output_dir / "timings.json")
    tasks = share_out(needs, len(where), class_count(found), timings)
    left = {command: len(own) for command, own in tasks.items()}
    of = {task: command for command, own in tasks.items() for task in own}

    def ended(task, seconds, ok):
        command = of[task]
        left[command] -= ok
        timings.add(command.title, command.line(), seconds, complete=left[command] == 0)
        if command.stage == "validate":
            after_student()

    failures = side_by_side.run(list(of), where, found.output_dir / "logs", "tasks", ended)
    return failures, len(of)


def share_out(needs, count, classes, timings):
    """{command: its Tasks}: those whose work can be shared out in up to `count` parts.

    So a stage of one cell keeps all GPUs busy, and the last ones of a table leave few idle for long. A command that was finished by
    an earlier start is not shared out, only looked at. classes: number of the dataset's.
    """
    tasks = {}
    for command, before in needs.items():
        done = timings.is_complete(command.title, command.line()) and command.folder.exists()
        parts = 1 if done else min(count, commands.shares(command, classes))
        needed, own = [task for need in before for task in tasks[need]], []
        for share in [(part, parts) for part in range(parts)]:
            first = own[:1] if commands.prepares(command) else []  # what it finds out is there for the other parts
            argv = [sys.executable, "-m", command.module, *command.arguments_of(share)]
            title = command.title + (f" part {share[0]} of {parts}" if parts > 1 else "")
            own.append(side_by_side.Task(title, argv, command.line(share), (*needed, *first)))
        tasks[command] = own
    return tasks


def class_count(found):
    """Number of classes of the data."""
    return CLASSES.get(found.dataset) or len(datasets.class_folders(found.val_dir))


if __name__ == "__main__":
    run_entry(main)
