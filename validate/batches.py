"""The batches of an epoch: mixed images, their soft labels and their classes."""

from dataclasses import dataclass

import torch

from data.augment import to_device
from data.epoch_plan import mixed_batch
from data.labels import EpochLabels


@dataclass
class Batch:
    """What one optimiser step sees: n images on the student's device.

    images: float32 [n, 3, S, S], augmented and mixed. soft_labels: float32 [n, C]; None for hard
    labels. classes: int64 [n], of the un-mixed images. partner_classes: int64 [n], of the images
    mixed into them with weight 1 - lam; None when the un-mixed classes count alone.
    """

    images: torch.Tensor
    soft_labels: torch.Tensor | None
    classes: torch.Tensor
    partner_classes: torch.Tensor | None
    lam: float

    def __len__(self):
        return len(self.images)

    def part(self, rows):
        """The images of a slice, as a Batch."""
        soft_labels, partner_classes = (None if tensor is None else tensor[rows] for tensor in
                                        (self.soft_labels, self.partner_classes))
        return Batch(self.images[rows], soft_labels, self.classes[rows], partner_classes, self.lam)

    def split(self, sizes):
        """Yield parts of these sizes, one after the other: the micro-batches."""
        start = 0
        for size in sizes:
            yield self.part(slice(start, start + size))
            start += size


def epoch_batches(whole_images, classes, plan, labels, mixed_target, device):
    """Yield the Batch objects of an epoch, in the order of its plan.

    whole_images: iterator of the batches' images before the crop, uint8 [n, 3, S, S] on the device,
    in the plan's order. classes: int64 [N], of every image. plan: EpochPlan.
    labels: EpochLabels that relabel stored; or a function of mixed images [n, 3, S, S] that gives
    logits [n, C]; or None for hard labels. mixed_target: whether the partners' classes count.
    """
    classes = to_device(classes[plan.order], device)
    for batch, pixels in enumerate(whole_images):
        rows = plan.options.rows(batch)
        images = mixed_batch(pixels, plan, batch)
        if isinstance(labels, EpochLabels):
            soft_labels = to_device(labels.logits(rows), device)
        else:
            soft_labels = None if labels is None else labels(images)

        partner_classes = None
        if mixed_target and plan.options.mix != "none":
            partner_classes = classes[rows][to_device(plan.partners[rows], device)]
        yield Batch(images, soft_labels, classes[rows], partner_classes, float(plan.lams[batch]))
