import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.convnext import LayerNorm2d

from models.networks import build
from recover.priors.layers import (
    CalibratedStatistics,
    LayerTaps,
    calibrated_layers,
    channels_second,
    convolution_layers,
    stacked,
)
from recover.priors.measured import Targets


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 2 + 1


class Mixed(nn.Module):
    """A norm layer of 4 channels for every layout of the field: NCHW, NHWC, [N, T, C], [N, C]."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        self.group, self.first, self.last = nn.GroupNorm(2, 4), LayerNorm2d(4), nn.LayerNorm(4)
        self.tokens, self.pooled, self.head = nn.LayerNorm(4), nn.LayerNorm(4), nn.Linear(4, 5)

    def forward(self, x):
        x = self.first(self.group(self.convolution(x)))
        x = self.last(x.permute(0, 2, 3, 1))
        return self.head(self.pooled(self.tokens(x.flatten(1, 2)).mean(1)))


def slow(z, channel_dim, sizes):
    """Mean and biased variance of each unit and channel. channel_dim: where z has its channels."""
    z = np.moveaxis(z.detach().double().numpy(), channel_dim, 1)
    means, variances, first = [], [], 0
    for size in sizes:
        channels = [z[first : first + size, c].ravel() for c in range(z.shape[1])]
        means.append([v.sum() / v.size for v in channels])
        variances.append([((v - v.sum() / v.size) ** 2).sum() / v.size for v in channels])
        first += size
    return np.array(means), np.array(variances)


def targets_of(network, x):
    """Targets that fit the network: the statistics of x."""
    with torch.no_grad(), LayerTaps(network, calibrated_layers(network)) as taps:
        segments = taps(x, [len(x)])[1]
    return Targets([(s.name, s.term, s.mean.shape[1]) for s in segments], stacked(segments)[0])


@pytest.mark.parametrize("side", [4, 6])  # with 4, every side could be the channels
def test_channels_are_recognised_in_every_layout(side):
    network, x, inputs = Mixed().eval(), random(5, 3, side, side), {}
    channel_dims = {"group": 1, "first": 1, "last": 3, "tokens": 2, "pooled": 1}
    for name in channel_dims:
        getattr(network, name).register_forward_pre_hook(
            lambda _, given, name=name: inputs.update({name: given[0]}))
    with LayerTaps(network, calibrated_layers(network)) as taps:
        logits, segments = taps(x, [2, 3])
    assert torch.equal(logits, network(x))
    assert [s.name for s in segments] == list(channel_dims)
    for segment in segments:
        mean, var = slow(inputs[segment.name], channel_dims[segment.name], [2, 3])
        np.testing.assert_allclose(segment.mean.detach().numpy(), mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(segment.var.detach().numpy(), var, rtol=1e-4, atol=1e-5)


def test_channels_of_windows_and_tokens():
    assert channels_second(random(2, 5, 6, 3), nn.LayerNorm(3)).shape == (2, 3, 5, 6)
    assert channels_second(random(2, 7, 3), nn.LayerNorm(3)).shape == (2, 3, 1, 7)
    assert channels_second(random(2, 3), nn.LayerNorm(3)).shape == (2, 3, 1, 1)
    assert channels_second(random(2, 3, 7), nn.GroupNorm(1, 3)).shape == (2, 3, 1, 7)
    assert channels_second(random(2, 3, 5, 6), LayerNorm2d(3)).shape == (2, 3, 5, 6)


@pytest.mark.parametrize("name", ["convnext_tiny", "swin_t"])  # large: without numbers
def test_layouts_of_large_networks(name):
    with torch.device("meta"):
        network = build(name, 3, image_size=32)
        network.to("meta")
        x = torch.zeros(4, 3, 32, 32)
        with LayerTaps(network, calibrated_layers(network)) as taps:
            segments = taps(x, [2, 2])[1]
    for layer, segment in zip(taps.layers, segments, strict=True):
        assert segment.mean.shape == (2, layer.module.weight.numel())


@pytest.mark.parametrize(("name", "side", "end"), [
    ("alexnet", 64, "output"), ("timm/convnext_atto", 32, "input"),
    ("timm/vit_tiny_patch16_224", 32, "input")])
def test_networks_of_torchvision_and_timm(name, side, end):
    network = build(name, 3, image_size=side, seed=("priors", name)).eval().requires_grad_(False)
    x = random(4, 3, side, side).requires_grad_(True)
    layers = calibrated_layers(network)
    assert {layer.end for layer in layers} == {end}
    assert name != "alexnet" or len(layers) == 5

    with CalibratedStatistics(network, targets_of(network, x)) as taps:
        logits, statistics = taps(x, [1, 3])
    torch.testing.assert_close(logits, network(x))
    assert len(statistics) == len(taps.layers) == len(layers) > 4
    for (mean, var, target_mean, target_var), layer in zip(statistics, layers, strict=True):
        is_output = end == "output"
        channels = layer.module.out_channels if is_output else layer.module.weight.numel()
        assert mean.shape == var.shape == (2, channels)
        torch.testing.assert_close((mean[0] + 3 * mean[1]) / 4, target_mean, rtol=1e-3, atol=1e-4)
        assert (target_var >= (var[0] + 3 * var[1]) / 4 - 1e-4).all()

    sum(mean.sum() + var.sum() for mean, var, *_ in statistics).backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().max() > 0
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in network.modules())


def test_an_in_place_relu_after_a_convolution_changes_neither_values_nor_gradient():
    def build_net(inplace):
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 4, 3), nn.ReLU(inplace), nn.Conv2d(4, 2, 3), nn.ReLU(inplace)]
        return nn.Sequential(*layers, nn.Flatten()).double().requires_grad_(False)

    results = []
    for network in (build_net(True), build_net(False)):
        x = random(3, 3, 8, 8).double().requires_grad_(True)
        with LayerTaps(network, calibrated_layers(network)) as taps:
            logits, segments = taps(x, [3])
        values = stacked(segments)
        (values.square().sum() + logits.square().sum()).backward()
        results.append((logits, values, x.grad))
    first = build_net(False)[0](x).detach()
    torch.testing.assert_close(results[0][1][0, 0, :4], first.mean((0, 2, 3)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_convolution_layers_are_batch_norm_and_convolutions_in_module_order():
    layers = convolution_layers(build("resnet18", 3))
    names = [layer.name for layer in layers[:4]]
    assert names == ["net.conv1", "net.bn1", "net.layer1.0.conv1", "net.layer1.0.bn1"]
    assert sum(isinstance(layer.module, nn.Conv2d) for layer in layers) == 20
    assert len(layers) == 40
