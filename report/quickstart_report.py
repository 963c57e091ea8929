"""The quickstart's report: table, grid and curves from what the stages left on disk."""

import csv
import json
import statistics
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure

from data.image_set import open_distilled
from data.images import save_grid
from data.names import class_words
from models.networks import load_network
from report import similarity
from report.sets import open_sets
from report.start_grid import grid_rows
from report.verdicts import spread
from utils.files import read_json, write_bytes, written_whole
from utils.plots import COLOURS, save_figure

KINDS = ("soft", "hard")  # labels
GRID_SLICES = 3
GRID_WIDTH = 1400  # pixels that the columns may take

TEXT = """# {name}, distilled to {images} images

{table}

{findings}

Top-1 is the best of the tests every {every} epochs{as_in_paper} on {test_images} real images that
no network was trained on{caveat}; {seeds}.
Soft labels come from the {teacher_count} teachers, hard labels are the class alone.
The cosine is that of {teacher}'s penultimate features over all pairs of a class; lower is more
diverse. Last and best of every seed: [table.csv](table.csv).

## Images
{grid_words}

![grid](grid.png)

## Students
![curves](curves.png)

## Teachers
{teachers}

## Steps
Sizes: {sizes}; {threads} CPU threads.

{steps}

## Commands
```
{commands}
```
"""
# The teachers' recipes for digits were chosen by looking at the test digits.
DIGITS_CAVEAT = " (the teachers' recipes were chosen by looking at them)"


@dataclass(frozen=True)
class Row:
    """What was measured on one set. cosine: None for one image per class,
    which has no pairs. best, last: {kind of labels: top-1 in per cent per seed}."""

    name: str
    images: int
    test_images: int
    cosine: float | None
    best: dict
    last: dict


def write_report(out, recipe, folders, seeds, seconds, device):
    """Write table.csv, grid.png, curves.png and report.md into `out`, and print the table.

    recipe: reproduce.quickstart.Recipe. folders: {name of a set: run folder}. seeds: number of
    students per set and kind of labels. seconds: {step: {"seconds", "command"}}. device: a
    torch.device for the features. Returns the report's path.
    """
    names = recipe.teachers  # the first one gives the features
    network = load_network(out / "teachers" / f"{names[0]}.safetensors")[0].eval().to(device)
    rows = [measure(name, folder, seeds, network, device) for name, folder in folders.items()]
    first = next(iter(folders.values()))
    student = read_json(first / "students/soft_seed0/result.json", "validate")["options"]

    write_csv(rows, out / "table.csv")
    grid_words = draw_grid(folders, recipe.train_dir, out / "grid.png")
    draw_curves(folders, seeds, out / "curves.png")

    accuracies = [read_json(out / "teachers" / f"{name}.json", "squeeze")["result"]["top1"]
                  for name in names]
    total = sum(step["seconds"] for step in seconds.values())
    text = TEXT.format(
        name=recipe.name, images=rows[0].images, every=student["eval_every"],
        as_in_paper=", as in the paper," if student["eval_every"] == 10 else " (the paper: 10)",
        test_images=f"{rows[0].test_images:,}", teacher=names[0], teacher_count=len(names),
        caveat=DIGITS_CAVEAT if student["dataset"] == "digits" else "",
        seeds=f"{seeds} student seed{'s' if seeds > 1 else ''}",
        table=results_table(rows), findings=findings(rows), grid_words=grid_words,
        teachers=markdown_table(["teacher", "top-1"], [
            [name, f"{top1:.1f}"] for name, top1 in zip(names, accuracies, strict=True)]),
        sizes=f"{student['image_size']} px, IPC {recipe.ipc}, {recipe.iteration} steps, "
              f"{recipe.epochs} epochs, stem {student['stem']}",
        threads=torch.get_num_threads(),
        steps=markdown_table(["step", "seconds"], [
            *([title, step["seconds"]] for title, step in seconds.items()),
            ["together", f"{total:.0f}"]]),
        commands="\n".join(step["command"] for step in seconds.values()))

    write_bytes(out / "report.md", text.encode())
    print(f"\n{results_table(rows)}\n\n{findings(rows)}", flush=True)
    return out / "report.md"


# Numbers

def measure(name, folder, seeds, network, device):
    """The Row of a set, from its images and its students' results."""
    images = open_distilled(folder / "images")
    cosines = similarity.cosines(images, network, device)
    results = {kind: [read_json(folder / f"students/{kind}_seed{seed}/result.json", "validate")
                      for seed in range(seeds)] for kind in KINDS}
    best, last = ({kind: [result[which]["top1"] for result in results[kind]] for kind in KINDS}
                  for which in ("best", "last"))
    return Row(name, len(images), results["soft"][0]["test_images"], similarity.mean(cosines),
               best, last)


def sampling_error(percent, count):
    """Standard error of a proportion measured on `count` images, all in per cent.

    100 sqrt(p (1 - p) / n).
    """
    return 100 * (percent / 100 * (1 - percent / 100) / count) ** 0.5


def findings(rows):
    """A list of sentences: the first set (PRISM) beside each other one, and the order of diversity.

    A difference counts from two standard errors of it, sqrt(a^2 + b^2) of those of the two numbers;
    smaller ones are marked as what the test images cannot tell.
    """
    first, sentences = rows[0], []
    for kind in KINDS:
        for other in rows[1:]:
            a, b = statistics.mean(first.best[kind]), statistics.mean(other.best[kind])
            count = first.test_images
            error = (sampling_error(a, count) ** 2 + sampling_error(b, count) ** 2) ** 0.5
            doubt = ("" if abs(a - b) > 2 * error
                     else f"; {count} test images cannot tell (standard error {error:.1f})")
            distance = "as good as" if a == b else (
                f"{abs(a - b):.1f} points {'above' if a > b else 'below'}")
            sentences.append(f"- {kind} labels: {first.name} is {distance} {other.name}{doubt}")
    if all(row.cosine is not None for row in rows):
        diverse = ", ".join(row.name for row in sorted(rows, key=lambda row: row.cosine))
        sentences.append(f"- diversity (lowest cosine first): {diverse}")
    return "\n".join(sentences)


# Tables

def markdown_table(header, lines):
    """A Markdown table."""
    cells = [" | ".join(map(str, line)) for line in [header, *lines]]
    text = [f"| {line} |" for line in cells]
    return "\n".join([text[0], "|---" * len(header) + "|", *text[1:]])


def results_table(rows):
    """Best top-1 with its spread over seeds, and diversity, a line per set."""
    header = ["set", "top-1 soft labels", "top-1 hard labels", "mean intra-class cosine"]
    return markdown_table(header, [
        [row.name, *(spread(row.best[kind]) for kind in KINDS),
         "–" if row.cosine is None else f"{row.cosine:.3f}"]
        for row in rows])


def write_csv(rows, path):
    """Write a line per set and seed."""
    columns = [f"{kind}_{which}_top1" for kind in KINDS for which in ("best", "last")]
    with written_whole(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["set", "seed", "images", *columns, "intra_class_cosine"])
        for row in rows:
            for seed in range(len(row.best["soft"])):
                numbers = [round(values[kind][seed], 2) for kind in KINDS
                           for values in (row.best, row.last)]
                writer.writerow([row.name, seed, row.images, *numbers,
                                 "" if row.cosine is None else round(row.cosine, 4)])


# Pictures

def draw_grid(folders, train_dir, path):
    """Start images above what PRISM and SRe2L made of them, then the random subset.

    The first slices are shown, and of many classes as many as fit beside one another. train_dir:
    of start images that are files. Returns sentences that say what is seen.
    """
    sets = open_sets(folders, workers=1)
    first = next(iter(sets.values()))
    count = min(len(first.classes), max(4, GRID_WIDTH // max(64, first.image_size)))
    slices = range(min(GRID_SLICES, len(first) // len(first.classes)))
    rows, names, _ = grid_rows(sets, folders, range(count), slices, train_dir)
    save_grid(rows, path, names, [class_words(name) for name in first.classes[:count]], cell=64)

    columns = "class" if count == len(first.classes) else f"class, of the first {count}"
    return (f"The first {len(slices)} images of a class are shown; a column is a {columns}. PRISM "
            "and SRe2L started from the images in the row \"start\".")


def draw_curves(folders, seeds, path):
    """Test accuracy over epochs, a colour per set; solid: soft labels, dashed: hard."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for i, (name, folder) in enumerate(folders.items()):
        for kind, style in zip(KINDS, ("-", "--"), strict=True):
            for seed in range(seeds):
                label = f"{name}, {kind} labels" if seed == 0 else None
                metrics = folder / f"students/{kind}_seed{seed}/metrics.jsonl"
                axes.plot(*tested(metrics), style, color=COLOURS[i], marker="o", markersize=3,
                          label=label)
    axes.set(xlabel="epoch", ylabel="top-1 on the real test images (%)", xlim=(0, None))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(figure, path, dpi=120)


def tested(metrics):
    """(epochs, top-1 in per cent) of the epochs in a metrics.jsonl that were tested."""
    lines = [json.loads(text) for text in metrics.read_text().splitlines()]
    lines = [line for line in lines if line.get("top1") is not None]
    return [line["epoch"] + 1 for line in lines], [line["top1"] for line in lines]
