import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from models.bn_statistics import (
    BatchNormStatistics,
    grouped_mean_var,
    has_batch_norm,
    with_statistics,
)
from models.networks import build
from utils.precision import compiled


def slow(z, sizes):
    """Mean and biased variance per group and channel, one number at a time in float64."""
    z, means, variances, first = z.double().numpy(), [], [], 0
    for size in sizes:
        rows = [[float(v) for image in z[first : first + size] for v in image[c].flatten()]
                for c in range(z.shape[1])]
        means.append([sum(row) / len(row) for row in rows])
        variances.append([sum((v - sum(row) / len(row)) ** 2 for v in row) / len(row)
                          for row in rows])
        first += size
    return np.array(means), np.array(variances)


@pytest.mark.parametrize("sizes", [[6], [3, 3], [1, 4, 1], [2, 3, 1]])
def test_groups_against_a_slow_loop(sizes):
    z = torch.randn(6, 3, 4, 5, dtype=torch.float64,
                    generator=torch.Generator().manual_seed(0)) * 3 + 1
    mean, var = grouped_mean_var(z, sizes)
    expected_mean, expected_var = slow(z, sizes)
    assert mean.shape == var.shape == (len(sizes), 3)
    np.testing.assert_allclose(mean.numpy(), expected_mean, rtol=1e-12)
    np.testing.assert_allclose(var.numpy(), expected_var, rtol=1e-12)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("sizes", [[8], [5, 3]])
def test_a_mean_far_above_sigma_does_not_cancel(layout, sizes):
    exact = torch.randn(8, 4, 16, 16, dtype=torch.float64,
                        generator=torch.Generator().manual_seed(0)) + 1000
    z = exact.float().contiguous(memory_format=layout)
    mean, var = grouped_mean_var(z, sizes)
    expected_mean, expected_var = grouped_mean_var(z.double(), sizes)
    torch.testing.assert_close(mean.double(), expected_mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(var.double(), expected_var, rtol=1e-3, atol=0)


@pytest.mark.parametrize("sizes", [[4], [3, 1]])
def test_gradient_of_the_statistics(sizes):
    z = torch.randn(4, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0),
                    requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: grouped_mean_var(t, sizes), (z,))


@pytest.fixture(scope="module")
def network():
    return build("shufflenet_v2_x0_5", 3, seed=("bn",)).eval().requires_grad_(False)


def test_the_same_forward_gives_logits_and_statistics_of_every_layers_input(network):
    x = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    layers = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    inputs = []
    hooks = [layer.register_forward_hook(lambda _, given, __: inputs.append(given[0]))
             for layer in layers]
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


class Calls(TorchDispatchMode):
    """Names of the operations that run inside the block, which are kernels on a GPU."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function._opname)
        return function(*args, **(kwargs or {}))


def test_a_forward_repeats_nothing_that_stays_as_it_is(network):
    """Scales of frozen layers are made once, and the statistics of a single unit are not copied."""
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    with BatchNormStatistics(network) as taps:
        with Calls() as calls:
            taps(x, [4])
        assert calls.names.count("batch_norm_update_stats") == len(taps.layers)
        assert "rsqrt" not in calls.names
        assert "stack" not in calls.names

    with torch.no_grad():
        taps.layers[0].weight.mul_(2)
    (old,) = torch.autograd.grad(taps.network(x).sum(), x)
    with taps:  # entered again, it has the scales of the weights as they are now
        (new,) = torch.autograd.grad(taps(x, [4])[0].sum(), x)
        taps.layers[0].weight.div_(2)
    torch.testing.assert_close(new, old)


# the other has BatchNorm with its activation
@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "timm/efficientnet_b0"])
def test_nothing_is_left_on_the_net_afterwards(name):
    net = build(name, 3).eval().requires_grad_(False)
    with BatchNormStatistics(net) as taps:
        assert len(taps(torch.zeros(2, 3, 32, 32), [2])[1]) == len(taps.layers)
    assert not any(m._forward_pre_hooks or "forward" in vars(m) for m in net.modules())


def layer_of(channels, dtype, affine=True, seed=0):
    layer = nn.BatchNorm2d(channels, affine=affine, dtype=dtype).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for tensor in layer.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(channels, generator=generator) + 0.5)
    return layer


def written_out(z, layer, sizes):
    """The same by autograd: BatchNorm's formula, and the mean and variance of each group."""
    scale = 1 / (layer.running_var + layer.eps).sqrt()
    if layer.weight is not None:
        scale = scale * layer.weight
    shift = (0 if layer.bias is None else layer.bias) - layer.running_mean * scale
    groups = z.split(sizes)
    return (z * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1),
            torch.stack([group.mean((0, 2, 3)) for group in groups]),
            torch.stack([group.var((0, 2, 3), correction=0) for group in groups]))


def with_gradient(function, z, layer, sizes, weights):
    """Values of function(z, layer, sizes), and the gradient of their sum with these weights."""
    leaf = z.detach().clone().requires_grad_(True)
    values = function(leaf, layer, sizes)
    products = [(v * w.to(v.dtype)).sum() for v, w in zip(values, weights, strict=True)]
    sum(products).backward()
    return [value.detach() for value in values], leaf.grad


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


FORWARDS = {"eager": with_statistics, "compiled": compiled(with_statistics)}
LAYOUTS = (torch.contiguous_format, torch.channels_last)


def check(how, z, weights, sizes, tolerance, scale):
    """Values and gradient of one of FORWARDS in float32 against autograd in float64."""
    channels = z.shape[1]
    layer = layer_of(channels, torch.float32).to(z.device)
    values, gradient = with_gradient(FORWARDS[how], z, layer, sizes, weights)
    expected, expected_gradient = with_gradient(
        written_out, z.double().cpu(), layer_of(channels, torch.float64), sizes,
        [w.cpu() for w in weights])
    for value, wanted in zip(values, expected, strict=True):
        torch.testing.assert_close(value.cpu().double(), wanted, rtol=tolerance, atol=scale * 2e-6)
    largest = float(expected_gradient.abs().max())
    torch.testing.assert_close(gradient.cpu().double(), expected_gradient, rtol=tolerance,
                               atol=tolerance * largest)


@pytest.mark.parametrize("how", FORWARDS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("sizes", "mean", "tolerance"), [
    ([6], 0, 2e-6), ([2, 2, 2], 0, 2e-6), ([1, 4, 1], 0, 2e-6), ([6], 1000, 2e-3)])
def test_batch_norm_with_statistics_against_float64(how, layout, sizes, mean, tolerance):
    z = (noise(6, 5, 8, 8) + mean).contiguous(memory_format=layout)
    weights = [noise(6, 5, 8, 8, seed=2), noise(len(sizes), 5, seed=3),
               100 * noise(len(sizes), 5, seed=4)]
    check(how, z, weights, sizes, tolerance, max(1, mean))


@pytest.mark.gpu
@pytest.mark.parametrize("how", FORWARDS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("mean", "tolerance"), [(0, 1e-5), (1000, 5e-3)])
def test_batch_norm_with_statistics_on_a_gpu(how, layout, mean, tolerance):
    z = (noise(40, 16, 28, 28) + mean).cuda().contiguous(memory_format=layout)
    weights = [noise(40, 16, 28, 28, seed=2), 100 * noise(2, 16, seed=3),
               100 * noise(2, 16, seed=4)]
    check(how, z, [w.cuda() for w in weights], [20, 20], tolerance, max(1, mean))


def test_batch_norm_with_statistics_in_float64_to_the_last_digits():
    z = noise(4, 2, 3, 3).double().requires_grad_(True)
    layer = layer_of(2, torch.float64, affine=False)
    assert torch.autograd.gradcheck(lambda t: with_statistics(t, layer, [3, 1]), (z,))


@pytest.mark.parametrize("how", FORWARDS)
def test_statistics_of_bfloat16_are_float32(how):
    z = (3 * noise(50, 4, 16, 16) + 5).bfloat16()
    y, mean, var = FORWARDS[how](z, layer_of(4, torch.float32), [50])
    assert (y.dtype, mean.dtype, var.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    expected_mean, expected_var = grouped_mean_var(z.double(), [50])
    torch.testing.assert_close(mean.double(), expected_mean, rtol=1e-5, atol=0)
    torch.testing.assert_close(var.double(), expected_var, rtol=1e-5, atol=0)


@pytest.mark.parametrize("how", FORWARDS)
def test_many_values_are_summed_without_losing_digits(how):
    """As many as the first layers of ImageNet networks have."""
    z = torch.rand(20, 2, 112, 112, generator=torch.Generator().manual_seed(0))
    z = z.contiguous(memory_format=torch.channels_last)
    _, mean, var = FORWARDS[how](z, layer_of(2, torch.float32), [20])
    exact = z.double()
    torch.testing.assert_close(mean[0].double(), exact.mean((0, 2, 3)), rtol=1e-5, atol=0)
    expected = exact.var((0, 2, 3), correction=0)
    torch.testing.assert_close(var[0].double(), expected, rtol=1e-4, atol=0)


def test_networks_without_batch_norm_have_no_statistics():
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with BatchNormStatistics(net) as taps:
        logits, statistics = taps(torch.zeros(2, 3, 8, 8), [1, 1])
    assert logits.shape == (2, 2)
    assert statistics == []


def test_which_networks_have_batch_norm():
    assert has_batch_norm("resnet18")
    assert has_batch_norm("timm/resnet10t")
    assert not has_batch_norm("alexnet")
