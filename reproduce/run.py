"""Run cells of the paper's tables, or print their commands.

    python -m reproduce.run table1 r50 ipc50 delt [--dry-run] [--seeds 0 1 2] [--option value ...]

A cell is picked by words (all cells without any); words of one kind are alternatives (r18 r50). What is finished is skipped, so
the same command goes on where it stopped.
"""

from dataclasses import replace

from reproduce import commands, results, sizes, table1, table2, table3
from reproduce.cells import pick
from reproduce.steps import Steps
from utils import datasets, options, run_folder
from utils.errors import UserError, run_entry

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
    run_cells(cells, found, after_cell=lambda: results.write_csv(table, found))
    if not found.as_paper:
        print(f"\nThe paper's numbers are for ImageNet-1K at full size; these runs: {found.words()}.")
    print("\n" + "\n".join(results.lines(cells, found)))
    print(f"\nWork that cells share is counted in each of them. All cells: {results.write_csv(table, found)}", flush=True)


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
    squeeze = commands.squeeze([c for cell in cells for c in commands.cell_commands(cell, found)], found)
    if squeeze is not None:
        lines += ["", "# teachers", squeeze.line()]
    for cell in cells:
        lines += ["", f"# {cell.name}: {cell.title}, paper {results.paper_words(cell)}" + (f" ({cell.note})" if cell.note else "")]
        for command in commands.cell_commands(cell, found):
            lines.append(("# as above: " if command in seen else "") + command.line(found.ngpu))
            seen.add(command)
    return lines


def run_cells(cells, found, after_cell=None):
    """Run the commands of some cells, equal ones once. after_cell(): called after each cell. Returns the Steps."""
    wanted = {cell.name: commands.cell_commands(cell, found) for cell in cells}
    todo = dict.fromkeys(command for own in wanted.values() for command in own)
    squeeze = commands.squeeze(todo, found)
    run_folder.check_writable(found.output_dir)
    steps = Steps(len(todo) + (squeeze is not None), found.output_dir / "timings.json")
    if squeeze is not None:
        _run(steps, squeeze, found)
    for own in wanted.values():
        for command in own:
            if todo.pop(command, 0) is None:
                _run(steps, command, found)
        if after_cell is not None:
            after_cell()
    return steps


def _run(steps, command, found):
    steps.run(command.title, commands.ENTRIES[command.stage], *command.arguments, processes=command.processes(found.ngpu))


if __name__ == "__main__":
    run_entry(main)
