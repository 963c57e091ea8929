"""What the Snakefile can be asked for: tables of the paper, or the parts of a laboratory.

Imports no PyTorch.
"""

from dataclasses import dataclass
from pathlib import Path

from reproduce import commands, laboratory, run
from utils.errors import UserError


@dataclass(frozen=True)
class Target:
    """Files that are written once the commands of a graph are finished.

    graph: {command: commands that it needs}, as commands.graph gives it. outputs: the files; none
    where only teachers are trained. folder: OUTPUT_DIR. collect: module and arguments of the
    command that writes the files, and trains nothing.
    """

    name: str
    graph: dict
    outputs: tuple
    folder: Path
    collect: tuple

    @property
    def last(self):
        """The commands that no other needs: where they are finished, all are."""
        needed = {other for others in self.graph.values() for other in others}
        return [command for command in self.graph if command not in needed]


def tables(words, settings, checks_folders):
    """(list of Target, one per table that can be made; dict of reasons of the others).

    words: pick cells. settings: {option: value} of reproduce.run, written with _.
    """
    found, reasons = [], {}
    for name in run.TABLES:
        arguments = [name, *words, *commands.as_arguments(settings)]
        try:
            request = run.parse(arguments)
            if checks_folders:
                run.check_folders(request.sizes)
        except UserError as error:
            reasons[name] = str(error)
            continue
        folder = request.sizes.output_dir
        found.append(Target(
            name, commands.graph(request.cells, request.sizes),
            (folder / f"{name}.csv", folder / f"{name}.txt"), folder,
            ("reproduce.run", *arguments, "--collect")))
    return found, reasons


def laboratories(dataset, words, settings, checks_folders):
    """The same for a laboratory, which is one Target. words: names of its parts."""
    arguments = [dataset, *words, *commands.as_arguments(settings)]
    try:
        lab, names, asked = laboratory.parse(arguments)
        work = laboratory.graphs(lab, names, asked)
        if checks_folders:
            for _, sizes in work.values():
                run.check_folders(sizes)
    except UserError as error:
        return [], {dataset: str(error)}

    graph = {command: needed for commands_of_part, _ in work.values()
             for command, needed in commands_of_part.items()}
    folder = laboratory.folder(lab, asked)
    outputs = [laboratory.csv_file(lab, name, asked) for name in names if name != "teachers"]
    if outputs:
        outputs.append(folder / "report.md")
    return [Target("laboratory", graph, tuple(outputs), folder,
                   ("reproduce.laboratory", *arguments, "--collect"))], {}
