"""The plan of an epoch: which image, which crop, which partner.

A plan is a pure function of its options and the epoch, so labels can be replayed. relabel draws
the plan, labels the views it makes and stores it beside the logits; validate applies the same plan
to the same pixels, so a soft label always belongs to the pixels the student sees.
"""

from dataclasses import dataclass

import torch

from data import augment
from data.images import normalise
from utils.seeding import stream


@dataclass(frozen=True)
class PlanOptions:
    """What a plan depends on, besides the epoch.

    images: number of images N. size: their side S in pixels. batch_size: B. augment: one of
    data.names.AUGMENTS. min_area: least area of a crop, as a part of the image; the largest is 1.
    flip: probability of mirroring. mix: "cutmix", "mixup" or "none", with lambda ~ Beta(alpha,
    alpha). seed: the fkd seed.
    """

    images: int
    size: int
    batch_size: int = 50
    min_area: float = 0.25
    flip: float = 0.5
    mix: str = "cutmix"
    alpha: float = 1.0
    seed: int = 42
    augment: str = "crop"

    @property
    def batches(self):
        """Number of batches of an epoch."""
        return -(-self.images // self.batch_size)

    def rows(self, batch):
        """The positions of a batch in the epoch, as a slice."""
        return slice(batch * self.batch_size, min((batch + 1) * self.batch_size, self.images))


@dataclass(eq=False)
class EpochPlan:
    """One epoch, by position: the i-th view that is shown.

    order int64 [N]: which image. crops int64 [N, 4]: top, left, height, width in pixels of a crop,
    a shift (top and left may be negative) or the whole image.
    flips bool [N]. partners int64 [N]: with which position of its batch it is mixed.
    By batch: lams float64 [batches], boxes int64 [batches, 4] (CutMix box, see
    augment.draw_cutmix_box; zeros for Mixup). Without mixing, partners, lams and boxes are the
    identity, 1 and zeros.
    """

    options: PlanOptions
    order: torch.Tensor
    crops: torch.Tensor
    flips: torch.Tensor
    partners: torch.Tensor
    lams: torch.Tensor
    boxes: torch.Tensor

    def tensors(self):
        """{name: tensor} as stored, in small types; EpochPlan.from_tensors is the inverse."""
        return {"order": self.order.int(), "crops": self.crops.int(),
                "flips": self.flips.to(torch.uint8), "partners": self.partners.int(),
                "lams": self.lams.float(), "boxes": self.boxes.int()}

    @classmethod
    def from_tensors(cls, options, stored):
        """The plan that was stored as {name: tensor}."""
        return cls(options, stored["order"].long(), stored["crops"].long(),
                   stored["flips"].bool(), stored["partners"].long(), stored["lams"].double(),
                   stored["boxes"].long())

    def __eq__(self, other):
        return all(torch.equal(a, b) for a, b in zip(self.tensors().values(),
                                                     other.tensors().values(), strict=True))


def draw_plan(options, epoch):
    """The plan of an epoch, from the stream (seed, "plan", epoch)."""
    generator = stream(options.seed, "plan", epoch)
    count, size = options.images, options.size
    order = torch.randperm(count, generator=generator)
    crops = augment.draw_boxes(options.augment, count, size, (options.min_area, 1.0), generator)
    flips = augment.draw_flips(count, options.flip, generator)

    partners, lams, boxes = [], [], []
    for batch in range(options.batches):
        rows = options.rows(batch)
        partner, lam, box = torch.arange(rows.stop - rows.start), 1.0, (0, 0, 0, 0)
        if options.mix != "none":
            partner = torch.randperm(rows.stop - rows.start, generator=generator)
            lam = augment.draw_lambda(options.alpha, generator)
        if options.mix == "cutmix":
            box = augment.draw_cutmix_box(lam, size, size, generator)
        partners.append(partner)
        lams.append(lam)
        boxes.append(box)
    return EpochPlan(options, order, crops, flips, torch.cat(partners),
                     torch.tensor(lams, dtype=torch.float64), torch.tensor(boxes))


def make_views(pixels, plan, batch):
    """The views of one batch before mixing: normalised float32 [n, 3, S, S].

    pixels: uint8 [n, 3, S, S], the batch's images in the plan's order. Crop and flip happen on the
    8-bit image, as in the released code.
    """
    rows = plan.options.rows(batch)
    views = augment.apply_crops(pixels, plan.crops[rows], plan.options.size)
    return normalise(augment.apply_flips(views, plan.flips[rows]))


def mix_views(views, plan, batch):
    """Mix the normalised views of a batch as the plan says."""
    rows, mix = plan.options.rows(batch), plan.options.mix
    if mix == "cutmix":
        return augment.apply_cutmix(views, plan.partners[rows], plan.boxes[batch].tolist())
    if mix == "mixup":
        return augment.apply_mixup(views, plan.partners[rows], float(plan.lams[batch]))
    return views


def mixed_batch(pixels, plan, batch):
    """What the teachers label and the student sees: make_views, then mix_views."""
    return mix_views(make_views(pixels, plan, batch), plan, batch)
