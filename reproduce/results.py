"""What finished cells say: top-1 over seeds and hours, as text and as CSV."""

import csv
import re
import statistics
from dataclasses import dataclass, field, replace

from report.verdicts import spread
from reproduce import commands
from reproduce.cells import columns
from reproduce.departures import departures
from reproduce.steps import read_timings
from utils.files import read_json, write_bytes, written_whole

COLUMNS = ("table", "cell", "row", "paper", "paper_std", "ours", "ours_std", "seeds", "seeds_of",
           "best_per_seed", "last", "last_std", "hours", "device", "departures")
_SEED = re.compile(r"seed(\d+)")


@dataclass
class Outcome:
    """The finished students of a cell.

    best, last: top-1 per seed, in per cent. hours: of images, labels and students, where processes
    that worked side by side are added up; choosing start images and measuring statistics is not in
    it. departures: words on what was not as in the paper.
    """

    best: list = field(default_factory=list)
    last: list = field(default_factory=list)
    hours: float = 0.0
    device: str = ""
    departures: list = field(default_factory=list)


def read_outcome(cell, sizes):
    """The Outcome of a cell from its run folders; without seeds where no student is finished."""
    outcome, seconds = Outcome(), 0.0
    seeds = finished_seeds(cell, sizes)
    for seed in seeds:
        result = read_json(commands.student_folder(cell, sizes, seed) / "result.json", "validate")
        outcome.best.append(result["best"]["top1"])
        outcome.last.append(result["last"]["top1"])
        outcome.device = result["device"]
        seconds += result["seconds"]
        outcome.departures += departures(cell, sizes, seed)
    outcome.departures = list(dict.fromkeys(outcome.departures))

    for command in commands.cell_commands(cell, replace(sizes, seeds=tuple(seeds))):
        if command.stage in ("recover", "dap"):
            seconds += recover_seconds(command.folder)
        elif command.stage == "relabel":
            seconds += relabel_seconds(command, sizes)
    outcome.hours = seconds / 3600
    return outcome


def finished_seeds(cell, sizes):
    """Seeds of the cell's finished students: those asked for, and all others in its folders."""
    student = commands.student_folder(cell, sizes, 0)
    if sizes.full_seeds:
        run = commands.run_folder(cell, sizes)
        names = [path.name.removeprefix(f"{run.name}_")
                 for path in run.parent.glob(f"{run.name}_seed*")]
    else:
        prefix = student.name.removesuffix("seed0")
        names = [path.name.removeprefix(prefix) for path in student.parent.glob(f"{prefix}seed*")]

    others = {int(match[1]) for match in map(_SEED.fullmatch, names) if match}
    return [seed for seed in sorted(others | {0, *sizes.seeds})
            if (commands.student_folder(cell, sizes, seed) / "result.json").exists()]


def recover_seconds(run):
    """Seconds that recover spent on a run folder, from its records.

    Units that shared forwards share a clock, which counts once.
    """
    groups = {}
    for path in sorted((run / "units").glob("*.json")):
        record = read_json(path, "recover")
        if "seconds" in record:
            group = tuple(record.get("units_together") or [path.stem])
            groups[group] = max(groups.get(group, 0.0), record["seconds"])
    return sum(groups.values())


def relabel_seconds(command, sizes):
    """Seconds of a relabel command: a table script's timings, or those of Snakemake's jobs."""
    step = read_timings(sizes.output_dir / "timings.json").get(command.title)
    if step:
        return step["seconds"]
    total = 0.0
    for path in sizes.output_dir.glob(f"snakemake/{command.slug}.*.tsv"):
        total += float(path.read_text().splitlines()[1].split("\t")[0])
    return total


def collect(request):
    """Write TABLE.csv and TABLE.txt into the output folder, and print the text."""
    sizes, table = request.sizes, request.table
    path = write_csv(request)
    text = "\n".join([f"{table.caption}; top-1 %", *lines(request.cells, sizes)])
    if not sizes.as_paper:
        text += ("\nThe paper's numbers are for ImageNet-1K at full size; these runs: "
                 f"{sizes.words()}.")
    write_bytes(path.with_suffix(".txt"), f"{text}\n".encode())
    print(f"\n{text}\nWork that cells share is counted in each of them. All columns: {path}",
          flush=True)


def lines(cells, sizes):
    """The paper's number beside ours, a line per cell that has one of ours."""
    rows = [("cell", "paper", "ours (best)", "last", "seeds", "cost", "")]
    for cell in cells:
        outcome = read_outcome(cell, sizes)
        if outcome.best:
            rows.append((cell.name, cell.paper_words, spread(outcome.best), spread(outcome.last),
                         str(len(outcome.best)), hours_words(outcome),
                         "not as in the paper" if outcome.departures else ""))
    return columns(rows)


def hours_words(outcome):
    """"1.3 GPU-hours", or hours on the CPU."""
    number = f"{outcome.hours:.2f}" if outcome.hours < 1 else f"{outcome.hours:.1f}"
    return f"{number} {'CPU' if outcome.device == 'cpu' else 'GPU'}-hours"


def write_csv(request):
    """Write TABLE.csv with a line per cell of the table that has a finished student.

    Returns its path.
    """
    path = request.sizes.output_dir / f"{request.table.name}.csv"
    with written_whole(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for cell in request.table.cells:
            outcome = read_outcome(cell, request.sizes)
            if outcome.best:
                writer.writerow(_row(cell, outcome, request.sizes))
    return path


def _row(cell, outcome, sizes):
    paper = ["" if value is None else value for value in (cell.paper, cell.std)]
    mean = [f"{statistics.mean(values):.3f}" for values in (outcome.best, outcome.last)]
    deviation = [f"{statistics.stdev(values):.3f}" if len(values) > 1 else ""
                 for values in (outcome.best, outcome.last)]
    return [cell.table, cell.name, cell.title, *paper, mean[0], deviation[0], len(outcome.best),
            "all stages" if sizes.full_seeds else "student",
            " ".join(f"{value:.2f}" for value in outcome.best), mean[1], deviation[1],
            f"{outcome.hours:.4f}", outcome.device, "; ".join(outcome.departures)]
