"""The checks of a run folder: is each file there, and does it hold what the others say of it?"""

import itertools
import json
import os
from pathlib import Path

import torch

from data.epoch_plan import draw_plan
from data.images import SUFFIXES
from data.labels import LabelStore, epoch_file
from data.opening import open_distilled
from data.run_folder import read_manifest
from report.findings import Findings, check_file
from utils.checkpoint import load_tensors
from utils.errors import UserError
from utils.files import damaged, read_json, sha256_file

_RECOVER = "Run the same recover command again."
_RELABEL = "Run the same relabel command again: finished epochs are skipped."


def check(run, workers):
    """Print what a run folder holds, its problems, and what could not be verified.

    Returns whether everything was verified, and nothing is missing or wrong.
    """
    findings = Findings()
    images = check_recovered(run, findings, workers)
    folders = [path for path in entries(run, findings)
               if path.name == "labels" or os.path.lexists(path / "labels.json")]
    if not folders:
        findings.say("labels: none")
    stores = [check_labels(folder, images, findings, workers) for folder in folders]
    check_students(run / "students", images, list(filter(None, stores)), findings, workers)
    findings.say(f"{run}: {findings}")
    return not (findings.problems or findings.unknowns)


def entries(folder, findings):
    """Sorted paths in a folder but for hidden ones; none after a problem, or without the folder."""
    names = findings.attempt(os.listdir, folder) if os.path.lexists(folder) else None
    return [folder / name for name in sorted(names or []) if not name.startswith(".")]


# Images

def check_recovered(run, findings, workers):
    """Every image that was asked for is there, and is the one in its unit's record.

    Returns the ImageSet, or None where the images cannot be opened as one.
    """
    before, hashes = findings.problems, recorded_hashes(run / "units", findings)
    folders = entries(run / "images", findings)
    findings.each(check_folder, folders, workers)
    names = [str(path.relative_to(run)) for folder in folders if os.path.isdir(folder)
             for path in entries(folder, findings) if path.name.lower().endswith(SUFFIXES)]
    unreadable = findings.each(lambda name: check_file(run / name), names, workers)
    manifest, images = read_images_json(run / "images.json", findings), None
    if manifest is not None and not unreadable:
        images = findings.attempt(lambda folder: open_distilled(folder, workers), run / "images")

    if hashes:
        check_records(run, hashes, names, unreadable, findings, workers)
    else:
        findings.unknown("there are no records in units/, so changed pixels would not be noticed")
        if images is not None:
            findings.each(images.image, range(len(images)), workers)
    check_count(run, manifest, len({*names, *hashes}), findings)

    words = f"images: {len(names)} of {len({Path(name).parent for name in names})} classes"
    as_recorded = hashes and findings.problems == before
    findings.say(words + (", each as its unit's record says" if as_recorded else ""))
    return images


def check_folder(path):
    """Raise UserError for what is no class folder."""
    if not os.path.isdir(path):
        raise UserError(f"{path}: is no folder, expected class folders alone. Remove it.")


def check_records(run, hashes, names, unreadable, findings, workers):
    """The images are those of the records.

    hashes: of recorded_hashes. names: of the images on disk; unreadable: those of them that are no
    files that can be read.
    """
    again = f"Remove it. {_RECOVER}"

    def check_hash(name):
        check_file(run / name, f"missing. {_RECOVER}")
        if sha256_file(run / name) != hashes[name]:
            raise UserError(f"{run / name}: was changed since it was made. {again}")

    findings.each(check_hash, sorted(set(hashes) - set(unreadable)), workers)
    for name in sorted(set(names) - set(hashes)):
        findings.problem(f"{run / name}: no unit's record names it. {again}")


def read_images_json(path, findings):
    """The content of images.json, {} where there is none, None where it cannot be read."""
    if not os.path.lexists(path):
        return {}

    def read(path):
        check_file(path)
        return read_manifest(path, "recover")

    return findings.attempt(read, path)


def recorded_hashes(folder, findings):
    """{path below the run folder: SHA-256} of every image that a unit's record names."""
    def read(path):
        check_file(path)
        files = read_json(path, "recover").get("files")
        if not isinstance(files, dict):
            raise damaged(path, "recover", "it does not say 'files'")
        return files

    hashes = {}
    for path in entries(folder, findings):
        if path.name.startswith("unfinished_"):
            findings.problem(f"{path}: units that are not finished. {_RECOVER}")
        elif path.suffix == ".json":
            hashes.update(findings.attempt(read, path) or {})
    return hashes


def check_count(run, manifest, count, findings):
    """As many images as images.json asks for are on disk or in records. count: those there are."""
    if manifest is None:
        return
    classes = manifest.get("identity", {}).get("classes")
    if "asked" not in manifest or not isinstance(classes, list):
        what = "images.json does not say" if manifest else "there is no images.json, which says"
        findings.unknown(f"{what} how many images were asked for")
        return
    first, end = manifest["asked"]
    expected = len(classes) * (end - first)
    if count < expected and manifest.get("options", {}).get("allow_short_classes"):
        findings.unknown(f"{count} of {expected} images are there. Classes of fewer images are "
                         "allowed, and nothing says how many each should have")
    elif count < expected:
        findings.problem(f"{run / 'images'}: {count} of {expected} images. Was recover stopped? "
                         f"{_RECOVER}")


# Labels

def check_labels(folder, images, findings, workers):
    """Labels belong to the images, and every epoch that was asked for can be read.

    Returns the LabelStore, or None where labels.json cannot be read.
    """
    def open_store(folder):
        check_file(folder / "labels.json", "missing. Run relabel again.")
        store = LabelStore(folder)
        return store, store.epochs

    opened = findings.attempt(open_store, folder)
    if opened is None:
        return None
    store, epochs = opened
    if images is None:
        findings.unknown(f"{folder}: whether the labels belong to the images, which cannot be "
                         "opened")
    else:
        findings.attempt(store.check_images, images)

    def check_epoch(epoch):
        path = epoch_file(folder, epoch)
        check_file(path)
        plan, ours = store.epoch(epoch).plan, store.store != "imported"
        if ours and plan != draw_plan(store.plan_options, epoch):
            raise UserError(f"{path}: its plan is not the one that labels.json gives epoch "
                            f"{epoch}. Remove it. {_RELABEL}")

    bad = findings.each(check_epoch, epochs, workers)
    known = {epoch_file(folder, epoch) for epoch in epochs}
    for path in entries(folder, findings):
        if path.name.startswith("epoch_") and path not in known:
            findings.problem(f"{path}: is no epoch of these labels. Remove it.")
    check_epochs(store, epochs, [epoch for epoch in epochs if epoch not in bad], findings)
    return store


def check_epochs(store, epochs, good, findings):
    """No epoch is missing that was asked for. epochs: those with a file. good: whole ones."""
    name = store.folder.name
    if store.store == "none" and not epochs:
        findings.say(f"{name}: their recipe, from which validate makes them")
        return
    end, of = max([epoch + 1 for epoch in good], default=1), ""
    if store.asked is None:
        findings.unknown(f"{name}/labels.json does not say how many epochs were asked for")
    else:
        end = store.asked[1]
        of = f" of {end}"

    edges = [-1, *(epoch for epoch in epochs if epoch < end), end]
    gaps = [f"epoch {a + 1}" if b - a == 2 else f"epochs {a + 1} to {b - 1}"
            for a, b in itertools.pairwise(edges) if b - a > 1]
    if gaps:
        findings.problem(f"{store.folder}: {', '.join(gaps)}{of} missing. Was relabel stopped? "
                         f"{_RELABEL}")
    imported = " as they were imported" if store.store == "imported" else " and plan"
    findings.say(f"{name}: {len(good)}{of} epochs, each with its checksum{imported}")


# Students

def check_students(folder, images, stores, findings, workers):
    """Every student is finished, and belongs to the images and to labels. stores: LabelStores."""
    identities, students = {}, []
    for path in entries(folder, findings):
        if path.is_dir():
            students.append(path)
        else:
            findings.attempt(check_file, path)

    def check_one(student):
        identities[student] = read_identity(student)
        check_student(student)

    findings.each(check_one, students, workers)
    for student, identity in sorted(identities.items()):
        check_origin(student, identity, images, stores, findings)
    findings.say(f"students: {len(students)}")


def read_identity(folder):
    """(hash of the images, identity of the labels or None) that a student was trained with."""
    path = folder / "options.json"
    check_file(path, "missing. Remove the folder, or put the file back.")
    identity = read_manifest(path, "validate").get("identity", {})
    try:
        return identity["images"]["files"], identity["labels"]
    except (KeyError, TypeError) as error:
        raise damaged(path, "validate", f"it does not say {error}") from None


def check_student(folder):
    """A student is finished, its weights are finite, and its files say the same of its tests."""
    result_file, metrics_file = folder / "result.json", folder / "metrics.jsonl"
    check_file(result_file, "missing: the student is not finished. Run the same validate command "
               "again.")
    result, tested = read_json(result_file, "validate"), {}
    for which in ("best", "last"):
        tested[which] = check_weights(folder / f"{which}.safetensors")
        if tested[which] != result.get(which):
            raise UserError(f"{folder / which}.safetensors: was tested with {tested[which]}, "
                            f"result.json says {result.get(which)}. {_retrain(folder)}")

    check_file(metrics_file, f"missing. {_retrain(folder)}")
    lines = read_metrics(metrics_file)
    for which, test in tested.items():
        if test not in lines:
            raise UserError(f"{metrics_file}: no line has the {which} test, {test}. "
                            f"{_retrain(folder)}")


def check_weights(path):
    """All numbers are finite. Returns the test that the file names, {"epoch", "top1", "top5"}."""
    again = _retrain(path.parent)
    check_file(path, f"missing. {again}")
    tensors, content = load_tensors(path)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"{path}: {name} holds values that are not finite. {again}")
    about = content.get("about")
    return {name: about.get(name) for name in ("epoch", "top1", "top5")} if isinstance(
        about, dict) else None


def read_metrics(path):
    """The tests in metrics.jsonl: a list of {"epoch", "top1", "top5"}, None where not tested."""
    try:
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        return [{name: line.get(name) for name in ("epoch", "top1", "top5")} for line in lines]
    except (ValueError, RecursionError, AttributeError) as error:
        raise UserError(f"{path}: damaged ({error}). {_retrain(path.parent)}") from None


def _retrain(folder):
    return f"Remove {folder} and run the same validate command again."


def check_origin(student, identity, images, stores, findings):
    """A student was trained on these images and on labels of a LabelStore in `stores`.

    identity: of read_identity.
    """
    trained_on, labels = identity
    if images is None:
        findings.unknown(f"{student}: whether it was trained on the images, which cannot be opened")
    elif trained_on != images.identity["files"]:
        findings.problem(f"{student}: was trained on other images than those in {images.folder}. "
                         f"Put those back, or remove {student}.")

    # A teacher that labels while the student trains stores none; labels of relabel have a seed.
    options = labels.get("options") if isinstance(labels, dict) else None
    stored = isinstance(options, dict) and "fkd_seed" in options
    if stored and labels not in [store.identity for store in stores]:
        findings.unknown(f"{student}: the labels that it was trained on are not in this run folder")
