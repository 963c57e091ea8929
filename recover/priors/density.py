"""G-VBSM's density term: images of a class should not lie along one direction."""

import torch
import torch.nn.functional as F

from data.augment import to_device

SIDE = 32


def density(x, labels, temperature=4.0):
    """Density term of one unit (G-VBSM): sum over its classes of KL(softmax(lambda / T) || softmax(lambda)).

    x: float [n, 3, S, S], augmented and normalised; average-pooled to 32 x 32 and not centred. lambda: eigenvalues of the Gram
    matrix of a class's images. The first softmax is the target, detached. labels: int64 [n], on the CPU. On a GPU the host waits
    for the eigenvalues. Returns a scalar; a class with one image gives 0.
    """
    rows = _pooled(x).flatten(1)
    gram = rows @ rows.t()
    total = gram.sum() * 0.0
    for places in _same_size_classes(labels.tolist()):
        index = to_device(torch.tensor(places), x.device)
        own = gram[index.unsqueeze(2), index.unsqueeze(1)]
        # eigvalsh, not eigh: the gradient of the values alone is finite for repeated ones too
        total = total + _divergence(torch.linalg.eigvalsh(own), temperature)
    return total


def _divergence(values, temperature):
    """KL(softmax(values / T) || softmax(values)) over the last dimension, summed over the others; the first is detached."""
    target = F.softmax(values.detach() / temperature, -1)
    return F.kl_div(F.log_softmax(values, -1), target, reduction="sum")


def _pooled(x):
    """x average-pooled to 32 x 32; windows overlap where the side is no multiple of 32."""
    return x if tuple(x.shape[2:]) == (SIDE, SIDE) else F.adaptive_avg_pool2d(x, SIDE)


def _same_size_classes(labels):
    """Places of each class's images, classes of equal size together: lists of int lists. Classes with one image left out."""
    places = {}
    for place, label in enumerate(labels):
        places.setdefault(label, []).append(place)
    by_size = {}
    for own in places.values():
        by_size.setdefault(len(own), []).append(own)
    return [group for size, group in by_size.items() if size > 1]
