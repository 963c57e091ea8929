"""Augmented batches of real images to train teachers on.

What an epoch holds depends on its key alone, not on the number of workers.
"""

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from data import augment
from data.images import normalise
from utils.seeding import seeded, stream


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
    """Small images that fit in memory (CIFAR, digits), shifted and flipped.

    pixels: uint8 [N, 3, S, S]. labels: int64 [N]. pad: largest shift in pixels, as of
    RandomCrop(S, padding=pad), black outside. flips: whether half of the images are mirrored.
    """

    def __init__(self, pixels, labels, batch_size, pad, flips, device):
        self.size, self.pad, self.flips = pixels.shape[-1], pad, flips
        self.pixels = F.pad(pixels, [pad] * 4).to(device)
        self.labels, self.batch_size, self.device = labels.to(device), batch_size, device

    def epoch(self, key):
        """Yield (normalised float32 [n, 3, S, S], int64 [n]) of the epoch that `key` names."""
        count = len(self.labels)
        generator = stream(*key, "views")
        shifts = torch.randint(0, 2 * self.pad + 1, (count, 2), generator=generator)
        mirrored = augment.draw_flips(count, 0.5 if self.flips else 0.0, generator)

        for index in epoch_order(count, self.batch_size, key):
            place = index.to(self.device)
            views = _windows(self.pixels[place], shifts[index].to(self.device), self.size)
            yield normalise(augment.apply_flips(views, mirrored[index])), self.labels[place]


def _windows(padded, corners, size):
    """A size x size window of each image of uint8 [n, 3, H, W].

    corners: [n, 2], top and left.
    """
    rows = corners[:, :1] + torch.arange(size, device=padded.device)
    columns = corners[:, 1:] + torch.arange(size, device=padded.device)
    image = torch.arange(len(padded), device=padded.device).view(-1, 1, 1)
    channels_last = padded.permute(0, 2, 3, 1)
    return channels_last[image, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)


class FolderBatches:
    """Images decoded from files: RandomResizedCrop(area 0.08-1) and flip on PIL images.

    This is torchvision's reference recipe. images: an ImageSet. workers: processes that decode.
    indices: int64 tensor, the images of every epoch in this order, all of them; without it each
    epoch is an epoch_order.
    """

    def __init__(self, images, batch_size, flips, device, workers, indices=None):
        self.device = device
        self._order = _EpochOrder(len(images), batch_size, indices)
        # With a generator of its own, as workers would draw a seed from the one of dropout.
        self._loader = DataLoader(_Views(images, flips), batch_sampler=self._order,
                                  num_workers=workers, persistent_workers=workers > 0,
                                  pin_memory=device.type == "cuda", generator=torch.Generator())

    def epoch(self, key):
        """Yield (normalised float32 [n, 3, S, S], int64 [n]) of the epoch that `key` names."""
        self._order.key = key
        for pixels, labels in self._loader:
            yield (normalise(pixels.to(self.device, non_blocking=True)),
                   labels.to(self.device, non_blocking=True))


class _EpochOrder:
    """Batch sampler whose items carry the epoch's key, so that workers that live on know it."""

    def __init__(self, count, batch_size, indices):
        self.count, self.batch_size, self.key = count, batch_size, None
        self.fixed = None if indices is None else indices.split(batch_size)

    def __len__(self):
        return len(self.fixed) if self.fixed else steps_per_epoch(self.count, self.batch_size)

    def __iter__(self):
        for batch in self.fixed or epoch_order(self.count, self.batch_size, self.key):
            yield [(self.key, index) for index in batch.tolist()]


class _Views(Dataset):
    def __init__(self, images, flips):
        self.images = images
        self.view = v2.Compose([v2.RandomResizedCrop(images.image_size, antialias=True),
                                v2.RandomHorizontalFlip(0.5 if flips else 0.0), v2.PILToTensor()])

    def __getitem__(self, item):
        key, index = item
        with seeded(*key, index):
            return self.view(self.images.picture(index)), int(self.images.labels[index])
