import math

import pytest
import torch

from utils.seeding import stream
from validate import losses

N, C = 6, 5


@pytest.fixture
def batch():
    generator = stream("losses")
    logits = torch.randn(N, C, generator=generator, dtype=torch.float64)
    soft = 3 * torch.randn(N, C, generator=generator, dtype=torch.float64)
    classes = torch.randint(0, C, (N,), generator=generator)
    partners = torch.randint(0, C, (N,), generator=generator)
    return logits, soft, classes, partners


def slow_softmax(row, temperature=1.0):
    powers = [math.exp(v / temperature) for v in row]
    return [p / sum(powers) for p in powers]


def slow_cross_entropy(logits, classes):
    rows = zip(logits.tolist(), classes.tolist(), strict=True)
    return sum(-math.log(slow_softmax(row)[c]) for row, c in rows) / len(classes)


def slow_correlation(a, b):
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    a, b = [x - mean_a for x in a], [x - mean_b for x in b]
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b) + 1e-5)


def test_ground_truth_by_hand():
    logits = torch.tensor([[0.0, math.log(3.0)]], dtype=torch.float64)  # probabilities 1/4 and 3/4
    own, partner = torch.tensor([1]), torch.tensor([0])
    assert float(losses.ground_truth(logits, own)) == pytest.approx(math.log(4 / 3))
    expected = 0.7 * math.log(4 / 3) + 0.3 * math.log(4)
    assert float(losses.ground_truth(logits, own, partner, 0.7)) == pytest.approx(expected)


@pytest.mark.parametrize(("kind", "power"), [("mse_gt", 2), ("mae_gt", 1)])
def test_distance_and_ground_truth_against_a_loop(batch, kind, power):
    logits, soft, classes, partners = batch
    distance = sum(abs(float(logits[i, j] - soft[i, j])) ** power for i in range(N) for j in range(C)) / (N * C)
    unmixed = distance + 0.1 * slow_cross_entropy(logits, classes)
    assert float(losses.student_loss(kind, logits, soft, classes)) == pytest.approx(unmixed, rel=1e-12)
    mixed = distance + 0.05 * (0.3 * slow_cross_entropy(logits, classes) + 0.7 * slow_cross_entropy(logits, partners))
    found = losses.student_loss(kind, logits, soft, classes, partners, lam=0.3, ce_weight=0.05)
    assert float(found) == pytest.approx(mixed, rel=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_kl_against_a_loop(batch, temperature):
    logits, soft, classes, _ = batch
    expected = 0.0
    for student, teacher in zip(logits.tolist(), soft.tolist(), strict=True):
        p, q = slow_softmax(student, temperature), slow_softmax(teacher, temperature)
        expected += sum(b * math.log(b / a) for a, b in zip(p, q, strict=True)) / N
    found = losses.student_loss("kl", logits, soft, classes, temperature=temperature)
    assert float(found) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dist_against_a_loop(batch, temperature):
    logits, soft, classes, _ = batch
    p = [slow_softmax(row, temperature) for row in logits.tolist()]
    q = [slow_softmax(row, temperature) for row in soft.tolist()]
    rows = sum(slow_correlation(a, b) for a, b in zip(p, q, strict=True)) / N
    columns = sum(slow_correlation([r[c] for r in p], [r[c] for r in q]) for c in range(C)) / C
    expected = temperature**2 * (2 * (1 - rows) + 2 * (1 - columns))
    found = losses.student_loss("dist", logits, soft, classes, temperature=temperature)
    assert float(found) == pytest.approx(expected, rel=1e-10)


def test_dist_of_one_image_has_a_finite_gradient(batch):
    logits, soft, _, _ = batch
    one = logits[:1].clone().requires_grad_()
    losses.dist(one, soft[:1], 1.0).backward()
    assert torch.isfinite(one.grad).all()
    assert one.grad.abs().sum() > 0


def test_plain_hard_labels_read_no_soft_label(batch):
    logits, _, classes, partners = batch
    expected = slow_cross_entropy(logits, classes)
    assert float(losses.student_loss("ce", logits, None, classes)) == pytest.approx(expected, rel=1e-12)
    mixed = 0.25 * expected + 0.75 * slow_cross_entropy(logits, partners)
    assert float(losses.student_loss("ce", logits, None, classes, partners, 0.25)) == pytest.approx(mixed, rel=1e-12)


def test_temperature_and_ground_truth_enter_only_where_said(batch):
    logits, soft, classes, partners = batch
    for kind in losses.LOSSES:
        values = {name: float(losses.student_loss(kind, logits, soft, classes, **change)) for name, change in (
            ("plain", {}), ("ce_weight", {"ce_weight": 0.5}), ("temperature", {"temperature": 3.0}),
            ("mixed", {"partner_classes": partners, "lam": 0.4}))}
        assert (values["ce_weight"] != values["plain"]) == (kind in losses.WITH_GROUND_TRUTH)
        assert (values["temperature"] != values["plain"]) == (kind in losses.WITH_TEMPERATURE)
        assert (values["mixed"] != values["plain"]) == (kind not in losses.WITH_TEMPERATURE)


@pytest.mark.parametrize(("count", "sizes"), [(50, [25, 25]), (26, [13, 13]), (27, [14, 13]), (25, [25]), (13, [13]),
                                              (2, [2]), (1, [1])])
def test_micro_batches_of_fifty_in_two(count, sizes):
    assert losses.micro_batches(count, 50, 2) == sizes


def test_micro_batches_are_even_and_never_of_one_image():
    for batch_size in (2, 3, 7, 50):
        for steps in (1, 2, 3, batch_size):
            for count in range(1, batch_size + 1):
                sizes = losses.micro_batches(count, batch_size, steps)
                assert sum(sizes) == count
                assert max(sizes) - min(sizes) <= 1
                assert sizes == sorted(sizes, reverse=True)
                assert min(sizes) > 1 or count == 1
                if -(-batch_size // steps) > 3:
                    assert max(sizes) <= -(-batch_size // steps)
