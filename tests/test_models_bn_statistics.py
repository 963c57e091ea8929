import numpy as np
import pytest
import torch
from torch import nn

from models.bn_statistics import BatchNormStatistics, grouped_mean_var, has_batch_norm
from models.networks import build


def slow(z, sizes):
    """Mean and biased variance per group and channel, one number at a time in float64."""
    z, means, variances, first = z.double().numpy(), [], [], 0
    for size in sizes:
        rows = [[float(v) for image in z[first : first + size] for v in image[c].flatten()] for c in range(z.shape[1])]
        means.append([sum(row) / len(row) for row in rows])
        variances.append([sum((v - sum(row) / len(row)) ** 2 for v in row) / len(row) for row in rows])
        first += size
    return np.array(means), np.array(variances)


@pytest.mark.parametrize("sizes", [[6], [3, 3], [1, 4, 1], [2, 3, 1]])
def test_groups_against_a_slow_loop(sizes):
    z = torch.randn(6, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3 + 1
    mean, var = grouped_mean_var(z, sizes)
    expected_mean, expected_var = slow(z, sizes)
    assert mean.shape == var.shape == (len(sizes), 3)
    np.testing.assert_allclose(mean.numpy(), expected_mean, rtol=1e-12)
    np.testing.assert_allclose(var.numpy(), expected_var, rtol=1e-12)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("sizes", [[8], [5, 3]])
def test_a_mean_far_above_sigma_does_not_cancel(layout, sizes):
    exact = torch.randn(8, 4, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1000
    z = exact.float().contiguous(memory_format=layout)
    mean, var = grouped_mean_var(z, sizes)
    expected_mean, expected_var = grouped_mean_var(z.double(), sizes)
    torch.testing.assert_close(mean.double(), expected_mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(var.double(), expected_var, rtol=1e-3, atol=0)


@pytest.mark.parametrize("sizes", [[4], [3, 1]])
def test_gradient_of_the_statistics(sizes):
    z = torch.randn(4, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: grouped_mean_var(t, sizes), (z,))


@pytest.fixture(scope="module")
def network():
    return build("shufflenet_v2_x0_5", 3, seed=("bn",)).eval().requires_grad_(False)


def test_the_same_forward_gives_logits_and_statistics_of_every_layers_input(network):
    x = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    layers = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    inputs = []
    hooks = [layer.register_forward_hook(lambda _, given, __: inputs.append(given[0])) for layer in layers]
    plain = network(x)
    for hook in hooks:
        hook.remove()
    with BatchNormStatistics(network) as taps:
        logits, found = taps(x, [2, 3])
    assert torch.equal(logits, plain)
    assert len(found) == len(layers) == len(inputs)
    for (mean, var, running_mean, running_var), layer, z in zip(found, layers, inputs, strict=True):
        expected_mean, expected_var = slow(z, [2, 3])
        np.testing.assert_allclose(mean.numpy(), expected_mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(var.numpy(), expected_var, rtol=1e-4, atol=1e-5)
        assert running_mean is layer.running_mean
        assert running_var is layer.running_var


def test_hooks_are_gone_afterwards(network):
    with BatchNormStatistics(network) as taps:
        taps(torch.zeros(2, 3, 32, 32), [2])
    assert not any(m._forward_pre_hooks for m in network.modules())


def test_nets_without_batch_norm_have_no_statistics():
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with BatchNormStatistics(net) as taps:
        logits, found = taps(torch.zeros(2, 3, 8, 8), [1, 1])
    assert logits.shape == (2, 2)
    assert found == []


def test_which_nets_have_batch_norm():
    assert has_batch_norm("resnet18")
    assert has_batch_norm("timm/resnet10t")
    assert not has_batch_norm("alexnet")
