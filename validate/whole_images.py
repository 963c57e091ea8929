"""What happens to whole 8-bit images before the plan crops them: RandAugment, shuffled patches.

Both are drawn anew in every epoch. Plans that relabel stores cannot hold them, so they belong to
labels that are made while the student trains, and to hard labels.
"""

import torch
from timm.data.auto_augment import rand_augment_transform
from torch.utils.data import DataLoader, Dataset

from data.augment import to_device
from data.images import to_pil, to_tensor
from utils.seeding import seeded, stream

_TRANSLATE = 117 / 224  # of the side (DELT: 117 pixels at 224, which is timm's 45 % of 260)
_FILL = (124, 116, 104)  # ImageNet's mean in 8 bits (DELT)


class WholeImages:
    """The whole images of every epoch, batch after batch.

    images: the distilled ImageSet. views: validate.options.Views. workers: processes that apply
    RandAugment; the images do not depend on their number.
    """

    def __init__(self, images, views, seed, workers, device):
        self._views, self._seed, self._device = views, seed, device
        self._cache = self._augmented = None
        if views.randaugment is None:
            self._cache = images.cache_on(device)
        else:
            augment = rand_augment(views.randaugment, images.image_size)
            self._augmented = AugmentedImages(images.all_pixels, augment, seed, workers, device)

    def epoch(self, epoch, plan):
        """Iterate over the batches of an EpochPlan: uint8 [n, 3, S, S] on the device."""
        if self._augmented is None:
            batches = (self._cache[plan.order[plan.options.rows(batch)]]
                       for batch in range(plan.options.batches))
        else:
            batches = self._augmented.epoch(epoch, plan)
        if self._views.shuffle_patches == 1:
            return batches
        return self._shuffled(batches, epoch, plan.options)

    def _shuffled(self, batches, epoch, options):
        strips, generator = self._views.shuffle_patches, stream(self._seed, "patches", epoch)
        down = draw_strip_orders(options.images, strips, generator)
        across = draw_strip_orders(options.images, strips, generator)
        for batch, pixels in enumerate(batches):
            rows = options.rows(batch)
            yield shuffle_patches(pixels, down[rows], across[rows])


class AugmentedImages:
    """Images through RandAugment, by worker processes that live from epoch to epoch.

    pixels: uint8 [N, 3, S, S]. augment: function of a PIL image.
    """

    def __init__(self, pixels, augment, seed, workers, device):
        self._device, self._batches = device, []
        # Without a generator of its own the loader would draw a seed from the global one.
        self._loader = DataLoader(
            _Augmented(pixels, augment, seed), batch_sampler=self._batches, num_workers=workers,
            persistent_workers=workers > 0, pin_memory=device.type == "cuda",
            generator=torch.Generator())

    def epoch(self, epoch, plan):
        """Iterate over the batches of an EpochPlan: uint8 [n, 3, S, S] on the device."""
        items = [(epoch, position, index) for position, index in enumerate(plan.order.tolist())]
        self._batches[:] = [items[plan.options.rows(batch)]
                            for batch in range(plan.options.batches)]
        for pixels in self._loader:
            yield pixels.to(self._device, non_blocking=True)


class _Augmented(Dataset):
    """An item is (epoch, position in the epoch, index of the image), so that workers know both."""

    def __init__(self, pixels, augment, seed):
        self.pixels, self.augment, self.seed = pixels, augment, seed

    def __getitem__(self, item):
        epoch, position, index = item
        with seeded(self.seed, "view", epoch, position):
            return to_tensor(self.augment(to_pil(self.pixels[index])))


def rand_augment(text, size):
    """timm's RandAugment from its string, for images of size x size: a function of PIL images.

    ImageNet's mean fills what comes in, and every operation draws bilinear or bicubic (timm's own
    choice). Draws come from the global generators of random and numpy.
    """
    # With "rand" timm shifts by up to 45 % of the side unless translate_const is given (DELT).
    settings = {"translate_const": round(_TRANSLATE * size), "img_mean": _FILL}
    return rand_augment_transform(text, settings)


def draw_strip_orders(count, strips, generator):
    """int64 [count, strips]: for each image a uniformly random order of its strips."""
    return torch.rand(count, strips, generator=generator, dtype=torch.float64).argsort(1)


def shuffle_patches(pixels, down, across):
    """Cut images into strips along both sides and put these in new orders (RDED).

    pixels: [n, 3, H, W]. down, across: int64 [n, strips], which strip lies at each place. With two
    strips (RDED) top and bottom, and left and right, are each swapped with probability 1/2; more
    strips are our generalisation. Where a side does not divide, strips differ by one pixel.
    """
    rows = to_device(_strip_index(down, pixels.shape[2]), pixels.device)
    columns = to_device(_strip_index(across, pixels.shape[3]), pixels.device)
    image = torch.arange(len(pixels), device=pixels.device).view(-1, 1, 1)
    shuffled = pixels.permute(0, 2, 3, 1)[image, rows.unsqueeze(2), columns.unsqueeze(1)]
    return shuffled.permute(0, 3, 1, 2).contiguous()


def _strip_index(order, side):
    """int64 [n, side]: the old row (or column) of pixels at each new place."""
    strips = order.shape[1]
    place = order.argsort(1)  # where each strip goes
    pixel = torch.arange(side)
    return (place[:, pixel * strips // side] * side + pixel).argsort(1)
