"""The kernel distance and its gradient, against slow loops in float64."""

import math

import pytest
import torch

from recover.dap.guidance import gather_reals, guidance, mean_distance, rms


def draw(rows, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 24, generator=generator, dtype=dtype) + 3


def kernel_of(name, bandwidth):
    if name == "linear":
        return lambda u, v: sum(a * b for a, b in zip(u, v, strict=True))
    return lambda u, v: torch.exp(-sum((a - b) ** 2 for a, b in zip(u, v, strict=True))
                                  / (2 * bandwidth**2))


def slow_mean_distance(z, reals, kernel):
    """(1/N) sum_i sqrt(K(z, z) + K(z_i, z_i) - 2 K(z, z_i)) of one image, written out."""
    total = 0
    for real in reals:
        total = total + torch.sqrt(kernel(z, z) + kernel(real, real) - 2 * kernel(z, real))
    return total / len(reals)


def slow_bandwidth(reals):
    pairs = sorted(math.dist(reals[i], reals[j]) for i in range(len(reals)) for j in range(i))
    return pairs[(len(pairs) - 1) // 2]


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_distance_and_gradient_equal_a_slow_loop(kernel):
    z, reals = draw(3, 0).requires_grad_(True), draw(6, 1)
    slow = torch.stack([slow_mean_distance(row, reals, kernel_of(kernel, slow_bandwidth(reals)))
                        for row in z])
    (slope,) = torch.autograd.grad(slow.sum(), z)

    distance, gradient = mean_distance(z.detach(), gather_reals(reals, kernel))
    torch.testing.assert_close(distance, slow.detach(), rtol=1e-9, atol=0)
    torch.testing.assert_close(gradient, slope, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_float32_keeps_its_digits_far_from_the_origin(kernel):
    z, reals = draw(3, 0) + 100, draw(6, 1) + 100
    exact, slope = mean_distance(z, gather_reals(reals, kernel))
    distance, gradient = mean_distance(z.float(), gather_reals(reals.float(), kernel))
    torch.testing.assert_close(distance.double(), exact, rtol=1e-4, atol=0)
    torch.testing.assert_close(gradient.double(), slope, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_the_gradient_is_finite_at_distance_zero(kernel):
    reals = draw(4, 1, torch.float32)
    distance, gradient = mean_distance(reals, gather_reals(reals, kernel))
    assert torch.isfinite(gradient).all()
    assert (distance > 0).all()
    distance, gradient = mean_distance(reals[:1], gather_reals(reals[:1]))
    assert distance.item() == pytest.approx(0, abs=1e-5)
    assert torch.isfinite(gradient).all()


def test_one_row_of_the_mean_is_the_class_mean_form():
    z, reals = draw(3, 0), draw(6, 1)
    distance, gradient = mean_distance(z, gather_reals(reals.mean(0, keepdim=True)))
    difference = z - reals.mean(0)
    torch.testing.assert_close(distance, difference.norm(dim=1))
    torch.testing.assert_close(gradient, difference / difference.norm(dim=1, keepdim=True))


def test_unknown_kernels_and_equal_images_are_refused():
    with pytest.raises(ValueError, match="linear, rbf"):
        gather_reals(draw(2, 1), "cubic")
    with pytest.raises(ValueError, match="equal"):
        gather_reals(draw(1, 1).expand(4, -1), "rbf")


def test_guidance_goes_through_the_features_and_lowers_the_distance():
    x = draw(3, 2).requires_grad_(True)
    matrix = draw(24, 3)[:, :20]
    reals = gather_reals(draw(6, 1) @ matrix)

    def features(x):
        return torch.tanh(x @ matrix / 20)

    g, distance = guidance(features, x, reals)
    slow = torch.stack([slow_mean_distance(row, reals.centred + reals.mean, kernel_of("linear", 0))
                        for row in features(x)])
    torch.testing.assert_close(g, -torch.autograd.grad(slow.sum(), x)[0], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(distance, slow.detach())

    after = guidance(features, x + 1e-3 * g / rms(g), reals)[1]
    assert (after < distance).all()


def test_rms_is_taken_image_by_image():
    x = torch.tensor([[[3.0, -4.0]], [[0.0, 2.0]]])
    assert rms(x).flatten().tolist() == pytest.approx([math.sqrt(12.5), math.sqrt(2)])
