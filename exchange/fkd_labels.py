"""FKD label files: FOLDER/epoch_E/batch_B.tar, each a torch.save file of one list.

| place | content | type |
|---|---|---|
| 0 | crops: top / H, left / W, height / H, width / W | float32 [B, 4] |
| 1 | flips | bool [B] |
| 2 | partner in CutMix or Mixup, a position in the batch; None without | int64 [B] |
| 3 | lambda, not corrected to the box; None without mixing | float |
| 4 | CutMix box x1, y1, x2, y2: rows x1 to x2 - 1, columns y1 to y2 - 1; None otherwise | 4 ints |
| 5 | logits of the mixed views | fp16 or fp32 [B, C] |
| 6 | images in ImageFolder's order; absent in SRe2L's and LPLD's files | int64 [B] |
| 7 | a placeholder of EDC's files | |

Readers count the entries of FOLDER as epochs, so nothing else is written there.
"""

import hashlib
import io
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data.epoch_plan import EpochPlan
from data.labels import LabelStore, epoch_file, format_of, is_finished, plan_options, save_epoch
from data.run_folder import check_apart, manifest_hash, settle_manifest, versions
from utils.checkpoint import UnsafePickle, load_state, save_state
from utils.distributed import print0
from utils.errors import UserError
from utils.files import check_space, check_writable, remove_leftovers
from utils.progress import progress_bar

_FLOATS = {"fp16": torch.float16, "fp32": torch.float32}
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8)
_FILE_BYTES = 3500  # of a batch file beside its logits and plan, at most
_LOOKED_AT = 10  # epochs whose labels are compared with the classes


# Out

def write(labels, images, folder, logits=None):
    """Write a labels folder as FKD files. Epochs that are there are compared and left alone.

    images: the ImageSet that was labelled. logits: "fp16" or "fp32", None for what loses nothing.
    Raises UserError where labels are missing, and where `folder` holds other files.
    """
    store = LabelStore(labels, images)
    if store.store == "none" and not store.epochs:
        raise UserError(f"{labels}: relabel stored no labels here, only their recipe. Run it with "
                        "--label-store files.")
    epochs = store.asked[1] if store.asked else len(store.epochs)
    store.check(epochs)
    plan, number = store.plan_options, store.number_format
    logits = logits or ("fp16" if number.name == "fp16" else "fp32")
    check_apart("--folder", folder, images.folder)
    _check_entries(folder, epochs)
    check_writable(folder)
    row = _FLOATS[logits].itemsize * number.classes + 16 + 1 + 8 + 8
    missing = sum(not (folder / f"epoch_{epoch}").exists() for epoch in range(epochs))
    check_space("export", folder, missing * (plan.images * row + plan.batches * _FILE_BYTES),
                "Choose another --folder.")

    with progress_bar(epochs * plan.batches, "export", " files") as bar:
        for epoch in range(epochs):
            _write_epoch(folder, epoch, store.epoch(epoch), _FLOATS[logits], bar)
    if plan.mix == "mixup":
        print0("note: the trainers of PRISM, G-VBSM and EDC read CutMix labels alone; SRe2L's "
               "reads Mixup, too.")
    print0(f"export: {epochs} epochs of {plan.batches} files are in {folder}")


def _check_entries(folder, epochs):
    """Raise UserError where a folder holds more than these epochs, which readers would count."""
    folder.mkdir(parents=True, exist_ok=True)
    ours = {f"epoch_{epoch}" for epoch in range(epochs)}
    for entry in sorted(folder.iterdir()):
        if re.fullmatch(r"\.epoch_\d+\.tmp", entry.name) and entry.is_dir():
            shutil.rmtree(entry)  # of an export that was stopped
        elif entry.name not in ours:
            raise UserError(f"{folder}: found {entry.name}, expected nothing but epochs of these "
                            "labels, because readers count the entries. Choose another --folder.")


def _write_epoch(folder, epoch, labels, dtype, bar):
    """Write the files of an epoch, all or none. labels: EpochLabels."""
    path, temporary, plan = folder / f"epoch_{epoch}", folder / f".epoch_{epoch}.tmp", labels.plan
    if path.exists():
        _compare(path / "batch_0.tar", batch_list(plan, labels, 0, dtype))
        bar.update(plan.options.batches)
        return
    for batch in range(plan.options.batches):
        save_state(temporary / f"batch_{batch}.tar", batch_list(plan, labels, batch, dtype))
        bar.update(1)
    temporary.rename(path)


def _compare(path, items):
    """Raise UserError unless a file holds this list."""
    expected = io.BytesIO()
    torch.save(items, expected)
    if not path.is_file() or path.read_bytes() != expected.getvalue():
        raise UserError(f"{path}: is not the file that this command writes: other labels or an "
                        "other --logits. Choose another --folder.")


def batch_list(plan, labels, batch, dtype):
    """The list of a batch file. plan: EpochPlan. labels: EpochLabels. dtype: of the logits."""
    rows, mix, size = plan.options.rows(batch), plan.options.mix, plan.options.size
    crops = (plan.crops[rows].double() / size).float()
    partners = None if mix == "none" else plan.partners[rows].clone()
    lam = None if mix == "none" else float(plan.lams[batch])
    box = plan.boxes[batch].tolist() if mix == "cutmix" else None
    logits = labels.logits(rows).to(dtype)
    if not logits.isfinite().all():
        raise UserError("--logits fp16: found logits that do not fit. Give --logits fp32.")
    # clone: a slice would be saved with all that it is a slice of
    return [crops, plan.flips[rows].clone(), partners, lam, box, logits, plan.order[rows].clone()]


# In

@dataclass(frozen=True)
class FkdBatch:
    """What a batch file says, checked. order: None in files of six items."""

    crops: torch.Tensor
    flips: torch.Tensor
    partners: torch.Tensor | None
    lam: float | None
    box: list | None
    logits: torch.Tensor
    order: torch.Tensor | None

    @property
    def mix(self):
        """cutmix, mixup or none."""
        if self.partners is None:
            return "none"
        return "mixup" if self.box is None else "cutmix"

    @property
    def kind(self):
        """What all files of a folder have in common."""
        numbers = "fp16" if self.logits.dtype == torch.float16 else "fp32"
        return {"mixing": self.mix, "logits": numbers, "classes": self.logits.shape[1],
                "image numbers": "none" if self.order is None else "given"}


def read(folder, images, labels, seed=42, numpy_numbers=False):
    """Read an FKD folder as a labels folder of ours. Finished epochs are skipped.

    images: the ImageSet that the labels belong to. labels: the folder to write. seed,
    numpy_numbers: see exchange.options.FkdSource. Raises UserError for files that are damaged, that
    are unsafe to load or that do not belong to these images.
    """
    theirs = FkdFolder(folder, numpy_numbers)
    orders = None if theirs.first.order is not None else SamplerOrders(len(images), seed)
    theirs.check_images(images)
    content = describe(theirs, images, None if orders is None else seed)
    options, number = plan_options(content["options"], len(images)), format_of(
        content["options"], len(images.classes))
    check_agreement(theirs, images, options, orders)
    check_apart("--output-dir or --fkd-path", labels, images.folder)
    check_writable(labels)
    remove_leftovers(labels)

    settle_manifest(labels / "labels.json", content, "Choose another --output-dir or --fkd-path.")
    recipe = manifest_hash(content)
    with progress_bar(theirs.epochs * options.batches, "import", " files") as bar:
        for epoch in range(theirs.epochs):
            if is_finished(labels, epoch, options, number, recipe):
                bar.update(options.batches)
                continue
            batches = theirs.epoch(epoch, bar)
            plan = to_plan(batches, options, orders and orders[epoch], theirs.folder, epoch)
            stored = {"logits": torch.cat([batch.logits for batch in batches])}
            save_epoch(epoch_file(labels, epoch), epoch, plan, stored, number, recipe)
    print0(f"import: {theirs.epochs} epochs of {len(images)} images are in {labels}")


def describe(theirs, images, seed):
    """The content of labels.json. What FKD files do not say is null. seed: of the order, or None.

    theirs: FkdFolder. images: the ImageSet.
    """
    first = theirs.first
    options = {
        "teachers": [], "ensemble": None, "batch_size": len(first.logits),
        "augment": _augment(first.crops), "min_scale_crops": None, "flip_prob": None,
        "mix_type": first.mix, "mix_alpha": None, "fkd_seed": seed,
        "label_format": first.kind["logits"], "label_top_k": None, "precision": None,
        "compile": None, "image_size": images.image_size,
        "source": f"FKD files, SHA-256 of the first {theirs.first_hash}"}
    return {"options": options, "store": "imported", "asked": (0, theirs.epochs),
            "teacher_weights": None, "stem": None, "versions": versions(),
            "identity": {"images": images.identity, "teachers": {}}}


def _augment(crops):
    """Which kind of --augment draws such crops, [B, 4] as parts of the image."""
    if torch.equal(crops, torch.tensor([0.0, 0.0, 1.0, 1.0]).expand_as(crops)):
        return "none"
    return "crop" if (crops[:, :2] >= 0).all() else "shift"


class FkdFolder:
    """An FKD label folder: how many epochs and batches, and its files one by one.

    first: FkdBatch of epoch 0, batch 0. batches: files of an epoch. images: how many are labelled.
    """

    def __init__(self, folder, numpy_numbers=False):
        self.folder, self._numpy = Path(folder), numpy_numbers
        self.epochs = _count(self.folder, r"epoch_(\d+)", "epoch folders epoch_0, epoch_1, ...")
        if not self.epochs:
            raise UserError(f"{folder}: has no folder epoch_0. Give the FKD folder, which holds "
                            "epoch_0/batch_0.tar.")
        self.batches = self._count_batches(0)
        path = self.path(0, 0)
        self.first = read_batch(path, numpy_numbers)
        self.first_hash = hashlib.sha256(path.read_bytes()).hexdigest()
        last = read_batch(self.path(0, self.batches - 1), numpy_numbers)
        self.images = len(self.first.logits) * (self.batches - 1) + len(last.logits)

    def path(self, epoch, batch):
        """The file of a batch."""
        return self.folder / f"epoch_{epoch}" / f"batch_{batch}.tar"

    def _count_batches(self, epoch):
        folder = self.path(epoch, 0).parent
        count = _count(folder, r"batch_(\d+)\.tar", "files batch_0.tar, batch_1.tar, ...")
        if not count:
            raise UserError(f"{folder}: has no file batch_0.tar. Was relabelling stopped?")
        return count

    def check_images(self, images):
        """Raise UserError unless as many images and classes are labelled as an ImageSet has."""
        classes = self.first.logits.shape[1]
        if (self.images, classes) != (len(images), len(images.classes)):
            raise UserError(f"{self.folder}: labels are for {self.images} images and {classes} "
                            f"classes, {images.folder} has {len(images)} images and "
                            f"{len(images.classes)} classes. Give the images that were labelled.")

    def epoch(self, epoch, bar=None):
        """Every FkdBatch of an epoch, as a list. bar: a progress bar to move."""
        if self._count_batches(epoch) != self.batches:
            raise UserError(f"{self.folder / f'epoch_{epoch}'}: has {self._count_batches(epoch)} "
                            f"files, epoch_0 has {self.batches}. Was relabelling stopped?")
        batches, size = [], len(self.first.logits)
        for number in range(self.batches):
            path = self.path(epoch, number)
            batch = read_batch(path, self._numpy)
            rows = min(size, self.images - size * number)
            for name, found, expected in (
                    ("rows", len(batch.logits), rows),
                    *((name, batch.kind[name], value) for name, value in self.first.kind.items())):
                if found != expected:
                    raise UserError(f"{path}: found {name} {found}, expected {expected} as in the "
                                    "files before. Was it copied from another folder?")
            batches.append(batch)
            if bar is not None:
                bar.update(1)
        return batches


def _count(folder, pattern, expected):
    """How many entries of a folder have names of a pattern; they must be numbered 0, 1, ..."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder. Expected {expected}")
    numbers = {int(match[1]) for entry in folder.iterdir()
               if (match := re.fullmatch(pattern, entry.name))}
    gap = next(n for n in range(len(numbers) + 1) if n not in numbers)
    if gap < len(numbers):
        raise UserError(f"{folder}: number {gap} of the {expected} is missing. Was relabelling "
                        "stopped, or a part copied?")
    return len(numbers)


def read_batch(path, numpy_numbers=False):
    """The FkdBatch of a file. Raises UserError where it is unsafe to load or says something else.
    """
    items = _load(path, numpy_numbers)
    if not isinstance(items, (list, tuple)) or len(items) not in (6, 7, 8):
        found = f"{len(items)} items" if isinstance(items, (list, tuple)) else type(items).__name__
        raise UserError(f"{path}: found {found}, expected a list of 6, 7 or 8. Is this an FKD "
                        "label file?")
    crops, flips, partners, lam, box, logits, order = (*items[:7], None)[:7]
    floats = _FLOATS.values()

    def check(number, fits, expected):
        if not fits:
            raise UserError(f"{path}: item {number} is not what FKD files have there: expected "
                            f"{expected}.")

    check(5, _is_tensor(logits, 2) and logits.numel() and logits.dtype in floats
          and logits.isfinite().all(), "finite logits, fp16 or fp32 [B, C]")
    rows = len(logits)
    check(0, _is_tensor(crops, 2) and crops.shape == (rows, 4) and crops.is_floating_point()
          and crops.isfinite().all() and (crops[:, 2:] > 0).all() and (crops.abs() <= 1).all(),
          "crops as parts of the image, float [B, 4]")
    check(1, _is_tensor(flips, 1) and len(flips) == rows, "flips, bool [B]")
    check(2, partners is None or _is_indices(partners, rows, rows),
          "positions in the batch, int64 [B], or None")
    mixed = partners is not None
    check(3, not mixed or (_is_number(lam) and 0 <= lam <= 1), "a number from 0 to 1, or None")
    check(4, not mixed or box is None or _is_box(box), "a box of four integers, or None")
    check(6, order is None or _is_indices(order, rows, 2**31), "numbers of images, int64 [B]")
    return FkdBatch(crops.float(), flips.bool(), partners.long() if mixed else None,
                    float(lam) if mixed else None,
                    [int(v) for v in box] if mixed and box is not None else None, logits,
                    None if order is None else order.long())


def _is_tensor(value, dimensions):
    plain = isinstance(value, torch.Tensor) and value.layout == torch.strided
    return plain and value.ndim == dimensions and not value.is_quantized


def _is_indices(value, rows, below):
    whole = _is_tensor(value, 1) and len(value) == rows and value.dtype in _INTEGERS
    return whole and int(value.min()) >= 0 and int(value.max()) < below


def _is_number(value):
    return isinstance(value, (int, float, np.number))


def _is_box(box):
    if not isinstance(box, (list, tuple)) or len(box) != 4:
        return False
    if not all(isinstance(value, (int, np.integer)) for value in box):
        return False
    x1, y1, x2, y2 = box
    return 0 <= x1 <= x2 and 0 <= y1 <= y2


def _load(path, numpy_numbers):
    """What a file holds, read without running code. Raises UserError where that is impossible."""
    with torch.serialization.safe_globals(_numpy_scalars() if numpy_numbers else []):
        try:
            return load_state(path)
        except UnsafePickle as error:
            advice = "Ask its author for a file without it."
            if error.held.startswith("numpy.") and not numpy_numbers:
                advice = ("Old label files have NumPy's integers in their boxes: give "
                          "--numpy-numbers to read these, too, and nothing else.")
            raise UserError(f"{path}: holds {error.held}, which PyTorch refuses to load, because "
                            "unpickling more than tensors and plain numbers could run code. "
                            f"{advice}") from None


def _numpy_scalars():
    """What unpickles NumPy's single integers and floats: under NumPy 1's name and NumPy 2's."""
    scalar, _ = np.int64(0).__reduce__()
    types = [type(np.dtype(name)) for name in ("int64", "int32", "float64", "float32")]
    return [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar"),
            np.dtype, *types]


class SamplerOrders:
    """The orders that PyTorch's RandomSampler draws from one generator, by epoch.

    Every epoch draws two permutations and shows the first. orders[epoch]: int64 [count].
    """

    def __init__(self, count, seed):
        self.count, self._generator = count, torch.Generator().manual_seed(seed)
        self._drawn = []

    def __getitem__(self, epoch):
        while len(self._drawn) <= epoch:
            self._drawn.append(torch.randperm(self.count, generator=self._generator))
            torch.randperm(self.count, generator=self._generator)
        return self._drawn[epoch]


def to_plan(batches, options, order, folder, epoch):
    """The EpochPlan of an epoch's FkdBatch objects.

    options: PlanOptions. order: int64 [N], None where the files say it. folder, epoch: for errors.
    """
    where, size = folder / f"epoch_{epoch}", options.size
    if order is None:
        order = torch.cat([batch.order for batch in batches])
        if not torch.equal(order.sort().values, torch.arange(options.images)):
            raise UserError(f"{where}: does not show each of the {options.images} images once. "
                            "Are these the images that were labelled?")

    parts = torch.cat([batch.crops for batch in batches]).double() * size
    crops = parts.round()
    if (parts - crops).abs().max() > 0.01:
        raise UserError(f"{where}: crops are not whole pixels of images of {size} px, so images of "
                        "another size were labelled. Give those.")
    boxes = [batch.box or (0, 0, 0, 0) for batch in batches]
    if max(max(box) for box in boxes) > size:
        raise UserError(f"{where}: a CutMix box reaches to {max(map(max, boxes))}, the images have "
                        f"{size} px. Give the images that were labelled.")

    partners = [torch.arange(len(batch.logits)) if batch.partners is None else batch.partners
                for batch in batches]
    lams = [1.0 if batch.lam is None else batch.lam for batch in batches]
    return EpochPlan(options, order, crops.long(), torch.cat([batch.flips for batch in batches]),
                     torch.cat(partners), torch.tensor(lams, dtype=torch.float64).float().double(),
                     torch.tensor(boxes))


def check_agreement(theirs, images, options, orders):
    """Say how many labels name the class of their image or of its partner, and how many by chance.

    theirs: FkdFolder. options: PlanOptions. orders: SamplerOrders that were assumed, or None where
    the files say the order. Raises UserError where an assumed order does no better than chance.
    """
    named = expected = variance = views = 0
    share = torch.bincount(images.labels, minlength=len(images.classes)).double() / len(images)
    for epoch in range(min(theirs.epochs, _LOOKED_AT)):
        with progress_bar(theirs.batches, f"check epoch {epoch}", " files", leave=False) as bar:
            batches = theirs.epoch(epoch, bar)
        plan = to_plan(batches, options, orders and orders[epoch], theirs.folder, epoch)
        answers = torch.cat([batch.logits for batch in batches]).float().argmax(1)
        classes = images.labels[plan.order]
        start = torch.arange(len(classes)) // options.batch_size * options.batch_size
        hits = (answers == classes) | (answers == classes[start + plan.partners])

        # Chance: two images drawn at random, of which a view shows one alone without a partner.
        alone = plan.partners == torch.arange(len(classes)) - start
        chance = 1 - (1 - share[answers]) ** torch.where(alone, 1, 2)
        named, views = named + int(hits.sum()), views + len(hits)
        expected = expected + float(chance.sum())
        variance = variance + float((chance * (1 - chance)).sum())
        if named - expected > 5 * variance**0.5 and named > expected:
            break

    words = (f"{100 * named / views:.1f} % of {views} labels name the class of the image or of its "
             f"partner, {100 * expected / views:.1f} % would by chance")
    above = named > expected and named - expected > 5 * variance**0.5
    if orders is not None and not above:
        raise UserError(f"{theirs.folder}: the files have six items, without the images' order. "
                        f"With the order that PyTorch's sampler draws, {words}. So the order, the "
                        "images or the teacher is another one. Give the images that were labelled, "
                        "or --fkd-seed.")
    print0(f"import: {words}")
    if not above:
        print0("note: that is no more than chance. Are these the images that were labelled?")
