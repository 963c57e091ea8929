"""The quickstart's report: table, grids and curves from what the stages left on disk."""

import csv
import json
import statistics
from dataclasses import asdict

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from data import images
from data.distilled import DistilledImages
from models.networks import load_network
from report.metrics import intra_class_cosine
from report.sets import open_sets, penultimate
from report.start_grid import grid_rows
from report.verdicts import spread
from utils.files import read_json, write_bytes, written_whole

KINDS = ("soft", "hard")
GRID_SLICES = 3


def mean_cosine(distilled, network):
    """Mean intra-class cosine similarity of the teacher's penultimate features (paper Fig. 4)."""
    return intra_class_cosine(penultimate(distilled.pixels, network.eval(), torch.device("cpu")), distilled.labels)[1]


def collect(out, sets, seeds, network):
    """A row per set: {"set", "images", "cosine", "soft": [best top-1 per seed], "soft_last": ..., "hard": ..., ...}."""
    rows = []
    for name, (folder, _) in sets.items():
        distilled = DistilledImages(out / folder / "images")
        row = {"set": name, "folder": folder, "images": len(distilled), "cosine": mean_cosine(distilled, network)}
        for kind in KINDS:
            results = [read_json(out / folder / "students" / f"{kind}_seed{s}" / "result.json", "validate")
                       for s in range(seeds)]
            row[kind] = [r["best"]["top1"] for r in results]
            row[f"{kind}_last"] = [r["last"]["top1"] for r in results]
        rows.append(row)
    return rows


def markdown_table(rows):
    lines = ["| set | top-1 soft labels | top-1 hard labels | mean intra-class cosine |", "|---|---|---|---|"]
    lines += [f"| {r['set']} | {spread(r['soft'])} | {spread(r['hard'])} | {r['cosine']:.3f} |" for r in rows]
    return "\n".join(lines)


def sampling_error(percent, tests):
    """Of a proportion in per cent measured on `tests` images: 100 sqrt(p (1 - p) / n)."""
    return 100 * (percent / 100 * (1 - percent / 100) / tests) ** 0.5


def in_words(rows, tests):
    """The first set (PRISM) beside each other one, saying where `tests` test images cannot tell a difference.

    A difference counts from two standard errors of it, sqrt(a^2 + b^2) of those of the two numbers.
    """
    ours, sentences = rows[0], []
    for kind in KINDS:
        for other in rows[1:]:
            a, b = statistics.mean(ours[kind]), statistics.mean(other[kind])
            error = (sampling_error(a, tests) ** 2 + sampling_error(b, tests) ** 2) ** 0.5
            verdict = "above" if a > b else "below"
            doubt = "" if abs(a - b) > 2 * error else f"; {tests} test images cannot tell (standard error {error:.1f})"
            sentences.append(f"- {kind} labels: {ours['set']} is {abs(a - b):.1f} points {verdict} {other['set']}{doubt}")
    order = sorted(rows, key=lambda r: r["cosine"])
    sentences.append(f"- diversity (lowest cosine first): {', '.join(r['set'] for r in order)}")
    return "\n".join(sentences)


def draw_grid(out, sets, path):
    """Start images above PRISM's and SRe2L's results from them, then the random subset; the first slices, a class a column."""
    runs = {name: out / folder for name, (folder, _) in sets.items()}
    loaded = open_sets(runs, workers=1)
    first = next(iter(loaded.values()))
    slices = range(min(GRID_SLICES, len(first) // len(first.classes)))
    rows, names, _ = grid_rows(loaded, runs, range(len(first.classes)), slices)
    images.save_grid(rows, path, names, first.classes, cell=64)


def draw_curves(out, sets, seeds, path):
    """Test accuracy over epochs, a colour per set; solid: soft labels, dashed: hard."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for colour, (name, (folder, _)) in zip(("C0", "C1", "C2"), sets.items(), strict=True):
        for kind, style in zip(KINDS, ("-", "--"), strict=True):
            for seed in range(seeds):
                lines = (out / folder / "students" / f"{kind}_seed{seed}" / "metrics.jsonl").read_text().splitlines()
                points = [(m["epoch"] + 1, m["top1"]) for m in map(json.loads, lines) if m.get("top1") is not None]
                axes.plot(*zip(*points, strict=True), style, color=colour, marker="o", markersize=3,
                          label=f"{name}, {kind} labels" if seed == 0 else None)
    axes.set(xlabel="epoch", ylabel="top-1 on the test digits (%)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def write_csv(rows, path):
    """One line per set and seed."""
    with written_whole(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["set", "seed", "images", *(f"{kind}_{which}_top1" for kind in KINDS for which in ("best", "last")),
                         "intra_class_cosine"])
        for row in rows:
            for seed in range(len(row["soft"])):
                writer.writerow([row["set"], seed, row["images"],
                                 *(round(row[key][seed], 2) for kind in KINDS for key in (kind, f"{kind}_last")),
                                 round(row["cosine"], 4)])


def write_report(out, sets, seeds, teachers, seconds, sizes):
    """Write table.csv, grid.png, curves.png and report.md into `out`, print the table, return the report's path.

    sets: {name: (folder, recover options)}. seconds: {step: {"seconds", "command"}}. sizes: dataclass of the run's sizes.
    """
    network = load_network(out / "teachers" / f"{teachers[0]}.safetensors")[0]
    rows = collect(out, sets, seeds, network)
    tests = read_json(out / rows[0]["folder"] / "students" / "soft_seed0" / "result.json", "validate")["test_images"]
    write_csv(rows, out / "table.csv")
    draw_grid(out, sets, out / "grid.png")
    draw_curves(out, sets, seeds, out / "curves.png")
    table, words = markdown_table(rows), in_words(rows, tests)
    of_teachers = [read_json(out / "teachers" / f"{name}.json", "squeeze") for name in teachers]
    total = sum(step["seconds"] for step in seconds.values())
    text = f"""# Digits, distilled to {rows[0]['images']} images

{table}

{words}

Top-1 is the best of the tests every 10 epochs, as in the paper, on {tests} real digits that no net was trained on (the teachers'
recipes were chosen by looking at them); {seeds} student seed{'s' if seeds > 1 else ''}.
Soft labels come from the four teachers, hard labels are the class alone.
The cosine is that of {teachers[0]}'s penultimate features over all pairs of a class; lower is more diverse.
Last and best of every seed: [table.csv](table.csv).

## Images
Three slices; a column is a class. PRISM and SRe2L started from the images in the row "start".

![grid](grid.png)

## Students
![curves](curves.png)

## Teachers
| teacher | top-1 |
|---|---|
""" + "\n".join(f"| {name} | {about['result']['top1']:.1f} |" for name, about in zip(teachers, of_teachers, strict=True)) + f"""

## Steps
Sizes: {', '.join(f'{k} {v}' for k, v in asdict(sizes).items() if not isinstance(v, tuple))}; {torch.get_num_threads()} CPU threads.

| step | seconds |
|---|---|
""" + "\n".join(f"| {title} | {step['seconds']} |" for title, step in seconds.items()) + f"""
| together | {total:.0f} |

## Commands
```
""" + "\n".join(step["command"] for step in seconds.values()) + "\n```\n"
    write_bytes(out / "report.md", text.encode())
    print(f"\n{table}\n\n{words}", flush=True)
    return out / "report.md"
