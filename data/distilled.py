"""Distilled images on disk: reading them and knowing them again."""

import functools
import hashlib
import json
import math
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.data import Dataset

from data.datasets import NAMES, class_folders, is_numbered
from data.epoch_plan import EpochPlan, mixed_batch
from data.images import decode, to_tensor
from data.labels import LabelStore
from data.run_folder import read_manifest
from utils.distributed import print0
from utils.errors import UserError
from utils.files import free_bytes, sha256_file
from utils.progress import progress_bar

_SHARE_OF_GPU = 0.5  # of its free memory that decoded images may take
_AT_ONCE = 10_000  # images handed to threads at once: for a million, the waiting list alone would take a gigabyte


def _room(shape, folder):
    """An empty uint8 tensor; beyond half of the machine's memory it is a nameless file in `folder`, mapped into memory."""
    count = math.prod(shape)
    if count <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2:
        return torch.empty(shape, dtype=torch.uint8)
    free = free_bytes(folder)
    if count > free:
        raise UserError(f"{folder}: the decoded images take {count / 1e9:.0f} GB, more than half of the memory, and the disk has "
                        f"{free / 1e9:.0f} GB free. Free some space.")
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        return torch.from_file(file.name, shared=True, size=count, dtype=torch.uint8).view(shape)


class DistilledImages:
    """The images of a run, in ImageFolder's order (sorted folders, sorted names), decoded once and kept as uint8.

    folder: nothing but class folders, results/NAME/images or any other tool's. Where images.json lies beside it, class
    names and dataset come from there; otherwise folder names are the classes and dataset is None.
    paths: [N] relative to folder. labels: int64 tensor [N], index into classes.
    """

    def __init__(self, folder, workers=4):
        self.folder, self._workers = Path(folder), workers
        if not self.folder.exists():
            raise UserError(f"{self.folder}: no such folder of distilled images. Run recover first, or give its --output-dir (or "
                            "--train-dir).")
        folders = class_folders(self.folder)
        self.paths = [file.relative_to(self.folder) for files in folders.values() for file in files]
        self.labels = torch.tensor([c for c, files in enumerate(folders.values()) for _ in files])
        self.classes, self.dataset = list(folders), None
        manifest = self.folder.parent / "images.json"
        if manifest.exists():
            content = read_manifest(manifest, "recover")
            try:
                self.classes, self.dataset = content["identity"]["classes"], content["options"]["dataset"]
                if self.dataset not in NAMES or not isinstance(self.classes, list) or not all(
                        isinstance(name, str) for name in self.classes):
                    raise TypeError("which dataset and classes")
            except (KeyError, TypeError) as error:
                raise UserError(f"{manifest}: does not say {error}. Is it of another program? Move it away, or run recover "
                                "again.") from None
            if len(self.classes) != len(folders):
                raise UserError(f"{self.folder}: found {len(folders)} class folders, {manifest.name} lists "
                                f"{len(self.classes)} classes. Was recover stopped, or a folder removed? Run recover again.")
            counts = {name: len(files) for name, files in folders.items()}
            if len(set(counts.values())) > 1 and not content["options"].get("allow_short_classes"):
                least = min(counts, key=counts.get)
                print0(f"note: {self.folder}: {least} has {counts[least]} images, others up to {max(counts.values())}. Was recover "
                       "stopped, or an image removed? Running recover again completes the set.")

    def __len__(self):
        return len(self.paths)

    @property
    def known_classes(self):
        """Class names in head order, or None when the folders are only numbered (new000 ...) and nothing names them."""
        return None if is_numbered(self.classes) else self.classes

    @functools.cached_property
    def image_size(self):
        """Side of the images in pixels, from the first one."""
        width, height = decode(self.folder / self.paths[0]).size
        if width != height:
            raise UserError(f"{self.folder / self.paths[0]}: {width}x{height} pixels, expected a square image.")
        return width

    def image(self, i):
        """Image number i, decoded now: uint8 [3, S, S]. UserError when it is not as large as the first."""
        image, side = decode(self.folder / self.paths[i]), self.image_size
        if image.size != (side, side):
            raise UserError(f"{self.folder / self.paths[i]}: {image.size[0]}x{image.size[1]} pixels, the others have "
                            f"{side}x{side}. Distilled images must be of one size.")
        return to_tensor(image)

    @functools.cached_property
    def pixels(self):
        """All images, uint8 [N, 3, S, S], decoded by several threads; in a file where they would take half of the memory.

        Raises UserError for images of unequal sizes.
        """
        out = _room((len(self), 3, self.image_size, self.image_size), self.folder.parent)
        bar = progress_bar(len(self), "decode", " images", leave=False)

        def fill(i):
            out[i] = self.image(i)
            bar.update(1)

        with bar, ThreadPoolExecutor(max(1, self._workers)) as pool:
            for start in range(0, len(self), _AT_ONCE):
                list(pool.map(fill, range(start, min(start + _AT_ONCE, len(self)))))
        return out

    def on(self, device):
        """Function of CPU int64 indices giving uint8 [n, 3, S, S] on `device`; all pixels live on a GPU that has room for them."""
        pixels = self.pixels
        if device.type == "cuda" and pixels.nbytes < _SHARE_OF_GPU * torch.cuda.mem_get_info(device)[0]:
            pixels = pixels.to(device)
        return lambda indices: pixels[indices.to(pixels.device)].to(device, non_blocking=True)

    @functools.cached_property
    def identity(self):
        """What labels are tied to: {"count", "classes", "files"}; files is one SHA-256 over every path and file content.

        Renaming, adding, removing or changing one image changes it.
        """
        with ThreadPoolExecutor(max(1, self._workers)) as pool:
            hashes = [digest for start in range(0, len(self), _AT_ONCE)
                      for digest in pool.map(lambda p: sha256_file(self.folder / p), self.paths[start : start + _AT_ONCE])]
        lines = [[str(path), digest] for path, digest in zip(self.paths, hashes, strict=True)]
        return {"count": len(self), "classes": self.classes, "files": hashlib.sha256(json.dumps(lines).encode()).hexdigest()}


def load(run_folder, workers=4):
    """The distilled dataset of a run folder (images/ and labels/) for somebody's own training loop.

        data = data.distilled.load("results/prism_r18_ipc10")
        for epoch in data.epochs:
            data.set_epoch(epoch)
            for images, soft_labels, classes in DataLoader(data, data.batch_size):
                ...

    Item i is position i of the epoch: image float32 [3, S, S], cropped, flipped, normalised with ImageNet's mean and std and
    mixed with its partner, bit for bit what the teachers saw; soft label float32 [C], their raw logits for it; class int,
    of the image before mixing. Do not shuffle: the plan already does, anew in every epoch. The released recipe takes each
    batch as two micro-batches. Raises UserError when labels are missing, damaged or belong to other images.
    """
    folder = Path(run_folder)
    images = DistilledImages(folder / "images", workers)
    store = LabelStore(folder / "labels", images)
    if not store.epochs:
        stopped = "only the recipe is stored (--label-store none)" if store.store == "none" else "no epoch is there"
        raise UserError(f"{store.folder}: {stopped}. Run relabel with --label-store files.")
    return DistilledDataset(images, store)


class DistilledDataset(Dataset):
    """What `load` gives. epochs: numbers of the labelled epochs. classes: names. batch_size: of the labels."""

    def __init__(self, images, store):
        self.pixels, self.labels, self.classes = images.pixels, images.labels, images.classes
        self.store, self.options, self.epochs = store, store.plan_options, store.epochs
        self.batch_size = self.options.batch_size
        self.set_epoch(self.epochs[0])

    def set_epoch(self, epoch):
        """Choose the epoch that the items belong to. Call it before a DataLoader starts to iterate (no persistent workers)."""
        self.epoch, self._soft, self._soft_batch = epoch, None, None
        self._labels = self.store.epoch(epoch)
        self._plan = self._labels.plan

    def __len__(self):
        return self.options.images

    def __getitem__(self, i):
        if not 0 <= i < len(self):
            raise IndexError(f"item {i} of {len(self)}")
        batch, plan = i // self.batch_size, self._plan
        pair = torch.tensor([i, batch * self.batch_size + int(plan.partners[i])])  # a view needs its partner's
        two = EpochPlan(plan.order[pair], plan.crops[pair], plan.flips[pair], torch.tensor([1, 0]), plan.lams[batch : batch + 1],
                        plan.boxes[batch : batch + 1])
        image = mixed_batch(lambda indices: self.pixels[indices], two, replace(self.options, images=2, batch_size=2), 0)[0]
        if self._soft_batch != batch:  # neighbours share a batch: read and checked once
            self._soft, self._soft_batch = self._labels.batch(batch), batch
        return image, self._soft[i - batch * self.batch_size].clone(), int(self.labels[plan.order[i]])
