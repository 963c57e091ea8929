"""Every loss against slow loops over Python numbers."""

import math

import pytest
import torch

from utils.seeding import stream
from validate import losses
from validate.options import LOSSES, WITH_GROUND_TRUTH, WITH_TEMPERATURE, Objective

N, C = 6, 5


@pytest.fixture
def batch():
    generator = stream("losses")
    logits = torch.randn(N, C, generator=generator, dtype=torch.float64)
    soft_labels = 3 * torch.randn(N, C, generator=generator, dtype=torch.float64)
    classes, partners = torch.randint(0, C, (2, N), generator=generator)
    return logits, soft_labels, classes, partners


def loss(kind, *values, ce_weight=0.1, temperature=20.0, **more):
    return float(losses.student_loss(Objective(kind, ce_weight, temperature), *values, **more))


def softmax(row, temperature=1.0):
    powers = [math.exp(v / temperature) for v in row]
    return [p / sum(powers) for p in powers]


def cross_entropy(logits, classes):
    rows = zip(logits.tolist(), classes.tolist(), strict=True)
    return sum(-math.log(softmax(row)[c]) for row, c in rows) / len(classes)


def correlation(a, b):
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    a, b = [x - mean_a for x in a], [x - mean_b for x in b]
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b) + 1e-5)


def test_ground_truth_by_hand():
    logits = torch.tensor([[0.0, math.log(3.0)]], dtype=torch.float64)  # probabilities 1/4, 3/4
    classes, partners = torch.tensor([1]), torch.tensor([0])
    assert float(losses.ground_truth(logits, classes)) == pytest.approx(math.log(4 / 3))
    mixed = 0.7 * math.log(4 / 3) + 0.3 * math.log(4)
    assert float(losses.ground_truth(logits, classes, partners, 0.7)) == pytest.approx(mixed)


@pytest.mark.parametrize(("kind", "power"), [("mse_gt", 2), ("mae_gt", 1)])
def test_distance_and_ground_truth(batch, kind, power):
    logits, soft_labels, classes, partners = batch
    distance = sum(abs(float(logits[i, j] - soft_labels[i, j])) ** power
                   for i in range(N) for j in range(C)) / (N * C)
    unmixed = distance + 0.1 * cross_entropy(logits, classes)
    assert loss(kind, logits, soft_labels, classes) == pytest.approx(unmixed, rel=1e-12)

    both = 0.3 * cross_entropy(logits, classes) + 0.7 * cross_entropy(logits, partners)
    mixed = loss(kind, *batch, lam=0.3, ce_weight=0.05)
    assert mixed == pytest.approx(distance + 0.05 * both, rel=1e-12)


@pytest.mark.parametrize("T", [1.0, 20.0])
def test_kl(batch, T):
    logits, soft_labels, classes, _ = batch
    expected = 0.0
    for student, teacher in zip(logits.tolist(), soft_labels.tolist(), strict=True):
        pairs = zip(softmax(student, T), softmax(teacher, T), strict=True)
        expected += sum(q * math.log(q / p) for p, q in pairs) / N
    found = loss("kl", logits, soft_labels, classes, temperature=T)
    assert found == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("T", [1.0, 4.0])
def test_dist(batch, T):
    logits, soft_labels, classes, _ = batch
    p = [softmax(row, T) for row in logits.tolist()]
    q = [softmax(row, T) for row in soft_labels.tolist()]
    rows = sum(correlation(a, b) for a, b in zip(p, q, strict=True)) / N
    columns = sum(correlation([r[c] for r in p], [r[c] for r in q]) for c in range(C)) / C
    expected = T**2 * (2 * (1 - rows) + 2 * (1 - columns))
    found = loss("dist", logits, soft_labels, classes, temperature=T)
    assert found == pytest.approx(expected, rel=1e-10)


def test_dist_of_one_image_has_a_finite_gradient(batch):
    logits, soft_labels, _, _ = batch
    one = logits[:1].clone().requires_grad_()
    losses.dist(one, soft_labels[:1], 1.0).backward()
    assert torch.isfinite(one.grad).all()
    assert one.grad.abs().sum() > 0


def test_hard_labels_read_no_soft_label(batch):
    logits, _, classes, partners = batch
    expected = cross_entropy(logits, classes)
    assert loss("ce", logits, None, classes) == pytest.approx(expected, rel=1e-12)
    mixed = 0.25 * expected + 0.75 * cross_entropy(logits, partners)
    assert loss("ce", logits, None, classes, partners, 0.25) == pytest.approx(mixed, rel=1e-12)


@pytest.mark.parametrize("kind", LOSSES)
def test_temperature_and_ground_truth_enter_only_where_said(batch, kind):
    logits, soft_labels, classes, partners = batch
    plain = loss(kind, logits, soft_labels, classes)
    other = {"ce_weight": loss(kind, logits, soft_labels, classes, ce_weight=0.5),
             "temperature": loss(kind, logits, soft_labels, classes, temperature=3.0),
             "mixed": loss(kind, logits, soft_labels, classes, partners, 0.4)}
    assert (other["ce_weight"] != plain) == (kind in WITH_GROUND_TRUTH)
    assert (other["temperature"] != plain) == (kind in WITH_TEMPERATURE)
    assert (other["mixed"] != plain) == (kind not in WITH_TEMPERATURE)
