"""Soft labels on disk: one safetensors file an epoch, and labels.json with what they belong to.

epoch_000.safetensors holds, for N images in batches of B and C classes:
  logits [N, C]        raw logits of the mixed views, in the order of the plan; fp16 or fp32, or one of
      int8: logits int8 [N, C], scale and offset fp32 [N]: offset + scale * logits
      topk: logits fp16 [N, K], classes int16 or int32 [N, K], rest fp32 [N] for all other classes  (data.label_formats)
  crc32 int64 [ceil(N/B)]   of the bytes stored of each batch's labels, tensor after tensor
  order, crops, flips, partners, lams, boxes    the plan of the epoch (data.epoch_plan)
  header "about": epoch, batch_size, format (topk: classes and top_k, too), CRC-32 of the plan, recipe (hash of what
      labels.json says)
Any safetensors reader opens it. Files are streamed (memory stays flat) and read a batch at a time.
"""

import contextlib
import json
import re
import struct
import zlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from data.epoch_plan import EpochPlan, PlanOptions, batch_slice, plan_layout
from data.label_formats import label_format, row_bytes
from data.run_folder import manifest_hash, read_manifest
from utils.errors import UserError
from utils.files import written_whole
from utils.precision import PRECISIONS, Arithmetic

_TYPE_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.int64: "I64", torch.int32: "I32", torch.int16: "I16",
               torch.int8: "I8", torch.uint8: "U8"}
_RUN_AGAIN = "Was relabel stopped? Run it again: finished epochs are skipped."
_OTHER_RUN = "Was it copied from another run? Remove it and run relabel again."
_PLAN = ("order", "crops", "flips", "partners", "lams", "boxes")


def epoch_file(folder, epoch):
    """labels/epoch_003.safetensors; wider numbers from epoch 1000 on."""
    return Path(folder) / f"epoch_{epoch:03d}.safetensors"


def epoch_bytes(options, number_format):
    """Bytes of one epoch's file, but for its header (about 1 kB). options: PlanOptions. number_format: of data.label_formats."""
    per_image = row_bytes(number_format) + 4 + 16 + 1 + 4
    return options.images * per_image + options.batches * (8 + 4 + 16)


class LabelWriter:
    """Streams the labels of one epoch to a file that appears whole, after the last batch, or not at all.

        with LabelWriter(path, epoch, plan, options, label_format("fp16", classes)) as writer:
            writer.write(0, logits)  # then 1, 2, ... in order

    number_format: of data.label_formats. recipe: recipe_hash of labels.json, so that a file of another run is told apart; None is
    not checked. Raises UserError for logits that are not finite or do not fit the number format.
    """

    def __init__(self, path, epoch, plan, options, number_format, recipe=None):
        self.path, self.epoch, self.plan, self.options = Path(path), epoch, plan, options
        self.number_format, self.recipe = number_format, recipe
        self._crcs, self._begin = [], {}

    def __enter__(self):
        self._stack = contextlib.ExitStack()
        temporary = self._stack.enter_context(written_whole(self.path))
        try:
            self._file = self._stack.enter_context(open(temporary, "wb"))
            self._write_beginning()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _write_beginning(self):
        """Header and plan, with places for CRCs and labels. Tensors lie in falling order of alignment, safetensors' own order."""
        plan, images = self.plan.tensors(), self.options.images
        entries = [("crc32", torch.int64, [self.options.batches])]
        entries += [(name, plan[name].dtype, list(plan[name].shape)) for name in _PLAN]
        entries += [(name, dtype, [images, *([count] if count else [])])
                    for name, (dtype, count) in self.number_format.columns.items()]
        about = {"epoch": self.epoch, "batch_size": self.options.batch_size, "format": self.number_format.name,
                 "recipe": self.recipe, "plan_crc32": _plan_crc(plan)}
        if self.number_format.top_k:
            about |= {"classes": self.number_format.classes, "top_k": self.number_format.top_k}
        header, end = {"__metadata__": {"about": json.dumps(about, sort_keys=True)}}, 0
        for name, dtype, shape in sorted(entries, key=lambda entry: -entry[1].itemsize):
            begin, end = end, end + dtype.itemsize * torch.Size(shape).numel()
            header[name] = {"dtype": _TYPE_NAMES[dtype], "shape": shape, "data_offsets": [begin, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._begin = {name: 8 + len(text) + header[name]["data_offsets"][0] for name, _, _ in entries}
        self._file.write(struct.pack("<Q", len(text)) + text)
        for name in _PLAN:
            self._write_at(name, 0, _bytes(plan[name]))

    def _write_at(self, name, offset, data):
        self._file.seek(self._begin[name] + offset)
        self._file.write(data)

    def write(self, batch, logits):
        """Append the logits [B, C] of a batch, any float type, any device."""
        rows = batch_slice(self.options, batch)
        expected = (rows.stop - rows.start, self.number_format.classes)
        if batch != len(self._crcs) or tuple(logits.shape) != expected:
            raise ValueError(f"batch {batch} of {tuple(logits.shape)}, expected batch {len(self._crcs)} of {expected}")
        stored = self.number_format.encode(logits.detach().cpu())
        if not all(torch.isfinite(t).all() for t in stored.values() if t.is_floating_point()):
            raise UserError(_not_finite(self.epoch, batch, logits, self.number_format.name))
        self._crcs.append(_labels_crc(stored))
        for name, tensor in stored.items():
            self._write_at(name, rows.start * (tensor.nbytes // len(tensor)), _bytes(tensor))

    def __exit__(self, kind, error, trace):
        if kind is None:
            try:
                self._write_end()
            except BaseException as own:
                self._stack.__exit__(type(own), own, own.__traceback__)
                raise
        return self._stack.__exit__(kind, error, trace)

    def _write_end(self):
        if len(self._crcs) != self.options.batches:
            raise ValueError(f"{len(self._crcs)} batches written, expected {self.options.batches}")
        self._write_at("crc32", 0, _bytes(torch.tensor(self._crcs, dtype=torch.int64)))


def _not_finite(epoch, batch, logits, number_format):
    if torch.isfinite(logits).all():
        return (f"epoch {epoch}, batch {batch}: a logit of {float(logits.abs().max()):.3g} does not fit in {number_format}. "
                "Use --label-format fp32.")
    return (f"epoch {epoch}, batch {batch}: the teachers' logits are not finite. Check the teachers' weights "
            "(their accuracy on real images).")


def _bytes(tensor):
    return memoryview(tensor.contiguous().view(-1).view(torch.uint8).numpy()) if tensor.numel() else b""


def _plan_crc(tensors):
    crc = 0
    for name in _PLAN:
        crc = zlib.crc32(_bytes(tensors[name]), crc)
    return crc


def _labels_crc(stored):
    crc = 0
    for tensor in stored.values():
        crc = zlib.crc32(_bytes(tensor), crc)
    return crc


class EpochLabels:
    """The labels of one epoch. The header is checked on opening, plan and batches when they are read."""

    def __init__(self, path, epoch, options, number_format, recipe=None):
        self.path, self.epoch, self.options = Path(path), epoch, options
        self.number_format, self.recipe = number_format, recipe
        self._file = self._crcs = None
        self._check_header()

    def __getstate__(self):  # a DataLoader's worker opens the file again
        return {**self.__dict__, "_file": None, "_crcs": None}

    @property
    def _name(self):
        return self.path.with_suffix("")

    def _open(self):
        if self._file is None:
            try:
                self._file = safe_open(self.path, "pt")
            except FileNotFoundError:
                raise UserError(f"{self._name}: missing. {_RUN_AGAIN}") from None
            except (SafetensorError, OSError) as error:
                raise UserError(f"{self._name}: damaged or cut short ({error}). Run relabel again: it makes this epoch "
                                "anew.") from None
        return self._file

    def _check_header(self):
        file = self._open()
        try:
            about = json.loads((file.metadata() or {})["about"])
            shapes = {name: file.get_slice(name).get_shape() for name in (*_PLAN, "logits", "crc32")}
            (images, columns), (batches,) = shapes["logits"], shapes["crc32"]
            found = {"batches of": about["batch_size"], "epoch": about["epoch"], "classes": about.get("classes", columns),
                     "format": about["format"], "images": images, "top_k": about.get("top_k")}
            self._plan_crc, recipe = about["plan_crc32"], about["recipe"]
        except (KeyError, ValueError, TypeError, RecursionError, SafetensorError):
            raise self._foreign() from None
        expected = {"batches of": self.options.batch_size, "epoch": self.epoch, "classes": self.number_format.classes,
                    "format": self.number_format.name, "top_k": self.number_format.top_k}
        for what, value in expected.items():
            if found[what] != value:
                raise UserError(f"{self._name}: {what} {found[what]}, expected {value} as labels.json says. {_OTHER_RUN}")
        if batches != self.options.batches:
            raise UserError(f"{self._name}: {batches} batches, expected {self.options.batches}. {_RUN_AGAIN}")
        if images != self.options.images:
            raise UserError(f"{self._name}: {images} images, expected {self.options.images}. {_OTHER_RUN}")
        if self.recipe is not None and recipe is not None and recipe != self.recipe:
            raise UserError(f"{self._name}: made by another recipe (images, teachers or options) than labels.json says. "
                            f"{_OTHER_RUN}")
        try:
            stored = {name: (dtype, [images, *([columns] if columns else [])])
                      for name, (dtype, columns) in self.number_format.columns.items()}
            for name, (dtype, shape) in {**stored, **plan_layout(self.options), "crc32": (torch.int64, [batches])}.items():
                part = file.get_slice(name)
                if (part.get_dtype(), part.get_shape()) != (_TYPE_NAMES[dtype], shape):
                    raise self._foreign()
        except SafetensorError:
            raise self._foreign() from None

    def _foreign(self):
        return UserError(f"{self._name}: not a label file of this project. Remove it and run relabel again.")

    @property
    def plan(self):
        """The EpochPlan as it was stored."""
        tensors = {name: self._open().get_tensor(name) for name in _PLAN}
        if _plan_crc(tensors) != self._plan_crc:
            raise self._damaged("plan")
        plan = EpochPlan.from_tensors(tensors)
        try:
            plan.check(self.options)
        except ValueError as error:
            raise UserError(f"{self._name}: {error}. Remove the file and run relabel again.") from None
        return plan

    def batch(self, batch):
        """Logits of a batch as the number format gives them back, float32 [B, C] on the CPU.

        Checked against its CRC-32 and for values that are not finite.
        """
        if self._crcs is None:
            self._crcs = self._open().get_tensor("crc32").tolist()
        rows = batch_slice(self.options, batch)
        if not 0 <= batch < self.options.batches:
            raise IndexError(f"batch {batch} of {self.options.batches}")
        stored = {name: self._open().get_slice(name)[rows.start : rows.stop] for name in self.number_format.columns}
        if _labels_crc(stored) != self._crcs[batch]:
            raise self._damaged(f"batch {batch}")
        try:
            logits = self.number_format.decode(stored)
        except (RuntimeError, IndexError):  # topk: classes that there are not
            raise self._foreign() from None
        if not torch.isfinite(logits).all():
            raise UserError(f"{self._name}: batch {batch} holds logits that are not finite. Check the teachers, remove this "
                            "file and run relabel again.")
        return logits

    def _damaged(self, what):
        return UserError(f"{self._name}: {what} does not match its checksum, the file is damaged. Remove it and run relabel "
                         "again: finished epochs are skipped.")


class LabelStore:
    """The labels folder of a run, checked against the images it is used with.

    options: dict from labels.json, keys as relabel's options (teachers, ensemble, teacher_weights, fkd_seed, batch_size,
    min_scale_crops, mix_type, mix_alpha, flip_prob, image_size, label_format; where they were given also
    label_top_k, precision, compile). plan_options: PlanOptions. number_format: of data.label_formats.
    teachers: {name: fingerprint of its weights}. store: "files", or "none" where labels are to be made on the fly.
    Raises UserError when images were renamed, added, removed or changed since, or classes come in another order.
    """

    def __init__(self, folder, images):
        self.folder = Path(folder)
        content = read_manifest(self.folder / "labels.json", "relabel")
        try:
            self.options = {**content["options"], "teacher_weights": content["teacher_weights"]}
            self.teachers, self.store = content["identity"]["teachers"], content["store"]
            belongs_to = content["identity"]["images"]
            self.plan_options = plan_options(self.options, belongs_to["count"])
            self.number_format = format_of(self.options, len(belongs_to["classes"]))
            _check_words(self.options, self.teachers, self.store, belongs_to)
        except ValueError as error:
            raise UserError(f"{self.folder / 'labels.json'}: {error}. Remove the folder and run relabel again.") from None
        except (KeyError, TypeError) as error:
            raise UserError(f"{self.folder / 'labels.json'}: does not say {error}. Remove the folder and run relabel "
                            "again.") from None
        check_images(self.folder, belongs_to, images)
        self.recipe = recipe_hash(content)

    @property
    def epochs(self):
        """Sorted numbers of the epochs that are there."""
        found = (re.fullmatch(r"epoch_(\d{3,})\.safetensors", file.name) for file in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def epoch(self, epoch):
        """EpochLabels of an epoch. Raises UserError when it is missing, damaged or of other batches."""
        return EpochLabels(epoch_file(self.folder, epoch), epoch, self.plan_options, self.number_format, self.recipe)

    def check(self, epochs, batch_size=None):
        """Before training starts: epochs 0 ... epochs-1 must be there with good headers, and the batch size the labels'."""
        if batch_size is not None and batch_size != self.plan_options.batch_size:
            raise UserError(f"{self.folder}: labels were made in batches of {self.plan_options.batch_size} images, "
                            f"--batch-size is {batch_size}. Leave it out, or run relabel with --batch-size {batch_size} "
                            "into another --fkd-path.")
        if self.store == "none":
            return
        missing = sorted(set(range(epochs)) - set(self.epochs))
        if missing:
            raise UserError(f"{self.folder}: {epochs - len(missing)} of {epochs} epochs, the first missing is epoch "
                            f"{missing[0]}. Was relabel stopped? Run it with --epochs {epochs}: finished epochs are skipped.")
        for epoch in range(epochs):
            self.epoch(epoch)


def recipe_hash(content):
    """manifest_hash of labels.json: what marks the files that belong to it."""
    return manifest_hash(content)


def _check_words(options, teachers, store, belongs_to):
    """Raise ValueError for what no relabel writes, so that nobody further on stumbles over it."""
    def words(found, least=1):
        return isinstance(found, list) and len(found) >= least and all(isinstance(word, str) for word in found)

    precision, compiled = options.get("precision", PRECISIONS[0]), options.get("compile", False)
    fits = {"teachers": words(options["teachers"]) and isinstance(teachers, dict), "ensemble": isinstance(options["ensemble"], str),
            "teacher_weights": isinstance(options["teacher_weights"], str), "store": store in ("files", "none"),
            "classes": words(belongs_to["classes"]), "files": isinstance(belongs_to["files"], str),
            "precision": precision in PRECISIONS, "compile": isinstance(compiled, bool)}
    for name, good in fits.items():
        if not good:
            raise ValueError(f"{name} is nothing that relabel writes")


def format_of(options, classes):
    """The number format from the options in labels.json. classes: how many there are."""
    return label_format(options["label_format"], classes, options.get("label_top_k"))


def arithmetic_of(options):
    """How the teachers run, from the options in labels.json: fp32, not compiled, where they say nothing."""
    return Arithmetic(options.get("precision", "fp32"), options.get("compile", False))


def plan_options(options, images):
    """PlanOptions from the options in labels.json (named as relabel's) and the number of images."""
    return PlanOptions(images=images, size=options["image_size"], batch_size=options["batch_size"],
                       min_area=options["min_scale_crops"], flip=options["flip_prob"], mix=options["mix_type"],
                       alpha=options["mix_alpha"], seed=options["fkd_seed"])


def check_images(folder, belongs_to, images):
    """Refuse labels that belong to other images. belongs_to: DistilledImages.identity when they were labelled."""
    found, make_anew = images.identity, "Put the images back, or run relabel into another --fkd-path."
    if found["classes"] != belongs_to["classes"]:
        here, there = found["classes"], belongs_to["classes"]
        if sorted(here) == sorted(there):
            first = next(i for i, (a, b) in enumerate(zip(here, there, strict=True)) if a != b)
            raise UserError(f"{folder}: the classes come in another order than when the images were labelled: class {first} "
                            f"of {images.folder} is {here[first]}, in the labels {there[first]}. {make_anew}")
        other = sorted(set(here) ^ set(there)) or ["(the same names, repeated)"]
        raise UserError(f"{folder}: labels are for {len(there)} classes, {images.folder} has {len(here)}; they differ in "
                        f"{other[0]}. {make_anew}")
    if found["count"] != belongs_to["count"]:
        what = "added" if found["count"] > belongs_to["count"] else "removed"
        raise UserError(f"{folder}: labels are for {belongs_to['count']} images, {images.folder} has {found['count']}: "
                        f"images were {what} since. {make_anew}")
    if found["files"] != belongs_to["files"]:
        raise UserError(f"{folder}: an image of {images.folder} was renamed or changed since it was labelled. {make_anew}")
