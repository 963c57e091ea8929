"""What happens to whole 8-bit images before the plan crops them: RandAugment and shuffled patches, drawn anew in every epoch.

Plans stored by relabel cannot hold these, so they belong to labels that are made while the student trains, and to hard labels.
"""

import re

import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from torch.utils.data import DataLoader, Dataset

from data.augment import to_device
from data.epoch_plan import batch_slice
from data.images import to_tensor
from utils.seeding import seeded, stream

_TRANSLATE = 117 / 224  # of the side (DELT: 117 pixels at 224, which is timm's 45 % of 260)
_FILL = (124, 116, 104)  # ImageNet's mean in 8 bits (DELT)
# of the string; timm skips in silence what it does not know
_SECTIONS = re.compile(r"rand(-(m\d+|n\d+|p\d*\.?\d+|mstd\d+(\.\d+)?|mmax\d+|inc[01]|t(weights|3aw?)))*")


class Views:
    """Whole images of an epoch, batch after batch.

    images: DistilledImages. options: PlanOptions. randaugment: timm's string or None. shuffle_patches: strips along each
    side, 1 for none. workers: processes that augment; the views do not depend on their number.
    """

    def __init__(self, images, options, seed, randaugment, shuffle_patches, workers, device):
        self.options, self.seed, self.parts, self.device = options, seed, shuffle_patches, device
        self._loader = None
        if randaugment is None:
            self._pixels = images.on(device)
        else:
            self._batches = _Batches(options)
            # its own generator: workers would draw a seed from the global one
            self._loader = DataLoader(_Augmented(images.pixels, rand_augment(randaugment, options.size), seed),
                                      batch_sampler=self._batches, num_workers=workers, persistent_workers=workers > 0,
                                      pin_memory=device.type == "cuda", generator=torch.Generator())

    def epoch(self, epoch, plan):
        """A function of int64 indices giving uint8 [n, 3, S, S] on the device; call it once for each batch, in the plan's order."""
        pixels = self._pixels if self._loader is None else self._augmented(epoch, plan)
        return pixels if self.parts == 1 else self._shuffled(pixels, epoch)

    def _augmented(self, epoch, plan):
        self._batches.start(epoch, plan)
        batches = iter(self._loader)
        return lambda _: next(batches).to(self.device, non_blocking=True)

    def _shuffled(self, pixels, epoch):
        generator = stream(self.seed, "patches", epoch)
        orders = draw_strip_orders(self.options.images, self.parts, generator), draw_strip_orders(self.options.images, self.parts,
                                                                                                  generator)
        batches = iter(range(self.options.batches))

        def batch(indices):
            at = batch_slice(self.options, next(batches))
            return shuffle_patches(pixels(indices), orders[0][at], orders[1][at])

        return batch


def rand_augment(text, size):
    """timm's RandAugment from its string, for images of size x size pixels: a function of PIL images.

    ImageNet's mean fills what comes in, bilinear or bicubic is drawn per operation (timm's own choice), and draws come from the
    global generators of random and numpy. Raises ValueError for a string that timm does not read in full.
    """
    if not _SECTIONS.fullmatch(text):
        raise ValueError(f"found {text!r}, expected timm's string such as rand-m6-n2-mstd1.0")
    # Surprise: with "rand" timm shifts by up to 45 % of the side and reads no translate_const; DELT gives it, so do we.
    return rand_augment_transform(text, {"translate_const": round(_TRANSLATE * size), "img_mean": _FILL})


class _Batches:
    """Batch sampler whose items carry the epoch, so that workers which live on know it."""

    def __init__(self, options):
        self.options, self.epoch, self.order = options, None, None

    def start(self, epoch, plan):
        self.epoch, self.order = epoch, plan.order.tolist()

    def __len__(self):
        return self.options.batches

    def __iter__(self):
        for number in range(self.options.batches):
            at = batch_slice(self.options, number)
            yield [(self.epoch, position, self.order[position]) for position in range(at.start, at.stop)]


class _Augmented(Dataset):
    """uint8 images [N, 3, S, S] through RandAugment. An item is (epoch, position in it, index of the image)."""

    def __init__(self, pixels, augment, seed):
        self.pixels, self.augment, self.seed = pixels, augment, seed

    def __getitem__(self, item):
        epoch, position, index = item
        image = Image.fromarray(self.pixels[index].permute(1, 2, 0).contiguous().numpy())
        with seeded(self.seed, "view", epoch, position):
            return to_tensor(self.augment(image))


def draw_strip_orders(count, parts, generator):
    """int64 [count, parts]: for each image a uniformly random order of its strips."""
    return torch.rand(count, parts, generator=generator, dtype=torch.float64).argsort(1)


def shuffle_patches(pixels, rows, columns):
    """Cut each image into strips along both sides and put them in these orders (RDED's ShufflePatches, which has two).

    With two strips a side: top and bottom, and left and right, each swapped with probability 1/2. More strips are our
    generalisation. pixels: [n, 3, H, W]. rows, columns: int64 [n, parts], number of the strip at each place. Where a side does
    not divide, strips differ by one pixel.
    """
    down, across = (to_device(_strip_index(order, side), pixels.device) for order, side in
                    ((rows, pixels.shape[2]), (columns, pixels.shape[3])))
    image = torch.arange(len(pixels), device=pixels.device).view(-1, 1, 1)
    return pixels.permute(0, 2, 3, 1)[image, down.unsqueeze(2), across.unsqueeze(1)].permute(0, 3, 1, 2).contiguous()


def _strip_index(order, side):
    """int64 [n, side]: the old pixel row (or column) at each new place."""
    parts = order.shape[1]
    place = order.argsort(1)  # where each strip goes
    pixel = torch.arange(side)
    return (place[:, pixel * parts // side] * side + pixel).argsort(1)
