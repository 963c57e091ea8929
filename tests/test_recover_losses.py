import math

import torch
from torch import nn

from recover.losses import (
    bn_distance,
    bn_weight,
    cross_entropy,
    l2_prior,
    prism_loss,
    total_variation,
)


def slow_distance(z_of_layer, running, first):
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
    running = [(torch.randn(c, generator=g, dtype=torch.float64),
                torch.rand(c, generator=g, dtype=torch.float64)) for c in (4, 2)]
    return z, running


def statistics(z, running):
    return [(x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0), *r)
            for x, r in zip(z, running, strict=True)]


def network(seed, batch_norm=True):
    """Two convolutions with BatchNorm between them and the ReLUs, or without, and a head."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4) if batch_norm else nn.Identity(), nn.ReLU(),
        nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3) if batch_norm else nn.Identity(), nn.ReLU(),
        nn.Flatten(), nn.Linear(3 * 16, 5))
    for layer in net:
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    return net.double().eval().requires_grad_(False)


def test_prism_loss_by_hand():
    """Eq. 2-4 with loops: phi = theta_1, a second teacher, and one without BatchNorm (m = 3)."""
    phi, other, alexnet = network(0), network(1), network(2, batch_norm=False)
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    labels = torch.tensor([0, 4, 2, 2])

    ce = 0.0
    for row, label in zip(phi(x).tolist(), labels.tolist(), strict=True):
        ce += math.log(sum(math.exp(value) for value in row)) - row[label]
    distances = []
    for net in (phi, other):
        first = net[0](x)
        second = net[3](net[2](net[1](first)))
        running = [(net[i].running_mean, net[i].running_var) for i in (1, 4)]
        distances.append(slow_distance([first, second], running, 10.0))

    loss = float(prism_loss(x, labels, phi, [phi, other, alexnet], r_bn=0.01))
    assert math.isclose(loss, ce / 4 + 0.01 / 3 * sum(distances), rel_tol=1e-9)
    summed = float(prism_loss(x, labels, phi, [phi, other, alexnet], r_bn=0.01, terms="sum"))
    assert math.isclose(summed, ce / 4 + 0.01 * sum(distances), rel_tol=1e-9)


def test_alexnet_dilutes_the_bn_term():
    """CE 2, R 3 and 5: with AlexNet m = 3, so it is 2 + 0.01/3 * 8 (released code)."""
    assert bn_distance([]) == 0
    assert math.isclose(2 + bn_weight(0.01, 3) * (3 + 5 + 0), 2 + 0.01 / 3 * 8, rel_tol=1e-15)
    assert bn_weight(0.01, 3, "sum") == 0.01


def test_distance_equals_slow_loop():
    z, running = example()
    for first in (10.0, 1.0):
        distance = float(bn_distance(statistics(z, running), first))
        assert math.isclose(distance, slow_distance(z, running, first), rel_tol=1e-12)


def test_gradient_of_the_distance_equals_differences():
    z, running = example(1)
    x = z[0].requires_grad_(True)
    bn_distance(statistics([x, z[1]], running)).backward()
    eps = 1e-6
    for index in ((0, 0, 0, 0), (2, 3, 1, 1), (1, 2, 0, 1)):
        up, down = x.detach().clone(), x.detach().clone()
        up[index] += eps
        down[index] -= eps
        slope = (slow_distance([up, z[1]], running, 10.0)
                 - slow_distance([down, z[1]], running, 10.0)) / (2 * eps)
        assert math.isclose(float(x.grad[index]), slope, rel_tol=1e-6)


def test_distance_per_unit():
    one = statistics(*example(2))
    two = [(torch.stack([m, m + 1]), torch.stack([v, v * 2]), rm, rv) for m, v, rm, rv in one]
    both = bn_distance(two)
    assert both.shape == (2,)
    assert torch.equal(both[0], bn_distance(one))


def test_cross_entropy_per_unit():
    logits = torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, -1.0]], dtype=torch.float64)
    per_image = [math.log(math.e + math.e**2) - 1, math.log(2),
                 math.log(math.e**3 + math.e**-1) - 3]
    values = cross_entropy(logits, torch.tensor([0, 1, 0]), [2, 1]).tolist()
    assert math.isclose(values[0], (per_image[0] + per_image[1]) / 2, rel_tol=1e-12)
    assert math.isclose(values[1], per_image[2], rel_tol=1e-12)


def test_priors_equal_slow_loops():
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    n, c, h, w = x.shape
    tv = 0.0
    for dr, dc in ((0, 1), (1, 0), (1, 1), (1, -1)):
        squares = [float(x[i, k, r + dr, s + dc] - x[i, k, r, s]) ** 2
                   for i in range(n) for k in range(c) for r in range(h) for s in range(w)
                   if r + dr < h and 0 <= s + dc < w]
        tv += math.sqrt(sum(squares))
    assert math.isclose(float(total_variation(x)), tv, rel_tol=1e-12)
    l2 = sum(math.sqrt(sum(v**2 for v in image.flatten().tolist())) for image in x) / n
    assert math.isclose(float(l2_prior(x)), l2, rel_tol=1e-12)
