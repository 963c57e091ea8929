import math

import pytest
import torch

from recover.medium import medium_order


@pytest.mark.parametrize(("probabilities", "expected"), [
    ([0.5], [0]),
    ([0.1, 0.9], [1, 0]),  # middle ceil(2/2) = 1
    ([0.5, 0.1, 0.9], [2, 0, 1]),  # ascending 1 0 2; middle 2, then 3 is out of range, 1, 4 out, 0
    ([0.1, 0.2, 0.3, 0.4], [2, 3, 1, 0]),
    ([0.9, 0.1, 0.3, 0.2, 0.5], [4, 0, 2, 3, 1]),  # ascending 1 3 2 4 0; places 3 4 2 1 0
    ([0.2, 0.2, 0.2, 0.2], [2, 3, 1, 0]),  # equal ones keep their order
])
def test_by_hand(probabilities, expected):
    order = medium_order(torch.tensor(probabilities))
    assert order.dtype == torch.int64
    assert order.tolist() == expected


@pytest.mark.parametrize("n", [1, 2, 7, 40, 41])
def test_equals_slow_walk(n):
    generator = torch.Generator().manual_seed(n)
    p = torch.randint(0, 9, (n,), generator=generator).double()  # with ties
    ascending = sorted(range(n), key=lambda i: (p[i].item(), i))
    expected, offset = [], 0
    while len(expected) < n:
        for place in {math.ceil(n / 2) + offset: 0, math.ceil(n / 2) - offset: 0}:
            if 0 <= place < n:
                expected.append(ascending[place])
        offset += 1
    assert medium_order(p).tolist() == expected
