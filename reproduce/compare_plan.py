"""What reproduce.compare does: the commands of a comparison, and in which folders they work."""

import re
from dataclasses import dataclass
from pathlib import Path

from data.names import flip_probability, is_wnids
from data.run_folder import read_manifest
from models.networks import check_name, file_stem, has_stem
from relabel.presets import PRESETS as LABEL_PRESETS
from report.sets import open_sets
from reproduce.commands import Command
from reproduce.compare import HARD, WHOLE
from utils import options
from utils.errors import UserError
from validate import rules
from validate.presets import PRESETS

_HARD = {"loss_type": "ce"}
_PLAIN = {**_HARD, "augment": "none", "flip_prob": 0.0, "mix_type": "none"}
_OF_REAL = ("all real", "held-out real")  # rows of the page, beside "random real"
_DELT = rules.LR_RULES[0]  # whose table of learning rates other protocols with AdamW take too


@dataclass(frozen=True)
class Place:
    """A set of images in a comparison.

    name: of the set. images: its folder of class folders. work: where its labels and students go.
    own: its run folder, with labels of its own perhaps. seeds: of the students that are trained.
    """

    name: str
    images: Path
    work: Path
    own: Path | None
    seeds: tuple


@dataclass(frozen=True)
class Plan:
    """A comparison.

    graph: {Command: tuple of the Commands it needs}, in order. places: the sets. random: {set:
    Places of the random subsets of its size, by seed}. real: Place of all real images, or None.
    folders: {set: folder} as they were given.
    """

    graph: dict
    places: tuple
    random: dict
    real: Place | None
    folders: dict


@dataclass(frozen=True)
class Facts:
    """What all commands are told.

    dataset, size, classes: of the real images. recipe, weights, stem: of the first labels that
    relabel made of a set, {} and None without such; other weights where they were given. epochs: of
    these labels, else of imported ones, or None.
    """

    dataset: str
    size: int
    classes: str | None
    recipe: dict
    weights: str | None
    epochs: int | None
    stem: str | None


def make(folders, o):
    """The Plan for {name: folder} and reproduce.compare.Options.

    Raises UserError for folders that are no sets of the same classes, and for names that are alike.
    """
    sets = open_sets(folders, workers=1)
    check_students(o.students.students)
    facts = read_facts(folders, sets, o)
    check_folders(facts, o)

    out, graph, places, random = o.run.output_dir, {}, [], {}
    seeds = tuple(dict.fromkeys(o.students.seeds))
    for name, images in sets.items():
        place = Place(name, images.folder, out / f"set_{_slug(name)}", folders[name], seeds)
        if name in _OF_REAL or name.startswith("random real"):
            raise UserError(f"{name}: the page calls real images so. Give the set another name.")
        if place.work in [other.work for other in places]:
            raise UserError(f"{name}: another set's name differs from it in signs alone. Name each "
                            "set differently.")
        places.append(place)
        add_students(graph, place, (), facts, o)

    ipcs = {name: rules.images_per_class(len(images), len(images.classes))
            for name, images in sets.items()}
    for name, ipc in ipcs.items():
        subset = "random real" + f", {ipc} per class" * (len(set(ipcs.values())) > 1)
        random[name] = tuple(random_place(subset, out, ipc, seed) for seed in seeds)
        for place, seed in zip(random[name], seeds, strict=True):
            draw = draw_real(place, {"ipc_end": ipc, "seed": seed}, facts, o)
            if draw not in graph:
                graph[draw] = ()
                add_students(graph, place, (draw,), facts, o)

    real = None
    if o.students.real_top1 == WHOLE:
        if "hard" not in o.students.protocol:
            raise UserError(f"--real-top1 {WHOLE}: found --protocol "
                            f"{' '.join(o.students.protocol)}, expected hard among them. Add it, "
                            "or leave --real-top1 out.")
        real = Place("all real", out / "all_real/images", out / "all_real", None, seeds)
        most = max(len(indices) for indices in open_train(facts, o).by_class)
        draw = draw_real(real, {"ipc_end": most, "allow_short_classes": True}, facts, o)
        graph[draw] = ()
        add_students(graph, real, (draw,), facts, o, only=("hard",))
    return Plan(graph, tuple(places), random, real, folders)


def check_students(students):
    """Raise UserError for (network, rate) pairs of unknown networks, or of one with two rates."""
    rates = {}
    for network, rate in students:
        check_name(network)
        if rates.setdefault(network, rate) != rate:
            raise UserError(f"{network}: found two learning rates in --students, expected one per "
                            "network. Compare each rate into another --output-dir.")


def random_place(name, out, ipc, seed):
    """The Place of a random real subset: each seed's students see their own."""
    folder = out / f"random_ipc{ipc}_seed{seed}"
    return Place(name, folder / "images", folder, None, (seed,))


def _slug(name):
    return re.sub(r"[^A-Za-z0-9]+", "_", name)


def read_facts(folders, sets, o):
    """The Facts, from the sets' records and from the options."""
    made = [manifest for manifest in (_manifest(folder / "images.json", "recover")
                                      for folder in folders.values()) if manifest]
    labelled = [manifest for manifest in (_manifest(folder / "labels/labels.json", "relabel")
                                          for folder in folders.values()) if manifest]
    relabelled = [manifest for manifest in labelled if not is_imported(manifest)]
    labels = next(iter(relabelled), {})
    first = next(iter(sets.values()))
    known = [images.dataset for images in sets.values() if images.dataset != "imagefolder"]
    dataset = o.real.dataset or next(iter(known), "imagefolder")

    chosen = next(filter(None, (manifest["options"].get("classes") for manifest in made)), None)
    names = next(filter(None, (images.known_classes for images in sets.values())), ())
    if chosen is None and dataset == "imagefolder" and is_wnids(names) and 1 < len(names) < 1000:
        chosen = ",".join(names)

    recipe = {name: value for name, value in labels.get("options", {}).items()
              if name not in ("image_size", "compile") and value is not None}
    weights = o.labels.teacher_weights or labels.get("teacher_weights")
    epochs = next((manifest["asked"][1] for manifest in [*relabelled, *labelled]), None)
    return Facts(dataset, first.image_size, chosen, recipe, _same_words(weights), epochs,
                 labels.get("stem"))


def is_imported(manifest):
    """Whether labels.json describes another tool's labels, whose recipe is not known."""
    return manifest.get("store") == "imported"


def _same_words(weights):
    """--teacher-weights as labels.json records it: a folder's absolute path, or a name."""
    path = weights and options.path(str(weights))
    return str(path) if path and path.is_dir() else weights


def _manifest(path, made_by):
    return read_manifest(path, made_by) if path.exists() else None


def open_train(facts, o):
    """All real training images, unread."""
    from data.class_lists import class_list
    from data.opening import open_real

    classes = class_list(facts.classes) if facts.classes else None
    return open_real(facts.dataset, "train", o.real.train_dir, facts.size, classes)


def check_folders(facts, o):
    """Raise UserError for real images that are not given, before the first stage."""
    if facts.dataset == "digits":
        return
    for option, folder in (("--train-dir", o.real.train_dir), ("--val-dir", test_dir(facts, o))):
        if folder is None or not folder.is_dir():
            found = f"{folder}: no such folder" if folder else "no folder was given"
            raise UserError(f"{found} of real images. Give {option} (or --dataset digits, which "
                            "needs none).")


def test_dir(facts, o):
    """Of the real test images; the files of CIFAR and Fashion-MNIST are beside the training's."""
    return o.real.val_dir or (o.real.train_dir if facts.dataset != "imagefolder" else None)


# Commands

def draw_real(place, values, facts, o):
    """The command that draws real images as they are."""
    values = {"start": "random", "iteration": 0, "dataset": facts.dataset,
              "image_size": facts.size, **_given(train_dir=o.real.train_dir,
                                                 classes=facts.classes), **values,
              **_run(place, o)}
    return Command("recover", place.work, f"recover: {place.work.name}", values)


def add_students(graph, place, needs, facts, o, only=None):
    """Add the students of a Place to {Command: what it needs}, below the labels that they need.

    only: names of protocols, of those that were asked for.
    """
    for protocol in o.students.protocol:
        if only and protocol not in only:
            continue
        before, labels = needs, {}
        if needs_labels(protocol):
            labels, relabel = soft_labels(place, protocol, facts, o)
            if relabel is not None:
                graph[relabel] = needs
                before = (relabel,)
        for network, rate in o.students.students:
            for seed in place.seeds:
                graph[student_command(place, protocol, (network, rate, seed), labels, facts, o)] = (
                    before)


def needs_labels(protocol):
    """Whether a protocol reads labels of relabel."""
    return protocol == "soft" or protocol in LABEL_PRESETS


def soft_labels(place, protocol, facts, o):
    """({"fkd_path": folder}, the Command that fills it, or None where the set's own will do)."""
    recipe = facts.recipe if protocol == "soft" else {"preset": protocol}
    epochs = epochs_of(protocol, facts, o)
    if protocol == "soft" and o.labels.teachers is None and own_labels_serve(place, epochs, facts):
        return {"fkd_path": place.own / "labels"}, None

    folder = place.work / f"labels_{protocol}"
    values = {"flip_prob": flip_probability(facts.dataset), **recipe,
              **_given(teachers=o.labels.teachers, teacher_weights=facts.weights,
                       val_dir=test_dir(facts, o)), "epochs": epochs, "train_dir": place.images,
              "fkd_path": folder, "label_store": o.labels.label_store, **_run(place, o)}
    title = f"relabel: {place.work.name}/{folder.name}"
    return {"fkd_path": folder}, Command("relabel", folder, title, values)


def own_labels_serve(place, epochs, facts):
    """Whether a set has labels of its own by the recipe of all, or another tool's.

    Raises UserError for labels of another tool that have fewer epochs.
    """
    manifest = place.own and _manifest(place.own / "labels/labels.json", "relabel")
    if not manifest:
        return False
    enough = manifest["asked"][1] >= epochs
    if is_imported(manifest):
        if not enough:
            raise UserError(f"{place.name}: its labels were imported and have "
                            f"{manifest['asked'][1]} epochs, expected {epochs}. Give --epochs, or "
                            "--teachers to label all sets anew.")
        return True
    same = all(manifest["options"].get(name) == value for name, value in facts.recipe.items())
    return enough and same and manifest.get("teacher_weights") == facts.weights


def epochs_of(protocol, facts, o):
    """Epochs of labels and students; None: train_hard's protocol says."""
    if o.students.epochs or protocol in HARD:
        return o.students.epochs
    if protocol in PRESETS:
        return PRESETS[protocol].get("epochs", 300)
    return facts.epochs or 300


def student_command(place, protocol, who, labels, facts, o):
    """The Command of a student. who: (network, learning rate or None, seed)."""
    network, rate, seed = who
    name = f"{protocol}-{file_stem(network)}"
    folder = place.work / "students" / f"{name}_seed{seed}"
    values = {"student": network, **_given(lr=rate, val_dir=test_dir(facts, o),
                                           epochs=epochs_of(protocol, facts, o)),
              "dataset": facts.dataset, "train_dir": place.images, **_run(place, o)}
    title = f"{place.work.name}/{folder.name}"
    if protocol in HARD:
        values |= {"protocol": protocol, "student_name": name, "seeds": [seed]}
        return Command("hard", folder, f"hard: {title}", values)

    if protocol in PRESETS:
        values["preset"] = protocol
    values |= {"hard": _HARD, "plain": _PLAIN}.get(protocol, {})
    if PRESETS.get(protocol, {}).get("labels") == "teacher":
        teachers = o.labels.teachers or facts.recipe.get("teachers")
        values |= _given(teachers=teachers and teachers[:1],
                         teacher_weights=facts.weights,
                         flip_prob=flip_probability(facts.dataset))
    if rate is None:
        values |= preset_rate(protocol, network)
    if facts.stem and has_stem(network, facts.stem, facts.size):
        values["stem"] = facts.stem
    values |= {**labels, "student_name": folder.name, "seed": seed}
    return Command("validate", folder, f"validate: {title}", values)


def preset_rate(protocol, network):
    """{"lr": DELT's learning rate of a network}; {} where it has none or the protocol has its own.

    The rate of most networks, 1e-3, is the default of all protocols with AdamW.
    """
    preset = PRESETS.get(protocol, {})
    if "lr" in preset or preset.get("optimizer", "adamw") != "adamw":
        return {}
    try:
        rate = rules.learning_rate(_DELT, network)
    except UserError:
        return {}
    return {} if rate == 1e-3 else {"lr": rate}


def _run(place, o):
    return {"output_dir": place.work, "device": o.run.device, **_given(threads=o.run.threads)}


def _given(**values):
    return {name: value for name, value in values.items() if value is not None}
