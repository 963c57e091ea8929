"""The views of the hard-label protocols: what is drawn for an epoch, and how it is applied.

    imagenet   crop of 0.5 to 1 of the area, flip, colour jitter, AlexNet's lighting (igd, minimax)
    dc         colour jitter, then one affine map of scale, rotation, shift and flip (the classical
               augmentation of small images)
    none       the images as they are

Everything is drawn on the CPU for a whole epoch, image by image, and applied to batches on the
device. All three end in ImageNet's mean and std, then CutMix where the plan has it.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from data import augment
from data.epoch_plan import EpochPlan, PlanOptions, draw_plan, mix_views
from data.images import standardise_, to_unit
from utils.seeding import stable_seed, stream

_MIN_AREA = 0.5
_JITTER = {"imagenet": 0.4, "dc": 0.2}
_LIGHTING = 0.1
_SCALE, _DEGREES, _SHIFT = 1.2, 15, 1 / 8  # of dc; the shift is 4 px at 32

_GREY = (0.2989, 0.587, 0.114)  # torchvision's weights of red, green and blue
_EIGENVALUES = (0.2175, 0.0188, 0.0045)  # of the RGB values of ImageNet (AlexNet)
_EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


@dataclass
class EpochViews:
    """One epoch: the plan (order, crops, flips, CutMix), and by position in that order:

    operations int64 [N, 3] and factors [N, 3] of apply_jitter, lighting [N, 3] of apply_lighting,
    maps [N, 2, 3] of apply_maps; None for what the augmentation does not have.
    """

    kind: str
    plan: EpochPlan
    operations: torch.Tensor | None = None
    factors: torch.Tensor | None = None
    lighting: torch.Tensor | None = None
    maps: torch.Tensor | None = None

    def to(self, device):
        """The same with all but the plan on a device, so that no batch waits for its draws."""
        tensors = (None if tensor is None else augment.to_device(tensor, device)
                   for tensor in (self.operations, self.factors, self.lighting, self.maps))
        return EpochViews(self.kind, self.plan, *tensors)


def plan_options(count, size, batch_size, mix_type, flips, seed):
    """PlanOptions of a student: count images of size px; flips: whether mirroring keeps classes."""
    return PlanOptions(count, size, batch_size, _MIN_AREA, 0.5 if flips else 0.0, mix_type,
                       seed=stable_seed(seed, "hard"))


def draw_views(kind, options, epoch):
    """The EpochViews of an epoch. kind: one of hard_protocols.AUGMENT. options: of plan_options.

    The plan comes from the stream of draw_plan, the rest from (options.seed, "views", epoch).
    """
    views = EpochViews(kind, draw_plan(options, epoch))
    count, generator = options.images, stream(options.seed, "views", epoch)
    if kind in _JITTER:
        views.operations, views.factors = draw_jitter(count, _JITTER[kind], generator)
    if kind == "imagenet":
        views.lighting = draw_lighting(count, _LIGHTING, generator)
    if kind == "dc":
        views.maps = draw_maps(count, options.size, options.flip, generator)
    return views


def make_views(pixels, views, batch):
    """A batch as the student sees it, mixed: float32 [n, 3, S, S].

    pixels: uint8 [n, 3, S, S], the batch's images in the plan's order. views: on their device.
    """
    plan = views.plan
    rows = plan.options.rows(batch)
    if views.kind == "imagenet":
        pixels = augment.apply_crops(pixels, plan.crops[rows], plan.options.size)
        pixels = augment.apply_flips(pixels, plan.flips[rows])

    x = to_unit(pixels)
    if views.factors is not None:
        x = apply_jitter(x, views.operations[rows], views.factors[rows])
    if views.lighting is not None:
        x = apply_lighting(x, views.lighting[rows])
    x = standardise_(x)
    if views.maps is not None:
        x = apply_maps(x, views.maps[rows])
    return mix_views(x, plan, batch)


def kept_part(plan, batch):
    """lambda of a batch, corrected: the part of each image that CutMix leaves its own."""
    size = plan.options.size
    return augment.outside_box(plan.boxes[batch].tolist(), size, size)


# Colour

def draw_jitter(count, strength, generator):
    """For each image an order of brightness (0), contrast (1) and saturation (2), and factors.

    Returns operations, int64 [count, 3], and the factor of each, float32 [count, 3], uniform on
    1 - strength ... 1 + strength.
    """
    operations = torch.rand(count, 3, generator=generator, dtype=torch.float64).argsort(1)
    factors = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    return operations, (1 + strength * (2 * factors - 1)).float()


def apply_jitter(x, operations, factors):
    """torchvision's adjust_brightness, adjust_contrast and adjust_saturation, as drawn.

    x: [n, 3, H, W] from 0 to 1. An operation with factor f gives f x + (1 - f) y, clamped to
    0 ... 1, where y is black, the mean grey of the image, or its own grey.
    """
    for operation, factor in zip(operations.t(), factors.t(), strict=True):
        contrast, saturation = ((operation == number).to(x.dtype).view(-1, 1, 1, 1)
                                for number in (1, 2))
        factor = factor.view(-1, 1, 1, 1)
        grey = _grey(x)
        y = contrast * grey.mean((1, 2, 3), keepdim=True) + saturation * grey
        x = (factor * x + (1 - factor) * y).clamp_(0, 1)
    return x


def _grey(x):
    red, green, blue = x.split(1, 1)
    return _GREY[0] * red + _GREY[1] * green + _GREY[2] * blue


def draw_lighting(count, std, generator):
    """What AlexNet adds to red, green and blue of an image: float32 [count, 3].

    It is sum_k a_k l_k v_k over the principal components of ImageNet's colours, with a_k ~
    N(0, std^2), eigenvalues l_k and eigenvectors v_k (the columns).
    """
    a = std * torch.randn(count, 3, generator=generator, dtype=torch.float64)
    components = torch.tensor(_EIGENVECTORS, dtype=torch.float64) * torch.tensor(_EIGENVALUES)
    return (a @ components.t()).float()


def apply_lighting(x, lighting):
    """Add to each image [n, 3, H, W] its colour [n, 3]."""
    return x + lighting.view(-1, 3, 1, 1)


# Geometry of small images

def draw_maps(count, size, flip, generator):
    """Affine maps of dc, float32 [count, 2, 3]: from places of the view to places of the image.

    Both axes are scaled by factors uniform on 1/1.2 ... 1.2, and the image is turned by up to 15
    degrees, mirrored with probability `flip`, and shifted by whole pixels up to size/8 each way.
    Places run from -1 to 1 across the image, as in torch.nn.functional.affine_grid.
    """
    def uniform(low, high, shape):
        return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)

    scale = uniform(1 / _SCALE, _SCALE, (2, count))
    angle = uniform(-_DEGREES, _DEGREES, (count,)) * math.pi / 180
    mirror = 1 - 2 * augment.draw_flips(count, flip, generator).double()
    most = round(size * _SHIFT)
    shift = torch.randint(-most, most + 1, (2, count), generator=generator) * (2.0 / size)

    cos, sin = angle.cos(), angle.sin()
    rows = [torch.stack([scale[0] * cos * mirror, -scale[0] * sin, shift[0]], 1),
            torch.stack([scale[1] * sin * mirror, scale[1] * cos, shift[1]], 1)]
    return torch.stack(rows, 1).float()


def apply_maps(x, maps):
    """Each image [n, 3, H, W] through its map, bilinear, with 0 (the mean colour) outside."""
    grid = F.affine_grid(maps, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)
