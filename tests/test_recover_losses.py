import math

import torch

from recover.losses import (
    bn_alignment,
    bn_weight,
    cross_entropy,
    l2_prior,
    teacher_term,
    total_variation,
)


def slow_alignment(z_of_layer, running, first):
    """Loops over layers, channels and values, in plain Python floats."""
    total = 0.0
    for layer, (z, (r_mean, r_var)) in enumerate(zip(z_of_layer, running, strict=True)):
        mean_square, var_square = 0.0, 0.0
        for c in range(z.shape[1]):
            values = z[:, c].flatten().tolist()
            mean = sum(values) / len(values)
            var = sum((v - mean) ** 2 for v in values) / len(values)
            mean_square += (mean - float(r_mean[c])) ** 2
            var_square += (var - float(r_var[c])) ** 2
        total += (first if layer == 0 else 1.0) * (math.sqrt(mean_square) + math.sqrt(var_square))
    return total


def example(seed=0):
    g = torch.Generator().manual_seed(seed)
    z = [torch.randn(3, 4, 2, 2, generator=g, dtype=torch.float64) * 2 + 1,
         torch.randn(3, 2, 5, 1, generator=g, dtype=torch.float64)]
    running = [(torch.randn(c, generator=g, dtype=torch.float64), torch.rand(c, generator=g, dtype=torch.float64)) for c in (4, 2)]
    return z, running


def statistics(z, running):
    return [(x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0), *r) for x, r in zip(z, running, strict=True)]


def test_bn_alignment_equals_slow_loop():
    z, running = example()
    for first in (10.0, 1.0):
        assert math.isclose(float(bn_alignment(statistics(z, running), first)), slow_alignment(z, running, first), rel_tol=1e-12)


def test_bn_alignment_gradient_equals_differences():
    z, running = example(1)
    x = z[0].requires_grad_(True)
    bn_alignment(statistics([x, z[1]], running)).backward()
    eps = 1e-6
    for index in ((0, 0, 0, 0), (2, 3, 1, 1), (1, 2, 0, 1)):
        up, down = x.detach().clone(), x.detach().clone()
        up[index] += eps
        down[index] -= eps
        slope = (slow_alignment([up, z[1]], running, 10.0) - slow_alignment([down, z[1]], running, 10.0)) / (2 * eps)
        assert math.isclose(float(x.grad[index]), slope, rel_tol=1e-6)


def test_bn_alignment_per_unit():
    z, running = example(2)
    one = statistics(z, running)
    two = [(torch.stack([m, m + 1]), torch.stack([v, v * 2]), rm, rv) for m, v, rm, rv in one]
    both = bn_alignment(two)
    assert both.shape == (2,)
    assert torch.equal(both[0], bn_alignment(one))


def test_total_loss_with_alexnet():
    """CE 2, R of two nets 3 and 5, AlexNet 0: m = 3, so 2 + 0.01/3 * 8 (released code), or 2 + 0.01 * 8 (paper Eq. 4)."""
    def total(weight):
        return teacher_term(3.0, weight, cross_entropy=2.0) + teacher_term(5.0, weight) + teacher_term(0.0, weight)

    assert math.isclose(total(bn_weight(0.01, 3)), 2 + 0.01 / 3 * 8, rel_tol=1e-15)
    assert math.isclose(total(bn_weight(0.01, 3, "sum")), 2 + 0.01 * 8, rel_tol=1e-15)
    assert total(bn_weight(0.01, 2)) > total(bn_weight(0.01, 3))  # AlexNet dilutes the BN term


def test_cross_entropy_per_unit():
    logits = torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, -1.0]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 0])
    by_hand = [math.log(math.e + math.e**2) - 1, math.log(2), math.log(math.e**3 + math.e**-1) - 3]
    found = cross_entropy(logits, labels, [2, 1]).tolist()
    assert math.isclose(found[0], (by_hand[0] + by_hand[1]) / 2, rel_tol=1e-12)
    assert math.isclose(found[1], by_hand[2], rel_tol=1e-12)


def test_priors_equal_slow_loops():
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    n, c, h, w = x.shape
    tv = 0.0
    for dr, dc in ((0, 1), (1, 0), (1, 1), (1, -1)):
        square = 0.0
        for i in range(n):
            for k in range(c):
                for r in range(h):
                    for s in range(w):
                        if r + dr < h and 0 <= s + dc < w:
                            square += float(x[i, k, r + dr, s + dc] - x[i, k, r, s]) ** 2
        tv += math.sqrt(square)
    assert math.isclose(float(total_variation(x)), tv, rel_tol=1e-12)
    l2 = sum(math.sqrt(sum(v**2 for v in image.flatten().tolist())) for image in x) / n
    assert math.isclose(float(l2_prior(x)), l2, rel_tol=1e-12)
