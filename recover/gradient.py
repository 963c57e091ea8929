"""The loss of recover and its gradient with respect to the augmented images.

It is `losses.prism_loss` of every unit, summed, and computed as follows.
  1. The loss is a sum over teachers. Each teacher's share and gradient are taken alone and its
     graph is freed before the next one runs, so memory is the largest teacher's, not all teachers'.
  2. phi and theta_1 are one network on the same images: one forward gives logits and statistics.
  3. A teacher without matched layers (AlexNet) adds 0, so as a BN teacher it does not run at all.
  4. BatchNorm's output and the statistics of its input are one function with a gradient written
     by hand (models/bn_statistics.py): each map is read once in each direction.
  5. Units share a forward. A network in eval mode treats images independently; statistics and
     distances are taken unit by unit.
  6. Gradients stop at the augmented images; one backward of the augmentation follows.
"""

from dataclasses import dataclass, field

import torch

from models.networks import head_labels
from recover import losses
from recover.priors.density import density
from recover.teacher_pool import Teachers


@dataclass(eq=False)
class View:
    """What one step sees of a unit: the augmented images that take part in it.

    images: a leaf [n, 3, S, S] whose .grad receives the gradient. labels: int64 [n] on the device.
    classes: the same on the host. teachers: of this step. memories: {teacher: what its alignment
    remembers of the unit from step to step}. terms: {name: scalar on the device}, filled here.
    """

    images: torch.Tensor
    labels: torch.Tensor
    classes: torch.Tensor
    teachers: Teachers
    memories: dict = field(default_factory=dict)
    terms: dict = field(default_factory=dict)


@dataclass(eq=False)
class Part:
    """A unit's images in a teacher's forward, as an alignment sees them."""

    labels: torch.Tensor
    memory: dict

    def __len__(self):
        return len(self.labels)


def loss_gradient(views, alignments, weights):
    """Add the gradient of the loss (paper Eq. 4) to view.images.grad, and note its terms.

    alignments: {teacher: an alignment of recover/alignment.py}; a BN teacher that is not among them
    has no matched layers. weights: recover.options.Losses. Terms are "ce", "bn NAME" of every BN
    teacher, "priors" and "density".
    """
    for name, alignment in alignments.items():
        # The units that it guides as a BN teacher, then those whose logits alone it gives
        as_bn = [view for view in views if alignment.layers and name in view.teachers.bn]
        as_phi = [view for view in views if name == view.teachers.logit and view not in as_bn]
        for guided in filter(None, (as_bn, as_phi)):
            x = torch.cat([view.images for view in guided])
            labels = head_labels(alignment.network, torch.cat([view.labels for view in guided]))
            if guided is as_bn:
                logits, distances = alignment(x, [
                    Part(view.labels, view.memories.setdefault(name, {})) for view in guided])
            else:
                logits, distances = alignment.logits(x), [0.0] * len(guided)
            sizes = [len(view.labels) for view in guided]
            entropies = losses.cross_entropy(logits.to(x.dtype), labels, sizes)

            loss = 0.0
            for view, ce, distance in zip(guided, entropies, distances, strict=True):
                ce = ce if name == view.teachers.logit else 0.0
                if weights.bn_normalise == "layers":
                    distance = distance / max(1, alignment.layers)
                note(view, name, ce, distance)
                m = counted(view.teachers, alignments, weights.without_bn)
                loss = loss + (ce + losses.bn_weight(weights.r_bn, m, weights.bn_terms) * distance)
            loss.backward()

    for view in views:
        image_priors_gradient(view, weights)


def note(view, name, ce, distance):
    """Note what a teacher adds to the loss of a unit; 0.0 stands for a term that it has not."""
    for term, value in (("ce", ce), (f"bn {name}", distance)):
        if isinstance(value, torch.Tensor):
            view.terms[term] = value.detach()


def counted(teachers, alignments, without_bn):
    """m of the mean over BN teachers: all of them (released code), or those that have a term."""
    if without_bn == "counted":
        return len(teachers.bn)
    return max(1, sum(name in alignments and alignments[name].layers > 0 for name in teachers.bn))


def image_priors_gradient(view, weights):
    """Terms of the augmented images alone: SRe2L's TV and L2, G-VBSM's density."""
    x = view.images
    if weights.tv_l2 or weights.l2_scale:
        prior = weights.tv_l2 * losses.total_variation(x) + weights.l2_scale * losses.l2_prior(x)
        prior.backward()
        view.terms["priors"] = prior.detach()
    if weights.density:
        value = density(x, view.classes, weights.density_temperature)
        (weights.density * value).backward()
        view.terms["density"] = value.detach()
