"""The loss that recover minimises (paper Eq. 2-4). Tensors and plain numbers in, tensors out.

`prism_loss` is the paper written out. recover takes the same loss and its gradient one teacher
after the other (recover/gradient.py), from the terms below.
"""

import torch
import torch.nn.functional as F
from torch import nn


def prism_loss(images, labels, phi, bn_teachers, r_bn=0.01, first_layer_weight=10.0, terms="mean"):
    """Loss of one unit of images (paper Eq. 4):

        L(x) = CE(phi(x), y) + r_bn/m sum_{k=1..m} R_k(x)

    images x: float [n, 3, S, S], augmented and normalised. labels y: int64 [n]. phi: the logit
    teacher. bn_teachers: theta_1 ... theta_m, frozen networks in eval mode; R_k is the distance of
    the images' BatchNorm statistics from those that teacher k keeps. A teacher without BatchNorm
    (AlexNet) has R_k = 0 and still counts in m, so it only dilutes the term (released code).
    terms: "mean" divides by m (released code), "sum" does not (paper Eq. 4). Returns a scalar.
    """
    loss = F.cross_entropy(phi(images), labels)
    for teacher in bn_teachers:
        distance = bn_distance(layer_statistics(teacher, images), first_layer_weight)
        loss = loss + bn_weight(r_bn, len(bn_teachers), terms) * distance
    return loss


def bn_distance(statistics, first_layer_weight=10.0):
    """Distance of a unit's BatchNorm statistics from a teacher's running ones (paper Eq. 3):

        R = sum_l w_l ( ||mu_l - running_mean_l||_2 + ||sigma^2_l - running_var_l||_2 )

    statistics: for every layer l in module order (mu [..., C], biased sigma^2 [..., C],
    running_mean [C], running_var [C]). w_0 = first_layer_weight (released code; not in Eq. 3), the
    other w_l = 1. Norms are not squared. Returns [...], and 0 for a network without such layers.
    """
    terms = [torch.linalg.vector_norm(var - running_var, dim=-1)
             + torch.linalg.vector_norm(mean - running_mean, dim=-1)
             for mean, var, running_mean, running_var in statistics]
    return first_layer_weight * terms[0] + sum(terms[1:]) if terms else 0.0


def layer_statistics(network, images):
    """What bn_distance compares: the inputs z of all BatchNorm2d layers, over images and space.

    Plain autograd; models.bn_statistics gives the same in one pass over z.
    """
    inputs = {}
    layers = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    hooks = [layer.register_forward_pre_hook(lambda layer, args: inputs.update({layer: args[0]}))
             for layer in layers]
    network(images)
    for hook in hooks:
        hook.remove()
    return [(inputs[layer].mean((0, 2, 3)), inputs[layer].var((0, 2, 3), correction=0),
             layer.running_mean, layer.running_var) for layer in layers]


def bn_weight(r_bn, teachers, terms="mean"):
    """Factor on each R_k: r_bn / m for the mean over m teachers, r_bn for their sum (Eq. 4)."""
    return r_bn / teachers if terms == "mean" else r_bn


def cross_entropy(logits, labels, sizes):
    """CE(phi(x), y) of U units that share a forward, each a mean over its images: [U] (Eq. 2).

    logits [n, C], labels int64 [n]; sizes: images of each unit, one after the other.
    """
    per_image = F.cross_entropy(logits, labels, reduction="none")
    return torch.stack([unit.mean() for unit in per_image.split(list(sizes))])


def total_variation(x):
    """TV prior of one unit's augmented images [n, 3, H, W] (SRe2L).

    The sum of four un-squared Frobenius norms over the whole unit, of horizontal, vertical and both
    diagonal differences. The released code computes it and drops it.
    """
    return (torch.linalg.vector_norm(x[..., :, 1:] - x[..., :, :-1])
            + torch.linalg.vector_norm(x[..., 1:, :] - x[..., :-1, :])
            + torch.linalg.vector_norm(x[..., 1:, 1:] - x[..., :-1, :-1])
            + torch.linalg.vector_norm(x[..., 1:, :-1] - x[..., :-1, 1:]))


def l2_prior(x):
    """L2 prior of one unit's augmented images [n, 3, H, W]: mean of the images' 2-norms (SRe2L)."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1).mean()
