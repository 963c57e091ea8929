"""Soft labels on disk: one safetensors file an epoch, and labels.json, which says whose they are.

The layout of both is in docs/formats.md. An epoch is written and read whole: 20 MB at 10 images
per class of ImageNet, 2.4 GB at 1200.
"""

import contextlib
import re
from pathlib import Path

import torch

from data.epoch_plan import EpochPlan, PlanOptions
from data.label_formats import label_format
from data.run_folder import manifest_hash, read_manifest
from utils.checkpoint import load_tensors, read_header, save_tensors
from utils.errors import UserError
from utils.files import damaged
from utils.precision import Arithmetic

_HEADER = 760  # bytes, of 680 to 880: tensors and numbers have names and digits
_PLAN = ("order", "crops", "flips", "partners", "lams", "boxes")
_RUN_AGAIN = "Run relabel again: finished epochs are skipped."


def epoch_file(folder, epoch):
    """labels/epoch_003.safetensors; wider numbers from epoch 1000 on."""
    return Path(folder) / f"epoch_{epoch:03d}.safetensors"


def epochs_in(folder):
    """Sorted numbers of the epochs that have a file in a folder, which need not exist."""
    folder = Path(folder)
    matches = (re.fullmatch(r"epoch_(\d{3}|[1-9]\d{3,8})\.safetensors", file.name)
               for file in (folder.iterdir() if folder.is_dir() else ()))
    return sorted(int(match[1]) for match in matches if match)


def epoch_bytes(options, number_format):
    """Bytes of one epoch's file, to about 100. options: PlanOptions."""
    plan = 4 + 16 + 1 + 4  # order, crops, flips, partners of an image
    return (options.images * (number_format.bytes_per_row + plan)
            + options.batches * (4 + 16) + _HEADER)


def label_sizes(options, classes, epochs, top_k=None):
    """{format: bytes of the label files of `epochs` epochs}, known before any is made.

    The formats are those of --label-format, topk with its K, and "none", which stores no labels.
    options: PlanOptions. classes: how many there are. top_k: K, or None for a tenth of the classes
    and at least 3.
    """
    top_k = top_k or min(classes, max(3, classes // 10))
    formats = [label_format(name, classes) for name in ("fp32", "fp16", "int8")]
    formats.append(label_format("topk", classes, top_k))
    sizes = {words(each): epochs * epoch_bytes(options, each) for each in formats}
    return {**sizes, "none": 0}


def words(number_format):
    """The name of a number format, with the K of topk: "topk 100"."""
    top_k = number_format.top_k
    return number_format.name if top_k is None else f"{number_format.name} {top_k}"


def save_epoch(path, epoch, plan, stored, number_format, recipe):
    """Write the labels of one epoch, whole or not at all.

    stored: {tensor name: [N, ...]}, as number_format encodes the logits of all N views in the
    order of the plan. recipe: manifest_hash of labels.json. Raises UserError when a stored number
    is not finite.
    """
    for tensor in stored.values():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"epoch {epoch}: logits are not finite, or do not fit into "
                            f"{number_format.name}. Check the teachers' accuracy on real images, "
                            "or use --label-format fp32.")
    about = _about(epoch, plan.options, number_format, recipe)
    save_tensors(path, {**plan.tensors(), **stored}, about)


def _about(epoch, options, number_format, recipe):
    """What a label file says of itself."""
    return {"epoch": epoch, "batch_size": options.batch_size, "format": number_format.name,
            "classes": number_format.classes, "top_k": number_format.top_k, "recipe": recipe}


class EpochLabels:
    """The labels of one epoch, read whole and checked. plan: the EpochPlan that was stored."""

    def __init__(self, path, options, number_format):
        tensors, _ = load_tensors(path)
        try:
            self.plan = EpochPlan.from_tensors(options, tensors)
        except KeyError as error:
            raise damaged(path, "relabel", f"no {error}") from None
        self._format = number_format
        self._stored = {name: t for name, t in tensors.items() if name not in _PLAN}

    def logits(self, rows):
        """Soft labels of a slice of the epoch's positions: float32 [n, C] on the CPU."""
        return self._format.decode({name: tensor[rows] for name, tensor in self._stored.items()})


class LabelStore:
    """The labels folder of a run, checked against the images it is used with.

    images: the ImageSet that was labelled; None leaves this check to check_images. options: {name:
    value} from labels.json, named as relabel's options. plan_options: PlanOptions. number_format:
    of data.label_formats. teachers: {name: fingerprint of its weights}. stem: of the first one,
    None where labels.json does not say it. store: "files", or "none" where labels are to be made on
    the fly. asked: [first, end] of the epochs that were asked for, None in older folders. identity:
    what the labels are, for what depends on them.
    Raises UserError when images were renamed, added, removed or changed since they were labelled,
    or classes come in another order.
    """

    def __init__(self, folder, images=None):
        self.folder = Path(folder)
        content = read_manifest(self.folder / "labels.json", "relabel")
        with self._reading():
            self.options = {**content["options"], "teacher_weights": content["teacher_weights"]}
            self.teachers, self.store = content["identity"]["teachers"], content["store"]
            self.stem, self._labelled = content.get("stem"), content["identity"]["images"]
            self.plan_options = plan_options(self.options, self._labelled["count"])
            self.number_format = format_of(self.options, len(self._labelled["classes"]))
        self.identity = {"options": content["options"], "teachers": self.teachers}
        self.recipe, self.asked = manifest_hash(content), content.get("asked")
        if images is not None:
            self.check_images(images)

    @contextlib.contextmanager
    def _reading(self):
        """What labels.json does not say, or not as it should, becomes a UserError."""
        try:
            yield
        except (KeyError, TypeError) as error:
            raise damaged(self.folder / "labels.json", "relabel",
                          f"it does not say {error}") from None

    def check_images(self, images):
        """Raise UserError when an ImageSet is not the one that was labelled."""
        with self._reading():
            check_images(self.folder, self._labelled, images)

    @property
    def epochs(self):
        """Sorted numbers of the epochs that have a file."""
        return epochs_in(self.folder)

    def check_epoch(self, epoch):
        """Raise UserError unless the file of an epoch is there with the right header."""
        check_header(epoch_file(self.folder, epoch),
                     _about(epoch, self.plan_options, self.number_format, self.recipe))

    def epoch(self, epoch):
        """EpochLabels of an epoch. Raises UserError when it is missing, damaged or foreign."""
        self.check_epoch(epoch)
        return EpochLabels(epoch_file(self.folder, epoch), self.plan_options, self.number_format)

    def check(self, epochs):
        """Raise UserError unless epochs 0 ... epochs - 1 are there with the right headers."""
        found = [epoch for epoch in self.epochs if epoch < epochs]
        if len(found) < epochs:
            first = next((n for n, epoch in enumerate(found) if n != epoch), len(found))
            less = f", or train with --epochs {first} (EPOCHS={first} in the scripts)"
            raise UserError(f"{self.folder}: {len(found)} of {epochs} epochs, the first missing is "
                            f"epoch {first}. Was relabel stopped? Run it with --epochs {epochs}: "
                            f"finished epochs are skipped{less if first else ''}.")
        for epoch in range(epochs):
            self.check_epoch(epoch)


def check_header(path, expected):
    """Raise UserError unless a label file says of itself what is expected. Reads no labels."""
    if not path.exists():
        raise UserError(f"{path}: missing. Was relabel stopped? {_RUN_AGAIN}")
    about = read_header(path)
    for name, value in expected.items():
        if about.get(name) != value:
            if name == "recipe":
                found = "made by another recipe (images, teachers or options) than labels.json says"
            else:
                found = f"{name} {about.get(name)}, expected {value} as labels.json says"
            raise UserError(f"{path}: {found}. Was it copied from another run? Remove it and run "
                            "relabel again.")


def is_finished(folder, epoch, options, number_format, recipe):
    """Whether the file of an epoch is there with the right header. options: PlanOptions."""
    try:
        check_header(epoch_file(folder, epoch), _about(epoch, options, number_format, recipe))
    except UserError:
        return False
    return True


def format_of(options, classes):
    """The number format from the options in labels.json. classes: how many there are."""
    return label_format(options["label_format"], classes, options.get("label_top_k"))


def arithmetic_of(options):
    """How the teachers run, from the options in labels.json."""
    return Arithmetic(options["precision"], options["compile"])


def plan_options(options, images):
    """PlanOptions from the options in labels.json and the number of images."""
    return PlanOptions(images=images, size=options["image_size"],
                       batch_size=options["batch_size"], min_area=options["min_scale_crops"],
                       flip=options["flip_prob"], mix=options["mix_type"],
                       alpha=options["mix_alpha"], seed=options["fkd_seed"],
                       augment=options.get("augment", "crop"))  # older files know crops alone


def check_images(folder, labelled, images):
    """Raise UserError when labels belong to other images.

    labelled: ImageSet.identity of the images when they were labelled.
    """
    now, before = images.identity["classes"], labelled["classes"]
    advice = "Put the images back, or run relabel into another --fkd-path."
    if now != before and sorted(now) == sorted(before):
        first = next(i for i, (a, b) in enumerate(zip(now, before, strict=True)) if a != b)
        raise UserError(f"{folder}: the classes come in another order than when the images were "
                        f"labelled: class {first} of {images.folder} is {now[first]}, in the "
                        f"labels {before[first]}. {advice}")
    if now != before:
        other = sorted(set(now) ^ set(before)) or ["(the same names, repeated)"]
        raise UserError(f"{folder}: labels are for {len(before)} classes, {images.folder} has "
                        f"{len(now)}; they differ in {other[0]}. {advice}")

    count = images.identity["count"]
    if count != labelled["count"]:
        what = "added" if count > labelled["count"] else "removed"
        raise UserError(f"{folder}: labels are for {labelled['count']} images, {images.folder} has "
                        f"{count}: images were {what} since. {advice}")
    if images.identity["files"] != labelled["files"]:
        raise UserError(f"{folder}: an image of {images.folder} was renamed or changed since it "
                        f"was labelled. {advice}")
