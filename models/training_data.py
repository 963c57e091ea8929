"""Augmented batches of real images to train teachers on.

What an epoch holds depends on its key alone, not on the number of workers.
"""

import time

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from data import augment
from data.images import normalise
from utils.seeding import seeded, stream

_TIMED_IMAGES = 4  # for an estimate


def epoch_order(count, batch_size, key):
    """Batches of image indices for one epoch: a permutation from the stream of `key`, cut in order.

    A last batch that is not full is left out, unless it is the only one, because BatchNorm would
    see too few images.
    """
    batches = torch.randperm(count, generator=stream(*key, "order")).split(batch_size)
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) < batch_size else batches


def steps_per_epoch(count, batch_size):
    """Number of batches of epoch_order."""
    return max(1, count // batch_size)


class MemoryBatches:
    """Decoded images (datasets in memory, small folders), shifted and mirrored.

    images: an ImageSet. pad: largest shift in pixels, as of RandomCrop(S, padding=pad), black
    outside; 0: images stay whole. flip_prob: probability of mirroring.
    """

    def __init__(self, images, batch_size, pad, flip_prob, device):
        self.pixels, self.labels = images.cache_on(device), images.labels
        self.size, self.pad, self.flip_prob = images.image_size, pad, flip_prob
        self.batch_size, self.device = batch_size, device

    def epoch(self, key, done=0):
        """Yield (normalised float32 [n, 3, S, S], int64 [n]) of the epoch that `key` names.

        done: batches that are left out, from the first one on.
        """
        count, generator = len(self.labels), stream(*key, "views")
        boxes = augment.draw_shifts(count, self.size, self.pad, generator)
        mirrored = augment.draw_flips(count, self.flip_prob, generator)

        for index in epoch_order(count, self.batch_size, key)[done:]:
            views = augment.apply_crops(self.pixels[index], boxes[index], self.size)
            yield (normalise(augment.apply_flips(views, mirrored[index])),
                   augment.to_device(self.labels[index], self.device))

    def batch_seconds(self):
        """Seconds that a batch of views takes."""
        begin = time.perf_counter()
        next(self.epoch(("estimate",)))
        return time.perf_counter() - begin


class FolderBatches:
    """Images decoded when they are needed: RandomResizedCrop(area 0.08-1), flip on PIL images.

    This is torchvision's reference recipe. images: an ImageSet. flip_prob: probability of
    mirroring. workers: processes that decode. indices: int64 tensor, the images of every epoch in
    this order, all of them; without it each epoch is an epoch_order.
    """

    def __init__(self, images, batch_size, flip_prob, device, workers, indices=None):
        self.device = device
        self._order = _EpochOrder(len(images), batch_size, indices)
        views = _Views(images, flip_prob)
        # With a generator of its own, as workers would draw a seed from the one of dropout.
        self._loader = DataLoader(views, batch_sampler=self._order, num_workers=workers,
                                  persistent_workers=workers > 0,
                                  pin_memory=device.type == "cuda", generator=torch.Generator())

    def epoch(self, key, done=0):
        """Yield (normalised float32 [n, 3, S, S], int64 [n]) of the epoch that `key` names.

        done: batches that are left out, from the first one on; they are not decoded.
        """
        self._order.key, self._order.done = key, done
        for pixels, labels in self._loader:
            yield (normalise(pixels.to(self.device, non_blocking=True)),
                   labels.to(self.device, non_blocking=True))

    def batch_seconds(self):
        """Seconds that a batch of views takes all workers, measured on a few images here."""
        views, count = self._loader.dataset, self._order.count
        places = range(0, count, -(-count // _TIMED_IMAGES))
        begin = time.perf_counter()
        for place in places:
            views[("estimate",), place]
        each = (time.perf_counter() - begin) / len(places)
        return each * self._order.batch_size / max(1, self._loader.num_workers)


class _EpochOrder:
    """Batch sampler whose items carry the epoch's key, so that workers that live on know it."""

    def __init__(self, count, batch_size, indices):
        self.count, self.batch_size, self.key, self.done = count, batch_size, None, 0
        self.fixed = None if indices is None else indices.split(batch_size)

    def __len__(self):
        return len(self.fixed) if self.fixed else steps_per_epoch(self.count, self.batch_size)

    def __iter__(self):
        batches = self.fixed or epoch_order(self.count, self.batch_size, self.key)
        for batch in batches[self.done:]:
            yield [(self.key, index) for index in batch.tolist()]


class _Views(Dataset):
    def __init__(self, images, flip_prob):
        self.images = images
        self.view = v2.Compose([v2.RandomResizedCrop(images.image_size, antialias=True),
                                v2.RandomHorizontalFlip(flip_prob), v2.PILToTensor()])

    def __getitem__(self, item):
        key, index = item
        with seeded(*key, index):
            return self.view(self.images.picture(index)), int(self.images.labels[index])
