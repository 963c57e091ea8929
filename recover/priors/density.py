"""G-VBSM's density term, which spreads the images of a class over several directions."""

import torch
import torch.nn.functional as F

from data.augment import to_device

SIDE = 32


def density(x, labels, temperature=4.0):
    """Density term of one unit (G-VBSM): sum over classes of KL(softmax(l / T) || softmax(l)).

    l are the eigenvalues of the Gram matrix of a class's images, which are average-pooled to
    32 x 32 and not centred. The first softmax is the target, so it is detached. x: float
    [n, 3, S, S], augmented and normalised. labels: int64 [n], on the CPU. temperature: T. Returns a
    scalar; a class with one image adds 0. On a GPU the host waits for the eigenvalues.
    """
    rows = _pooled(x).flatten(1)
    gram = rows @ rows.t()

    total = gram.sum() * 0.0
    for members in _members_by_size(labels.tolist()):
        index = to_device(torch.tensor(members), x.device)
        grams = gram[index.unsqueeze(2), index.unsqueeze(1)]
        # Unlike eigh's, the gradient of eigvalsh is finite for repeated eigenvalues.
        total = total + _divergence(torch.linalg.eigvalsh(grams), temperature)
    return total


def _divergence(eigenvalues, temperature):
    """KL(softmax(l / T) || softmax(l)) over the last dimension, summed over the others."""
    target = F.softmax(eigenvalues.detach() / temperature, -1)
    return F.kl_div(F.log_softmax(eigenvalues, -1), target, reduction="sum")


def _pooled(x):
    """x average-pooled to 32 x 32; windows overlap where the side is no multiple of 32."""
    return x if tuple(x.shape[2:]) == (SIDE, SIDE) else F.adaptive_avg_pool2d(x, SIDE)


def _members_by_size(labels):
    """Places of each class's images, classes of equal size together: a list of lists of int lists.

    Classes with one image are left out.
    """
    members = {}
    for place, label in enumerate(labels):
        members.setdefault(label, []).append(place)

    by_size = {}
    for places in members.values():
        by_size.setdefault(len(places), []).append(places)
    return [classes for size, classes in by_size.items() if size > 1]
