"""A laboratory: parts of the papers' claims on a dataset that is small enough for a CPU.

    python -m reproduce.laboratory digits [table2 table3 labels] [--option value ...]
    python -m reproduce.laboratory fashion_mnist --train-dir DIR [methods ...] [--option value ...]

Every seed makes its own images, labels and student; the teachers are trained once. Writes a CSV
file of each part (a line per row and seed), a picture and report.md with a verdict for each
ordering of the paper. What is finished is skipped.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from reproduce import ROOT, commands, lab_digits, lab_fashion
from reproduce.run import run_commands
from reproduce.sizes import Sizes, settle
from utils import options
from utils.errors import UserError, run_entry
from utils.options import RoomOptions, option

LABORATORIES = {lab.dataset: lab for lab in (lab_digits.LABORATORY, lab_fashion.LABORATORY)}
UNITS_PER_STEP = 10  # units of ten images each that share a forward in recover


@dataclass(frozen=True)
class Run:
    """What the runs of a laboratory are told; None means what the part says."""

    seeds: tuple = option((0, 1, 2), "of images, labels and student together", group="size",
                          type=options.seed, nargs="+")
    ipc: int | None = option(None, "images per class, of parts that have one IPC (default: the "
                             "part's)", group="size", type=options.positive_int)
    iteration: int | None = option(None, "steps of the longest slices (default: the part's)",
                                   group="size", type=options.positive_int)
    epochs: int | None = option(
        None, "of soft labels and of the students of tables 2 and 3 (default: the part's)",
        group="size", type=options.positive_int)
    train_dir: Path | None = option(
        None, "folder of the dataset, where torchvision keeps it (digits need none)", group="data",
        type=options.path)
    teacher_weights: str | None = option(
        None, "folder of teachers (default: they are trained first)", group="data")
    diffusion_weights: str | None = option(
        None, "folder of the diffusion model (default: it is trained first)", group="data")
    threads: int | None = option(None, "CPU threads of PyTorch (default: its choice)",
                                 type=options.thread_count)
    collect: bool = option(False, "train nothing: write the CSV files and the report of the parts, "
                           "all of which are finished")
    output_dir: Path | None = option(
        None, "run folders, report (default: results/lab_NAME)", group="data", type=options.path)
    csv_dir: Path | None = option(None, "where the CSV files go (default: OUTPUT_DIR)",
                                  group="data", type=options.path)


@dataclass(frozen=True)
class Options(RoomOptions):
    """All options of a laboratory."""

    run: Run


def parse(argv=None):
    """(Laboratory, names of its parts, Run) of a command line."""
    parser = options.build_parser(Options, "reproduce.laboratory",
                                  "Claims of the papers on a small dataset, with errors.")
    parser.add_argument("dataset", choices=list(LABORATORIES), help="which laboratory")
    listed = (f"{name}: {', '.join(lab.defaults)}"
              + (f" (default), {', '.join(lab.further)}" if lab.further else "")
              for name, lab in LABORATORIES.items())
    parser.add_argument("parts", nargs="*", metavar="PART", help="; ".join(listed))
    given = parser.parse_intermixed_args(argv)

    laboratory = LABORATORIES[given.dataset]
    unknown = [name for name in given.parts if name not in laboratory.words]
    if unknown:
        raise UserError(f"{unknown[0]}: the laboratory of {given.dataset} has no such part. It has "
                        f"{', '.join(laboratory.words)}.")
    run = Run(**{name: getattr(given, name) for name in Run.__dataclass_fields__})
    return laboratory, given.parts or laboratory.defaults, run


def main(argv=None):
    laboratory, names, run = parse(argv)

    from reproduce import lab_report, steps  # need PyTorch, which --help does not

    # Make what is missing, a part after the other.
    work = graphs(laboratory, names, run)
    if not run.collect:
        outcomes = [run_commands(graph, sizes) for graph, sizes in work.values()]
        steps.end([failure for failures, _ in outcomes for failure in failures],
                  sum(total for _, total in outcomes))

    # Measure what is there, and report it.
    measured = {}
    for name in names:
        if name != "teachers":
            _, sizes = work[name]
            measured[name] = measure(laboratory.parts[name], sizes)
            lab_report.write_csv(measured[name], csv_file(laboratory, name, run))
    if measured:
        lab_report.write_report(laboratory, measured, folder(laboratory, run))


def graphs(laboratory, names, run):
    """{name of a part: (its commands, as commands.graph gives them; its Sizes)}."""
    found = {}
    for name in names:
        sizes = lab_sizes(laboratory, run, laboratory.parts.get(name))
        if name == "teachers":
            nets = laboratory.teachers if sizes.trains_teachers else ()
            found[name] = {commands.squeeze(net, sizes): () for net in nets}, sizes
        else:
            found[name] = commands.graph(laboratory.parts[name].cells, sizes), sizes
    return found


def csv_file(laboratory, name, run):
    """The CSV file of a part."""
    return (run.csv_dir or folder(laboratory, run)) / f"{laboratory.name}_{name}.csv"


def folder(laboratory, run):
    """Of the run folders and the report."""
    return run.output_dir or ROOT / "results" / f"lab_{laboratory.name}"


def lab_sizes(laboratory, run, part=None):
    """The Sizes of a part's runs; without a part, of the teachers."""
    sizes = Sizes(
        dataset=laboratory.dataset, train_dir=run.train_dir, output_dir=folder(laboratory, run),
        teacher_weights=run.teacher_weights, diffusion_weights=run.diffusion_weights,
        seeds=tuple(run.seeds), full_seeds=1, threads=run.threads)
    if part is not None:
        ipc = part.ipc and (run.ipc or part.ipc)
        sizes = replace(sizes, iteration=run.iteration or part.iteration, ipc=ipc,
                        epochs=part.epochs and (run.epochs or part.epochs),
                        units_per_step=ipc or UNITS_PER_STEP)
    return settle(sizes)


def measure(part, sizes):
    """What the finished rows of a part say: a dict per row and seed, a line of its CSV file."""
    from reproduce.lab_measures import ImageMeasures
    from utils.files import read_json

    images = ImageMeasures(sizes) if part.measures_images else None
    lines = []
    for cell in part.cells:
        steps = image_steps(cell, sizes)
        for seed in sizes.seeds:
            folder = commands.student_folder(cell, sizes, seed)
            result = read_json(folder / "result.json", "the same command")
            run_folder = commands.run_folder(cell, sizes, seed)
            lines.append({
                "row": cell.name, "seed": seed, "ipc": sizes.ipc or cell.ipc,
                "iteration": steps, "epochs": result["options"]["epochs"],
                "best_top1": round(result["best"]["top1"], 2),
                "last_top1": round(result["last"]["top1"], 2),
                **(images.of(run_folder) if images else {}),
                **(label_bytes(commands.labels_folder(cell, sizes, seed))
                   if part.measures_labels else {})})
    return lines


def image_steps(cell, sizes):
    """Steps of a cell's images: 0 for real ones, None for samples of a diffusion model."""
    folder = commands.run_folder(cell, sizes, sizes.seeds[0])
    made = next(command for command in commands.cell_commands(cell, sizes)
                if command.folder == folder)
    return made.resolved().get("iteration")


def label_bytes(folder):
    """{"label_bytes"}: of all label files of a folder, 0 where none are stored."""
    from data import labels

    return {"label_bytes": sum(labels.epoch_file(folder, epoch).stat().st_size
                               for epoch in labels.epochs_in(folder))}


if __name__ == "__main__":
    run_entry(main)
