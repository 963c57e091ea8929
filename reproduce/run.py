"""Make cells of the paper's tables one after the other in this process.

    python -m reproduce.run table1 r50 ipc50 delt [--dry-run] [--list] [--option value ...]

Words pick cells, and words of one kind are alternatives (r18 r50); without words all cells are
made. The stages skip what is finished, so the same command goes on where it stopped. When a step
fails, only those that need it are left out. reproduce/Snakefile runs the same commands side by
side.
"""

import importlib
import os
from dataclasses import dataclass, fields, replace

from reproduce import ablation_dap, commands, table1, table2, table3, table_dap
from reproduce.cells import columns, pick
from reproduce.sizes import Sizes, settle
from utils import options
from utils.errors import UserError, run_entry
from utils.options import RoomOptions

TABLES = {module.TABLE.name: module.TABLE
          for module in (table1, table2, table3, table_dap, ablation_dap)}
OF_DIGITS = {"table_dap": table_dap.digits_cells, "ablation_dap": ablation_dap.digits_cells}


@dataclass(frozen=True)
class Options(RoomOptions):
    """All options of the tables."""

    sizes: Sizes


@dataclass(frozen=True)
class Request:
    """What was asked for. table: with the cells that its dataset can make. cells: those picked.

    action: "run", "dry_run", "list" or "collect".
    """

    table: object
    cells: list
    sizes: Sizes
    action: str = "run"


def parse(argv=None):
    """The Request of a command line. Raises UserError for words and sizes that fit no cell."""
    parser = options.build_parser(Options, "reproduce.run", "Make cells of the paper's tables.")
    parser.add_argument("table", choices=list(TABLES), help="which table of the paper")
    parser.add_argument("words", nargs="*", metavar="WORD",
                        help="cells by name, such as r50 ipc50 delt (default: all)")
    actions = parser.add_argument_group("instead of running").add_mutually_exclusive_group()
    for name, text in (("dry_run", "print the commands"),
                       ("list", "print the cells and the paper's numbers"),
                       ("collect", "write the table of the cells that are finished")):
        actions.add_argument(options.flag(name), dest="action", action="store_const", const=name,
                             default="run", help=text)
    given = parser.parse_intermixed_args(argv)

    table = TABLES[given.table]
    if given.ipc is not None and not table.ipc_can_change:
        raise UserError(f"--ipc {given.ipc}: the cells of {table.name} are picked by their IPC. "
                        f"Name it, as in {table.name} ipc10.")
    sizes = settle(Sizes(**{field.name: getattr(given, field.name) for field in fields(Sizes)}),
                   table.name)
    check_online_teacher(sizes.online_teacher)
    table = cells_for(table, sizes.dataset)
    return Request(table, pick(table, given.words), sizes, given.action)


def check_online_teacher(name):
    """Raise UserError for a network that there is not.

    Only the libraries know their names, so nothing is said where they are not installed, and
    commands are only printed.
    """
    if name in (None, "student"):
        return
    try:
        from models.networks import check_name
    except ImportError:
        return
    try:
        check_name(name)
    except UserError as error:
        raise UserError(f"--online-teacher (ONLINE_TEACHER): {error}") from None


def cells_for(table, dataset):
    """The table with cells that a dataset can make.

    Digits has its own where a class has too few images, or where a recipe is too long. DAP's tables
    are of subsets of ImageNet, in whose place digits has cells of another kind. Raises UserError
    where a dataset has none.
    """
    if table.name in OF_DIGITS and dataset not in ("imagefolder", "digits"):
        raise UserError(f"{table.name}: found --dataset {dataset}, expected imagefolder, for cells "
                        "of ImageNet's subsets, or digits. Choose one of them.")
    if dataset != "digits":
        return table
    if table.name in OF_DIGITS:
        return replace(table, cells=OF_DIGITS[table.name](), claims=())
    cells = [table1.for_digits(table2.for_digits(cell)) for cell in table.cells]
    return replace(table, cells=cells)


def main(argv=None):
    request = parse(argv)
    if request.action == "list":
        return print_cells(request)
    if request.action == "dry_run":
        return print_commands(request)

    from reproduce import results, steps  # imported here, because lists need only this module

    if request.action == "collect":
        return results.collect(request)
    check_folders(request.sizes)
    failures, total = run_commands(commands.graph(request.cells, request.sizes), request.sizes,
                                   after_student=lambda: results.write_csv(request))
    results.collect(request)
    return steps.end(failures, total)


def print_cells(request):
    """Print the words, the paper's number and the title of each cell, and what sources leave
    unsaid as numbered notes."""
    notes, rows = {}, []
    for cell in request.cells:
        marks = [notes.setdefault(note, len(notes) + 1) for note in cell.note.split("; ") if note]
        title = f"{cell.title} {sorted(marks) if marks else ''}".rstrip()
        rows.append((cell.name, cell.paper_words, title))

    print(f"{request.table.name}: {request.table.caption}; the paper's top-1 %")
    print("\n".join(columns(rows)))
    print("\n".join(["", *(f"[{number}] {note}" for note, number in notes.items())]))


def print_commands(request):
    """Print the commands, grouped by cell; one that is above already comes as a comment."""
    table, sizes = request.table, request.sizes
    heading = f"# {table.name}: {table.caption}"
    print(heading if sizes.as_paper else f"{heading}; run with {sizes.words()}")

    trained = commands.graph(request.cells, sizes)
    teachers = [command for command in trained if command.stage in ("squeeze", "diffusion")]
    if teachers:
        print("\n".join(["", "# models that are trained first",
                         *(command.line() for command in teachers)]))

    printed = set()
    for cell in request.cells:
        print(f"\n# {cell.name}: {cell.title}, paper {cell.paper_words}")
        for command in commands.cell_commands(cell, sizes):
            print(("# as above: " if command in printed else "") + command.line())
            printed.add(command)


def check_folders(sizes):
    """Raise UserError for folders of images that are missing, before the first stage."""
    if sizes.dataset == "digits":
        return
    downloads = sizes.dataset != "imagefolder"
    kind = (f"where torchvision keeps {sizes.dataset} or will download it" if downloads else
            "a folder with one sub-folder per class")
    for name in ("train_dir", "val_dir"):
        folder = getattr(sizes, name)
        if folder is None or not (downloads or folder.is_dir()):
            found = (f"{folder}: no such folder of images" if folder else
                     "no folder of images was given")
            raise UserError(f"{found}. Set {name.upper()} (or {options.flag(name)}) to {kind}.")


def run_commands(needs, sizes, after_student=lambda: None):
    """Run the commands of a commands.graph, each once. Returns (list of Failure, number of steps).

    after_student(): called after each student.
    """
    from reproduce.steps import Steps
    from utils.files import check_writable

    check_writable(sizes.output_dir)
    for name in [name for name in os.environ if name.startswith("SLURM_ARRAY_")]:
        del os.environ[name]  # the stages would do one part of their work, and nobody the others

    steps, failures = Steps(len(needs), sizes.output_dir / "timings.json"), {}
    for command, needed in needs.items():
        if any(other in failures for other in needed):
            failure = steps.leave_out(command.title)
        else:
            entry = importlib.import_module(command.module)
            failure = steps.attempt(command.title, entry, *command.arguments)
        if failure is not None:
            failures[command] = failure
        if command.stage in commands.STUDENTS:
            after_student()
    return list(failures.values()), len(needs)


if __name__ == "__main__":
    run_entry(main)
