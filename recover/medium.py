"""DELT's order of a class's real images: middle difficulty first."""

import torch


def medium_order(probabilities):
    """Places of a class's images, nearest the median difficulty first (DELT's selection).

    probabilities: float [n], of the true class under the ranker. Sorted ascending (equal ones keep their order), then taken
    from the zero-based middle ceil(n/2) at offsets 0, +1, -1, +2, -2, ...; places out of range are skipped until all are used.
    Returns int64 [n], a permutation: entry i is the image that slice i starts from, so images nearest the median come first.
    """
    ascending = torch.sort(torch.as_tensor(probabilities), stable=True).indices
    n = len(ascending)
    middle = (n + 1) // 2  # ceil(n/2), so the upper of the two middles when n is even and one above the middle when n is odd
    outwards = [middle] + [middle + sign * offset for offset in range(1, n + 1) for sign in (1, -1)]
    return ascending[[place for place in outwards if 0 <= place < n]]
