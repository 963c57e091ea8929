"""The page's sections of what records say: how the sets were made, at what cost, by which commands.
"""

import statistics
from pathlib import Path

from data import labels
from report import document
from report.document import Code, Fold, Section, Table, Text
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
            *((f"teachers of {row}", map(_label_teachers, stores))
              for row, stores in label_rows(page).items()),
            ("seed of images, labels", [f"{_option(run.made, 'seed')}, {_label_seeds(run)}"
                                        for run in runs]),
            ("made with", [_versions(run) for run in runs])]
    table = Table(("", *page.runs), tuple((name, *cells) for name, cells in rows), words=True)
    folds = [Fold(title, (option_table(columns),)) for title, columns in (
        ("All options of the images", {run.name: run.made.get("options", {}) for run in runs}),
        ("All options of the labels", {name: store.identity["options"]
                                       for name, store in label_columns(page).items()}),
        ("All options of the students", student_options(page))) if any(columns.values())]
    return Section("How they were made", (table, *folds))


def method_words(run):
    """The preset of a set, and how many of its options differ; without one the method."""
    if run.is_real:
        return "none: real images"
    method = run.made.get("preset") or run.made.get("method") or "not known"
    changed = run.made.get("preset_changed")
    if not changed:
        return method
    return f"{method}, {len(changed)} option{'s' * (len(changed) > 1)} changed"


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


def _label_teachers(store):
    return document.NONE if store is None else _teachers(
        {"options": store.options, "teacher_weights": store.options["teacher_weights"]})


def _label_seeds(run):
    seeds = dict.fromkeys(store.options.get("fkd_seed") for store in run.labels.values())
    return " and ".join(map(_value, seeds)) or document.NONE


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


# Labels

def label_rows(page):
    """{words: [LabelStore of each set, or None]}: a row for each name that labels folders have.

    It is one row, whatever their names, where no set has several.
    """
    runs = page.runs.values()
    if all(len(run.labels) < 2 for run in runs):
        return {"the labels": [next(iter(run.labels.values()), None) for run in runs]}
    names = dict.fromkeys(name for run in runs for name in run.labels)
    return {name: [run.labels.get(name) for run in runs] for name in names}


def label_columns(page):
    """{words: LabelStore}: every labels folder, called as its set where no set has several."""
    alone = len(label_rows(page)) == 1
    return {name if alone else f"{name}: {folder}": store for name, run in page.runs.items()
            for folder, store in run.labels.items()}


def stored_words(store):
    """The bytes of a LabelStore's files, or what they would be where none are stored."""
    if store is None:
        return document.NONE
    if store.store == "none":
        own = labels.words(store.number_format)
        return f"not stored, {own} would take {size_words(label_sizes(store)[own])}"
    return size_words(sum(file.stat().st_size for file in store.folder.glob("*.safetensors")))


def label_sizes(store):
    """{number format: bytes of a LabelStore's files in it}, for the epochs that were asked for."""
    epochs = store.asked[1] if store.asked else len(store.epochs)
    sizes = labels.label_sizes(store.plan_options, store.number_format.classes, epochs,
                               store.number_format.top_k)
    return {name: size for name, size in sizes.items() if name != "none"}


def format_table(stores):
    """A line per number format, a column per {words: LabelStore}; the stored one stands out."""
    sizes = [label_sizes(store) for store in stores.values()]
    names = list(dict.fromkeys(name for of_store in sizes for name in of_store))
    rows = tuple((name, *(size_words(of_store[name]) if name in of_store else document.NONE
                          for of_store in sizes)) for name in names)
    bold = frozenset((names.index(labels.words(store.number_format)), c)
                     for c, store in enumerate(stores.values(), 1))
    return Table(("number format", *stores), rows, bold)


# Cost

def cost_section(page):
    """Bytes, seconds and devices of each set."""
    runs = page.runs.values()
    rows = [("images on disk", [size_words(run.image_bytes) for run in runs]),
            *((f"{row.removeprefix('the ')} on disk", map(stored_words, stores))
              for row, stores in label_rows(page).items()),
            ("seconds of the images", [_seconds(run.seconds) for run in runs]),
            ("seconds of the labels", [_mean_seconds(
                step.seconds for step in run.steps
                if "relabel.generate_soft_label" in step.command) for run in runs]),
            ("seconds of a student", [_mean_seconds(student.result["seconds"]
                                                    for student in run.students) for run in runs]),
            ("device of the students", [_devices(run) for run in runs])]
    table = Table(("", *page.runs), tuple((name, *cells) for name, cells in rows))
    stores = label_columns(page)
    fold = Fold("Estimated size of the labels in each number format", (
        format_table(stores), Text("Bold: the format that was chosen.")))
    return Section("Cost", (table, *((fold,) if stores else ())))


def _seconds(value):
    return document.NONE if value is None else f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def _mean_seconds(values):
    values = list(values)
    return _seconds(statistics.mean(values) if values else None)


def _devices(run):
    devices = dict.fromkeys(student.result.get("device") for student in run.students)
    return ", ".join(filter(None, devices)) or document.NONE


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
