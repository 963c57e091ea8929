"""The terms that recover minimises. Tensors in, tensors out; a value per unit of work."""

import torch
import torch.nn.functional as F


def cross_entropy(logits, labels, sizes):
    """CE(phi(x), y) of each unit, mean over its images (paper Eq. 2, first term).

    logits [n, C], labels int64 [n]; sizes: images of each unit, one after the other. Returns [U].
    """
    per_image = F.cross_entropy(logits, labels, reduction="none")
    return torch.stack([part.mean() for part in per_image.split(list(sizes))])


def bn_alignment(statistics, first_layer_weight=10.0):
    """Distance of a batch's BatchNorm statistics from a teacher's running ones (paper Eq. 3).

    statistics: per BatchNorm2d, (mean [..., C], biased var [..., C], running_mean [C], running_var [C]), in that layer's
    input units. first_layer_weight: factor on layer 0 only (released code; not in Eq. 3).
    Returns [...]: sum over layers of ||mean - running_mean||_2 + ||var - running_var||_2, norms not squared.
    """
    terms = [torch.linalg.vector_norm(var - running_var, dim=-1) + torch.linalg.vector_norm(mean - running_mean, dim=-1)
             for mean, var, running_mean, running_var in statistics]
    return first_layer_weight * terms[0] + sum(terms[1:])


def bn_weight(r_bn, teachers, terms="mean"):
    """Factor on every BN teacher's R_k: r_bn / m for the mean over m teachers (released code), r_bn for the sum (paper Eq. 4).

    teachers: m. Whether nets that have no term count in it is the caller's choice: they do in the released code, where AlexNet
    adds 0 and dilutes the others.
    """
    return r_bn / teachers if terms == "mean" else r_bn


def teacher_term(alignment, weight, cross_entropy=0.0):
    """What one teacher adds to the loss: CE (of phi alone) + weight * R_k. The loss is the sum over teachers (paper Eq. 4).

    alignment: R_k, 0 for a net without matched layers. weight: from bn_weight.
    """
    return cross_entropy + weight * alignment


def total_variation(x):
    """TV prior of one unit's augmented batch [n, 3, H, W]: four un-squared Frobenius norms over the whole batch.

    Of horizontal, vertical and both diagonal differences (SRe2L; the released code computes it and drops it).
    """
    return (torch.linalg.vector_norm(x[..., :, 1:] - x[..., :, :-1])
            + torch.linalg.vector_norm(x[..., 1:, :] - x[..., :-1, :])
            + torch.linalg.vector_norm(x[..., 1:, 1:] - x[..., :-1, :-1])
            + torch.linalg.vector_norm(x[..., 1:, :-1] - x[..., :-1, 1:]))


def l2_prior(x):
    """L2 prior of one unit's augmented batch [n, 3, H, W]: mean over images of the image's 2-norm (SRe2L)."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1).mean()
