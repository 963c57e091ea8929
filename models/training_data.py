"""Augmented batches of real images to train teachers on. What an epoch holds depends on its key only, never on workers."""

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from data import augment
from data.images import normalise
from utils.seeding import seeded, stream


def epoch_order(count, batch_size, key):
    """Batches of image indices for one epoch: a permutation from the stream of `key`, cut in order.

    A last batch that is not full is left out, unless it is the only one: BatchNorm would see too few images.
    """
    batches = torch.randperm(count, generator=stream(*key, "order")).split(batch_size)
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) < batch_size else batches


def steps_per_epoch(count, batch_size):
    """Number of batches of epoch_order."""
    return max(1, count // batch_size)


class MemoryBatches:
    """Small images that fit in memory (CIFAR, digits): shifted by up to `pad` pixels and flipped, as one operation a batch.

    pixels: uint8 [N, 3, S, S]; labels: int64 [N]. pad: as RandomCrop(S, padding=pad), black outside. flips: mirror half of them.
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
            at = index.to(self.device)
            views = _windows(self.pixels[at], shifts[index].to(self.device), self.size)
            yield normalise(augment.apply_flips(views, mirrored[index])), self.labels[at]


def _windows(padded, corners, size):
    """Per image of uint8 [n, 3, H, W] the size x size window whose top left corner is in corners [n, 2]."""
    rows = corners[:, :1] + torch.arange(size, device=padded.device)
    columns = corners[:, 1:] + torch.arange(size, device=padded.device)
    image = torch.arange(len(padded), device=padded.device).view(-1, 1, 1)
    return padded.permute(0, 2, 3, 1)[image, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)


class FolderBatches:
    """Images decoded from files: RandomResizedCrop(area 0.08-1) and flip (torchvision's reference recipe) on PIL images.

    images: a RealImages. workers: processes that decode; the views do not depend on their number.
    indices: int64 tensor, the images of every epoch in this order, all of them; without it each epoch is an epoch_order.
    """

    def __init__(self, images, batch_size, flips, device, workers, indices=None):
        self.images, self.batch_size, self.device = images, batch_size, device
        self._order = _EpochOrder(len(images), batch_size, indices)
        # its own generator: workers would draw a seed from the global one, which dropout uses
        views = _Views(images, images.image_size, flips)
        self._loader = DataLoader(views, batch_sampler=self._order, num_workers=workers, persistent_workers=workers > 0,
                                  pin_memory=device.type == "cuda", generator=torch.Generator())

    def epoch(self, key):
        """Yield (normalised float32 [n, 3, S, S], int64 [n]) of the epoch that `key` names."""
        self._order.key = key
        for pixels, labels in self._loader:
            yield normalise(pixels.to(self.device, non_blocking=True)), labels.to(self.device, non_blocking=True)


class _EpochOrder:
    """Batch sampler whose items carry the epoch, so that workers which live on know it."""

    def __init__(self, count, batch_size, indices):
        self.count, self.batch_size, self.key = count, batch_size, None
        self.given = None if indices is None else indices.split(batch_size)

    def __len__(self):
        return steps_per_epoch(self.count, self.batch_size) if self.given is None else len(self.given)

    def __iter__(self):
        for batch in self.given or epoch_order(self.count, self.batch_size, self.key):
            yield [(self.key, index) for index in batch.tolist()]


class _Views(Dataset):
    def __init__(self, images, size, flips):
        self.images = images
        self.view = v2.Compose([v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip(0.5 if flips else 0.0),
                                v2.PILToTensor()])

    def __getitem__(self, item):
        key, index = item
        with seeded(*key, index):
            return self.view(self.images.image(index)), int(self.images.labels[index])
