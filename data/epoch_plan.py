"""The plan of an epoch: which image, which crop, which partner. A pure function of its options, so labels can be replayed.

relabel draws the plan, labels the views it makes and stores it beside the logits; validate applies the same plan to the
same pixels, so a soft label always belongs to the pixels the student sees.
"""

from dataclasses import dataclass

import torch

from data import augment
from data.images import normalise
from utils.seeding import stream

RATIO = (3 / 4, 4 / 3)
ALPHA = {"cutmix": 1.0, "mixup": 0.8, "none": 1.0}  # of Beta(alpha, alpha) unless another is given (SRe2L)


@dataclass(frozen=True)
class PlanOptions:
    """What a plan depends on, besides the epoch.

    images: number of images. size: their side in pixels. min_area: least crop area, the largest is 1.
    mix: "cutmix", "mixup" or "none"; alpha: of Beta(alpha, alpha). seed: the fkd seed.
    """

    images: int
    size: int
    batch_size: int = 50
    min_area: float = 0.25
    flip: float = 0.5
    mix: str = "cutmix"
    alpha: float = 1.0
    seed: int = 42

    def __post_init__(self):
        """Raise ValueError for numbers that no plan can be drawn with (of a file that somebody else wrote)."""
        whole = {"images": 1, "size": 1, "batch_size": 1, "seed": 0}
        for name, least in whole.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} = {value!r}, expected an integer of {least} or more")
        for name, highest in {"min_area": 1, "flip": 1, "alpha": 1e30}.items():
            value = getattr(self, name)
            least = "0 or more" if name == "flip" else "more than 0"
            fits = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= highest
            if not fits or (value == 0 and name != "flip"):
                raise ValueError(f"{name} = {value!r}, expected {least} and at most {highest:g}")
        if self.mix not in ALPHA:
            raise ValueError(f"mix = {self.mix!r}, expected one of {', '.join(ALPHA)}")

    @property
    def batches(self):
        return -(-self.images // self.batch_size)


@dataclass
class EpochPlan:
    """order int64 [N]: image at each position. crops int64 [N, 4] and flips bool [N], by position.

    partners int64 [N]: partner as a position inside the batch. lams float64 [batches]. boxes int64 [batches, 4]
    (CutMix box, see augment.draw_cutmix_box; zeros for Mixup). Without mixing partners, lams and boxes are
    identity, 1 and zeros.
    """

    order: torch.Tensor
    crops: torch.Tensor
    flips: torch.Tensor
    partners: torch.Tensor
    lams: torch.Tensor
    boxes: torch.Tensor

    def tensors(self):
        """Compact tensors for storing; EpochPlan.from_tensors is the inverse."""
        return {"order": self.order.int(), "crops": self.crops.int(), "flips": self.flips.to(torch.uint8),
                "partners": self.partners.int(), "lams": self.lams.float(), "boxes": self.boxes.int()}

    @classmethod
    def from_tensors(cls, t):
        return cls(t["order"].long(), t["crops"].long(), t["flips"].bool(), t["partners"].long(), t["lams"].double(),
                   t["boxes"].long())

    def check(self, options):
        """Raise ValueError when the plan points outside of the images of these PlanOptions."""
        n, size = options.images, options.size
        for name, (_, shape) in plan_layout(options).items():
            if list(getattr(self, name).shape) != shape:
                raise ValueError(f"{name} of shape {list(getattr(self, name).shape)}, expected {shape}")
        if not torch.equal(self.order.sort().values, torch.arange(n)):
            raise ValueError("order does not name every image once")
        top, left, height, width = self.crops.unbind(1)
        inside = (self.crops.min() >= 0) & (height.min() > 0) & (width.min() > 0)
        if not (inside & ((top + height).max() <= size) & ((left + width).max() <= size)):
            raise ValueError("a crop lies outside of its image")
        in_batch = torch.arange(n) // options.batch_size * options.batch_size
        if self.partners.min() < 0 or not ((self.partners + in_batch < n) & (self.partners < options.batch_size)).all():
            raise ValueError("a partner lies outside of its batch")
        if not ((self.lams >= 0) & (self.lams <= 1)).all() or self.boxes.min() < 0 or self.boxes.max() > size:
            raise ValueError("a mixing ratio or box lies outside of its range")

    def __eq__(self, other):
        return all(torch.equal(a, b) for a, b in zip(self.tensors().values(), other.tensors().values(), strict=True))


def plan_layout(options):
    """{name: (dtype, shape)} of EpochPlan.tensors()."""
    n, batches = options.images, options.batches
    return {"order": (torch.int32, [n]), "crops": (torch.int32, [n, 4]), "flips": (torch.uint8, [n]),
            "partners": (torch.int32, [n]), "lams": (torch.float32, [batches]), "boxes": (torch.int32, [batches, 4])}


def draw_plan(options, epoch):
    """The plan of an epoch, from the stream (seed, "plan", epoch)."""
    generator = stream(options.seed, "plan", epoch)
    n = options.images
    order = torch.randperm(n, generator=generator)
    crops = augment.draw_crops(n, options.size, options.size, (options.min_area, 1.0), RATIO, generator)
    flips = augment.draw_flips(n, options.flip, generator)
    partners, lams, boxes = [], [], []
    for batch in range(options.batches):
        size = min(options.batch_size, n - batch * options.batch_size)
        if options.mix == "none":
            partner, lam, box = torch.arange(size), 1.0, (0, 0, 0, 0)
        else:
            partner = torch.randperm(size, generator=generator)
            lam = augment.draw_lambda(options.alpha, generator)
            box = (0, 0, 0, 0)
            if options.mix == "cutmix":
                box = augment.draw_cutmix_box(lam, options.size, options.size, generator)
        partners.append(partner)
        lams.append(lam)
        boxes.append(box)
    return EpochPlan(order, crops, flips, torch.cat(partners), torch.tensor(lams, dtype=torch.float64), torch.tensor(boxes))


def batch_slice(options, batch):
    """The positions of a batch in the epoch, as a slice."""
    return slice(batch * options.batch_size, min((batch + 1) * options.batch_size, options.images))


def make_views(pixels, plan, options, batch):
    """The views of one batch before mixing. pixels: function of int64 indices giving uint8 [n, 3, S, S].

    Crop and flip happen on the 8-bit image (released code). Returns normalised float32 [n, 3, S, S].
    """
    at = batch_slice(options, batch)
    views = augment.apply_crops(pixels(plan.order[at]), plan.crops[at], options.size)
    return normalise(augment.apply_flips(views, plan.flips[at]))


def mix_views(views, plan, options, batch):
    """Mix the views of a batch as the plan says (after normalising, released code)."""
    at = batch_slice(options, batch)
    if options.mix == "cutmix":
        return augment.apply_cutmix(views, plan.partners[at], plan.boxes[batch].tolist())
    if options.mix == "mixup":
        return augment.apply_mixup(views, plan.partners[at], float(plan.lams[batch]))
    return views


def mixed_batch(pixels, plan, options, batch):
    """What the teachers label and the student sees: make_views, then mix_views."""
    return mix_views(make_views(pixels, plan, options, batch), plan, options, batch)
