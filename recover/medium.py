"""DELT's order of a class's real images: middle difficulty first."""

import torch


def medium_order(probabilities):
    """Places of a class's images, nearest the median difficulty first (DELT's selection).

    probabilities: float [n], of the true class under the ranker. They are sorted in ascending order
    (equal ones keep their order), then taken from the zero-based middle ceil(n/2) at offsets 0, +1,
    -1, +2, -2, ...; places out of range are skipped. Returns int64 [n], a permutation whose entry i
    is the image that slice i starts from.
    """
    ascending = torch.sort(probabilities, stable=True).indices
    n = len(ascending)
    middle = (n + 1) // 2  # ceil(n/2), the upper of the two middles when n is even
    offsets = [0] + [sign * offset for offset in range(1, n + 1) for sign in (1, -1)]
    return ascending[[middle + offset for offset in offsets if 0 <= middle + offset < n]]
