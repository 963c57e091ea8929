"""What the folder of a set says about it: images, records, labels, students, seconds, commands."""

import json
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from data.image_set import ImageSet
from data.labels import LabelStore
from data.run_folder import read_manifest
from utils.errors import UserError
from utils.files import damaged, read_json

_LEFT_OUT = ("loss_type",)  # of a recipe's settings: said by the kind of its labels
_MADE = ("noise", "mosaic")  # starts that are no real image as it is
_FREE = ("fkd_seed", "compile")  # options of labels that make no other recipe


@dataclass(frozen=True, order=True)
class Recipe:
    """How a student was trained, but for its seeds.

    labels: "soft" or "hard". protocol: the preset. settings: "name value" where it departs from it.
    label_settings: likewise, of how its soft labels were made.
    """

    network: str
    labels: str
    protocol: str
    settings: tuple
    label_settings: tuple = ()

    @property
    def short(self):
        """Network and labels in words."""
        return f"{self.network}, {self.labels} labels"

    def __str__(self):
        settings = f", {', '.join(self.settings)}" if self.settings else ""
        labels = f"; labels: {', '.join(self.label_settings)}" if self.label_settings else ""
        return f"{self.short} ({self.protocol}{settings}{labels})"


@dataclass(frozen=True)
class Student:
    """A finished student.

    top1, last: in per cent, best test and last. tests: (epoch, top-1). seed, fkd_seed: its own and
    that of its soft labels.
    """

    recipe: Recipe
    seed: int
    top1: float
    last: float
    tests: tuple
    result: dict

    @property
    def fkd_seed(self):
        """None without soft labels of relabel."""
        return _label_options(self.result).get("fkd_seed")


@dataclass(frozen=True)
class Step:
    """A timed command. file, place: its timings.json, and its place in it."""

    file: Path
    place: int
    title: str
    command: str
    seconds: float


@dataclass(frozen=True)
class Run:
    """A set and what its folder keeps; {} and () where there is nothing.

    made: images.json. labels: {name: LabelStore}. students: Students. image_bytes: of the files.
    seconds: that its images took, None where no record says so. steps: Steps that worked on it.
    """

    name: str
    folder: Path
    images: ImageSet
    made: dict
    labels: dict
    students: tuple
    image_bytes: int
    seconds: float | None
    steps: tuple

    @property
    def ipc(self):
        """Images per class, as a number or "least to most"."""
        counts = [len(indices) for indices in self.images.by_class]
        return str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"

    @property
    def is_real(self):
        """Whether the images are real training images as they are."""
        options = self.made.get("options", {})
        return (options.get("iteration") == 0 and options.get("start") not in _MADE
                and not self.made.get("identity", {}).get("start_images"))

    def of_recipe(self, recipe):
        """The students of a Recipe, by seed; of those with the same seeds the first."""
        students = {}
        for student in self.students:
            if student.recipe == recipe:
                students.setdefault((student.seed, student.fkd_seed), student)
        return sorted(students.values(), key=lambda student: student.seed)


def read_run(name, folder, images, work=None):
    """The Run of an opened set.

    work: folders of its labels and students, where they are not in its own (default: they are).
    """
    work, path = work or [folder], images.folder.parent / "images.json"
    made = read_manifest(path, "recover") if path.exists() else {}
    labels = read_labels([*work, folder])
    weights = {given["teacher_weights"] for given in (made, *(
        store.options for store in labels.values())) if given.get("teacher_weights")}
    return Run(
        name, folder, images, made, labels,
        students=tuple(student for place in work for student in read_students(place / "students")),
        image_bytes=sum(path.stat().st_size for path in images.paths),
        seconds=image_seconds(folder),
        steps=tuple(dict.fromkeys(step for place in [folder, *work]
                                  for step in steps_of(place, weights))))


def read_labels(places):
    """{name: LabelStore} of the labels folders in some folders.

    Of those of one name and with the same options the first counts: they are repeats.
    """
    labels = {}
    for place in places:
        for file in sorted(place.glob("labels*/labels.json")):
            name, store = file.parent.name, LabelStore(file.parent)
            if name in labels and labels[name].options != store.options:
                name = f"{place.name}/{name}"
            labels.setdefault(name, store)
    return labels


def read_students(folder):
    """The finished Students in a folder, by the names of theirs."""
    return [_student(path) for path in sorted(folder.glob("*/result.json"))]


def _student(path):
    result = read_json(path, "validate")
    try:
        return Student(recipe_of(result), result["options"]["seed"], result["best"]["top1"],
                       result["last"]["top1"], tests_in(path.with_name("metrics.jsonl")), result)
    except (LookupError, TypeError, AttributeError) as error:
        raise damaged(path, "validate", f"it does not say {error}") from None


def recipe_of(result):
    """The Recipe that a result.json was made by."""
    options, changed = result["options"], result.get("preset_changed", ())
    labels = "soft" if (result.get("identity") or {}).get("labels") else "hard"
    settings = tuple(f"{name} {_words(options.get(name))}"
                     for name in changed if name not in _LEFT_OUT)
    label_settings = tuple(f"{name} {_words(value)}"
                           for name, value in _label_options(result).items()
                           if value not in (None, []) and name not in (*_FREE, *changed))
    return Recipe(options["student"], labels, result.get("preset", ""), settings, label_settings)


def _label_options(result):
    """Options of a student's soft labels, of which older ones know crops alone; {} of hard ones."""
    labels = (result.get("identity") or {}).get("labels")
    if not labels:
        return {}
    options = {"augment": "crop", **labels["options"]}
    if "source" in options:  # of imported ones: the tool, and the hash of a file
        options["source"] = options["source"].split(",")[0]
    return options


def tell_apart(runs):
    """{name: Run} whose Recipes say of their labels only what tells them from each other.

    Recipes that are alike but for label_settings lose those that all of them have.
    """
    recipes = {student.recipe for run in runs.values() for student in run.students}
    alike = {}
    for recipe in recipes:
        alike.setdefault(replace(recipe, label_settings=()), []).append(set(recipe.label_settings))
    common = {recipe: set.intersection(*settings) for recipe, settings in alike.items()}

    def short(recipe):
        same = common[replace(recipe, label_settings=())]
        return replace(recipe, label_settings=tuple(setting for setting in recipe.label_settings
                                                    if setting not in same))

    return {name: replace(run, students=tuple(replace(student, recipe=short(student.recipe))
                                              for student in run.students))
            for name, run in runs.items()}


def _words(value):
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def tests_in(metrics):
    """((epoch, top-1 in per cent), ...) of the tests in a metrics.jsonl, epochs counted from 1."""
    if not metrics.exists():
        return ()
    try:
        lines = [json.loads(text) for text in metrics.read_text().splitlines()]
        return tuple((line["epoch"] + 1, line["top1"]) for line in lines
                     if line.get("top1") is not None)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise damaged(metrics, "validate", error) from None


def image_seconds(folder):
    """Seconds that the images of a run took, by its records; None without such.

    Units that were made together each note the seconds of all of them.
    """
    seconds = {}
    for path in sorted((folder / "units").glob("*.json")):
        record = read_json(path, "recover")
        if "seconds" not in record:
            return None
        together = record.get("units_together")
        seconds[tuple(together) if together else path.stem] = record["seconds"]
    return sum(seconds.values()) if seconds else None


def steps_of(folder, weights=()):
    """The Steps that worked on this folder.

    They are in timings.json, in the folder or beside it. weights: folders of its teachers, whose
    training belongs to it.
    """
    path = next((place / "timings.json" for place in (folder, folder.parent)
                 if (place / "timings.json").exists()), None)
    content, steps = read_json(path, "the same command") if path else {}, []
    for place, (title, step) in enumerate(content.items()):
        try:
            words, seconds = shlex.split(step["command"]), float(step["seconds"])
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise damaged(path, "the same command", error) from None
        trains = "models.pretrain" in words and any(_names(words, Path(w)) for w in weights)
        if trains or _names(words, folder):
            steps.append(Step(path, place, title, step["command"], seconds))
    return steps


def _names(words, folder):
    """Whether words of a command are paths of a folder, maybe from the project's root, or in it."""
    end = f"/{folder.parent.name}/{folder.name}"
    return any(f"/{word}".endswith(end) or f"{end}/" in f"/{word}" for word in words)


def named_folders(given):
    """{name: folder} of [(name or None, folder)]; those without a name are called as they are.

    Raises UserError for two of one name.
    """
    folders = [folder.resolve() for name, folder in given if name is None]
    short = [folder.name for folder in folders]
    names = {}
    for name, folder in given:
        if name is None:
            own = folder.resolve()
            name = own.name if short.count(own.name) == 1 else f"{own.parent.name}/{own.name}"
        if name in names:
            raise UserError(f"two sets are called {name}. Give each a name of its own, as "
                            f"{name}2={folder}.")
        names[name] = folder
    return names
