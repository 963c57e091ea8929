"""What finished cells say: top-1 over seeds, hours, as text and as CSV."""

import csv
import re
import statistics
from dataclasses import dataclass, field, replace

from report.verdicts import spread
from reproduce import commands
from reproduce.departures import departures
from utils.files import read_json, written_whole

COLUMNS = ("table", "cell", "row", "paper", "paper_std", "ours", "ours_std", "seeds", "seeds_of", "best_per_seed", "last",
           "last_std", "hours", "device", "departures")


@dataclass
class Outcome:
    """A cell's finished students. best, last: top-1 per seed, in per cent.

    hours: processes that worked side by side are added up; of images, labels and students, without what choosing start images
    and measuring statistics took.
    departures: words on what was not as in the paper.
    """

    best: list = field(default_factory=list)
    last: list = field(default_factory=list)
    hours: float = 0.0
    device: str = ""
    departures: list = field(default_factory=list)


def finished_seeds(cell, sizes):
    """Seeds of the cell's finished students: those asked for, and any others that lie there."""
    pattern = re.compile(r"seed(\d+)")
    student = commands.student_folder(cell, sizes, 0)
    if sizes.full_seeds:
        runs = commands.run_of(cell, sizes, 0)
        found = [pattern.search(path.name.removeprefix(runs.name)) for path in runs.parent.glob(f"{runs.name}_seed*")]
    else:
        prefix = student.name.removesuffix("seed0")
        found = [pattern.fullmatch(path.name.removeprefix(prefix)) for path in student.parent.glob(f"{prefix}seed*")]
    seeds = {int(match[1]) for match in found if match} | set(sizes.seeds) | {0}
    return [seed for seed in sorted(seeds) if (commands.student_folder(cell, sizes, seed) / "result.json").exists()]


def outcome(cell, sizes):
    """Read a cell's results from its run folders; an Outcome without seeds when no student is finished."""
    found, made = Outcome(), {}
    timings = sizes.output_dir / "timings.json"
    timings = read_json(timings, "the table scripts") if timings.exists() else {}
    seeds = finished_seeds(cell, sizes)
    for seed in seeds:
        path = commands.student_folder(cell, sizes, seed) / "result.json"
        result = read_json(path, "validate")
        found.best.append(result["best"]["top1"])
        found.last.append(result["last"]["top1"])
        found.device = result["device"]
        made[path] = result["seconds"]
        found.departures += [words for words in departures(cell, sizes, seed) if words not in found.departures]
    for command in commands.cell_commands(cell, replace(sizes, seeds=tuple(seeds))) if seeds else ():
        if command.stage == "recover":
            made[command.folder] = recover_seconds(command.folder)
        elif command.stage == "relabel":
            made[command.folder] = timings.get(command.title, {}).get("seconds", 0.0)
    found.hours = sum(made.values()) / 3600
    return found


def recover_seconds(run):
    """Seconds of one process that recover spent on a run folder, from its records. Units that shared forwards share a clock."""
    groups = {}
    for path in sorted((run / "units").glob("*.json")):
        record = read_json(path, "recover")
        if "seconds" in record:
            key = tuple(record.get("units_together") or [path.stem])
            groups[key] = max(groups.get(key, 0.0), record["seconds"])
    return sum(groups.values())


def paper_words(cell):
    """The paper's number as it stands there, "–" where it has none."""
    if cell.paper is None:
        return "–"
    digits = 2 if cell.words.get("panel", "schedule") != "schedule" else 1
    return f"{cell.paper:.{digits}f}" + ("" if cell.std is None else f" ± {cell.std:.1f}")


def hours_words(found):
    """"1.3 GPU-hours", or hours on the CPU."""
    number = f"{found.hours:.2f}" if found.hours < 1 else f"{found.hours:.1f}"
    return f"{number} {'CPU' if found.device == 'cpu' else 'GPU'}-hours"


def lines(cells, sizes):
    """Paper's number beside ours, a line per cell."""
    rows = [("cell", "paper", "ours (best)", "last", "seeds", "cost", "")]
    for cell in cells:
        found = outcome(cell, sizes)
        ours = ("not run", "", "", "", "")
        if found.best:
            ours = (spread(found.best), spread(found.last), str(len(found.best)), hours_words(found),
                    "not at the paper's sizes" if found.departures else "")
        rows.append((cell.name, paper_words(cell), *ours))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def write_csv(table, sizes):
    """OUTPUT_DIR/NAME.csv with every cell of a table; those not run have no numbers of ours. Returns its path."""
    path = sizes.output_dir / f"{table.name}.csv"
    with written_whole(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for cell in table.cells:
            writer.writerow(_row(cell, outcome(cell, sizes), sizes))
    return path


def _row(cell, found, sizes):
    head = [cell.table, cell.name, cell.title, *("" if v is None else v for v in (cell.paper, cell.std))]
    if not found.best:
        return [*head, "not run", "", 0, *[""] * (len(COLUMNS) - 8)]
    deviation = [f"{statistics.stdev(v):.3f}" if len(v) > 1 else "" for v in (found.best, found.last)]
    return [*head, f"{statistics.mean(found.best):.3f}", deviation[0], len(found.best),
            "all stages" if sizes.full_seeds else "student", " ".join(f"{v:.2f}" for v in found.best),
            f"{statistics.mean(found.last):.3f}", deviation[1], f"{found.hours:.4f}", found.device, "; ".join(found.departures)]
