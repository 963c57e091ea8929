"""The page's sections of what records say: how the sets were made, at what cost, by which commands.
"""

import statistics
from pathlib import Path

from report import document
from report.document import Code, Fold, Section, Table
from utils.files import read_json
from utils.progress import size_words


def made_section(page):
    """What each set is and how it was made; all options are folded away."""
    runs = page.runs.values()
    rows = [("images", [f"{len(run.images):,}" for run in runs]),
            ("per class", [run.ipc for run in runs]),
            ("method", [method_words(run) for run in runs]),
            ("start", [_option(run.made, "start") for run in runs]),
            ("steps", [_option(run.made, "iteration") for run in runs]),
            ("teachers of the images", [_teachers(run.made) for run in runs]),
            ("teachers of the labels", [_teachers(run.labels) for run in runs]),
            ("seed of images, labels", [f"{_option(run.made, 'seed')}, "
                                        f"{_option(run.labels, 'fkd_seed')}" for run in runs]),
            ("made with", [_versions(run) for run in runs])]
    table = Table(("", *page.runs), tuple((name, *cells) for name, cells in rows), words=True)
    folds = [Fold(title, (option_table(columns),)) for title, columns in (
        ("All options of the images", {run.name: run.made.get("options", {}) for run in runs}),
        ("All options of the labels", {run.name: run.labels.get("options", {}) for run in runs}),
        ("All options of the students", student_options(page))) if any(columns.values())]
    return Section("How they were made", (table, *folds))


def method_words(run):
    """The preset of a set, and how many of its options differ."""
    if not run.made:
        return "not known"
    if run.is_real:
        return "none: real images"
    preset, changed = run.made.get("preset") or "no preset", run.made.get("preset_changed")
    if not changed:
        return preset
    return f"{preset}, {len(changed)} option{'s' * (len(changed) > 1)} changed"


def _option(manifest, name):
    value = manifest.get("options", {}).get(name)
    return document.NONE if value is None else str(value)


def _teachers(manifest):
    """The networks of images.json or labels.json, with their accuracy where a record says it."""
    measured = manifest.get("teachers", {})  # of the images, those that took part
    weights = Path(manifest.get("teacher_weights") or "")
    words = []
    for name in measured or manifest.get("options", {}).get("teachers") or ():
        record = weights / f"{name.replace('/', '_')}.json"
        top1 = (measured.get(name) or {}).get("top1")
        if record.is_file():
            top1 = read_json(record, "models.pretrain").get("result", {}).get("top1", top1)
        words.append(name if top1 is None else f"{name} ({top1:.1f} %)")
    return ", ".join(words) or document.NONE


def _versions(run):
    return ", ".join(f"{name} {version}" for name, version in
                     run.made.get("versions", {}).items()) or "not known"


def student_options(page):
    """{recipe: options} of the first student of each recipe."""
    columns = {}
    for recipe in page.recipes:
        student = next(s for run in page.runs.values() for s in run.of_recipe(recipe))
        columns[str(recipe)] = {name: value for name, value in student.result["options"].items()
                                if name != "seed"}
    return columns


def option_table(columns):
    """A line per option, a column per {option: value}."""
    names = dict.fromkeys(name for values in columns.values() for name in values)
    rows = tuple((name, *(_value(values.get(name)) for values in columns.values()))
                 for name in names)
    return Table(("option", *columns), rows, words=True)


def _value(value):
    if value is None:
        return document.NONE
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


# Cost

def cost_section(page):
    """Bytes, seconds and devices of each set."""
    rows = {"images on disk": [], "labels on disk": [], "seconds of the images": [],
            "seconds of the labels": [], "seconds of a student": [], "device of the students": []}
    for run in page.runs.values():
        seconds = [student.result["seconds"] for student in run.students]
        labelled = [step.seconds for step in run.steps
                    if "relabel.generate_soft_label" in step.command]
        devices = dict.fromkeys(student.result.get("device") for student in run.students)
        cells = (size_words(run.image_bytes),
                 size_words(run.label_bytes) if run.label_bytes else document.NONE,
                 _seconds(run.seconds),
                 _seconds(statistics.mean(labelled) if labelled else None),
                 _seconds(statistics.mean(seconds) if seconds else None),
                 ", ".join(filter(None, devices)) or document.NONE)
        for row, cell in zip(rows.values(), cells, strict=True):
            row.append(cell)
    return Section("Cost", (Table(("", *page.runs), tuple(
        (name, *cells) for name, cells in rows.items())),))


def _seconds(value):
    return document.NONE if value is None else f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def commands_section(page):
    """The recorded commands, each once, with the seconds that they took."""
    recorded = [step for run in page.runs.values() for step in run.steps]
    if not recorded:
        return Section("Commands", ())
    files = list(dict.fromkeys(step.file for step in recorded))
    steps = {}
    for step in sorted(recorded, key=lambda step: (files.index(step.file), step.place)):
        steps.setdefault(step.command, step)
    total = sum(step.seconds for step in steps.values())
    rows = tuple((step.title, f"{step.seconds:,.1f}") for step in steps.values())
    return Section("Commands", (
        Code(tuple(steps)), Fold(f"Seconds of each step, {total:,.0f} together", (
            Table(("step", "seconds"), rows),))))
