import itertools
import math

import pytest
import torch

from report.metrics import hits_in_top, intra_class_cosine
from utils.seeding import stream


def test_top_k_by_hand():
    logits = torch.tensor([[0.1, 0.9, 0.5, 0.3], [4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]])
    labels = torch.tensor([1, 3, 2])  # first, last, second
    assert hits_in_top(logits, labels, ks=(1, 2, 3)).tolist() == [1, 2, 2]
    assert hits_in_top(logits, labels).tolist() == [1, 3]  # 5 of 4 classes counts as 4


def test_top_k_against_sorting():
    generator = stream("top")
    logits = torch.rand(40, 12, generator=generator)
    labels = torch.randint(0, 12, (40,), generator=generator)
    expected = [sum(int(label) in sorted(range(12), key=lambda c, r=row: -r[c])[:k]
                    for row, label in zip(logits.tolist(), labels, strict=True)) for k in (1, 5)]
    assert hits_in_top(logits, labels).tolist() == expected


def test_intra_class_cosine_against_all_pairs():
    generator = stream("cosine")
    features = torch.randn(11, 6, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 0, 2, 2, 2, 5, 5, 5, 7])  # class 7 has no pair
    expected = {}
    for c in (0, 2, 5):
        own = features[labels == c].tolist()
        values = [sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))
                  for a, b in itertools.combinations(own, 2)]
        expected[c] = sum(values) / len(values)
    per_class, mean = intra_class_cosine(features, labels)
    assert per_class == pytest.approx(expected, abs=1e-12)
    assert mean == pytest.approx(sum(expected.values()) / 3, abs=1e-12)


def test_intra_class_cosine_of_equal_and_of_single_images():
    assert intra_class_cosine(torch.ones(3, 4), torch.zeros(3))[1] == pytest.approx(1)
    assert math.isnan(intra_class_cosine(torch.ones(2, 4), torch.arange(2))[1])
