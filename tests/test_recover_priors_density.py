import numpy as np
import pytest
import torch

from recover.priors.density import density


def images(count, side, scale=0.02):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, side, side, dtype=torch.float64, generator=generator) * scale


def slow(x, labels, temperature):
    """Class by class, image by image."""
    x = x.detach().numpy()
    side = x.shape[2]
    windows = [slice(i * side // 32, -(-(i + 1) * side // 32)) for i in range(32)]
    rows = np.array([[image[c, down, across].mean()
                      for c in range(3) for down in windows for across in windows] for image in x])
    total = 0.0
    for label in sorted(set(labels)):
        own = rows[[i for i, other in enumerate(labels) if other == label]]
        gram = np.array([[float(np.dot(a, b)) for b in own] for a in own])
        values = np.linalg.eigvals(gram).real
        p, q = (np.exp(v) / np.exp(v).sum() for v in (values / temperature, values))
        total += (p * np.log(p / q)).sum()
    return total


@pytest.mark.parametrize(("side", "temperature"), [(32, 4.0), (64, 4.0), (40, 2.0), (24, 4.0)])
def test_against_a_slow_loop(side, temperature):
    labels = [3, 1, 3, 3, 1, 7, 0, 0, 3]
    x = images(9, side, scale=0.02 * max(1, side / 32))
    expected = slow(x, labels, temperature)
    assert expected > 1e-5
    value = density(x, torch.tensor(labels), temperature).item()
    np.testing.assert_allclose(value, expected, rtol=1e-9)


def test_a_class_with_one_image_gives_0():
    x = images(3, 32).requires_grad_(True)
    value = density(x, torch.tensor([0, 1, 2]))
    value.backward()
    assert value.item() == 0
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_gradient_leaves_the_target_alone():
    x, labels = images(5, 32).requires_grad_(True), torch.tensor([0, 1, 0, 0, 1])
    gradient = torch.autograd.grad(density(x, labels), x)[0]
    total = 0.0
    for label in (0, 1):
        own = x[labels == label]
        gram = torch.stack([torch.stack([(a * b).sum() for b in own]) for a in own])
        values = torch.linalg.eigvalsh(gram)
        p = torch.softmax(values / 4, 0).detach()
        total = total + (p * (p.log() - torch.log_softmax(values, 0))).sum()
    expected = torch.autograd.grad(total, x)[0]
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-15)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("scale", [0.02, 1.0])
def test_gradient_is_finite_with_repeated_eigenvalues(scale):
    one = images(1, 32, scale)
    for x in (one.expand(4, -1, -1, -1), torch.zeros(4, 3, 32, 32, dtype=torch.float64)):
        x = x.clone().float().requires_grad_(True)
        value = density(x, torch.zeros(4, dtype=torch.int64))
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(x.grad).all()
