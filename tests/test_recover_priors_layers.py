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
    """A norm layer for every layout of the field: NCHW, NHWC, [N, T, C], [N, C]; C = 4 equals no other side but one."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        self.group, self.first, self.last = nn.GroupNorm(2, 4), LayerNorm2d(4), nn.LayerNorm(4)
        self.tokens, self.pooled, self.head = nn.LayerNorm(4), nn.LayerNorm(4), nn.Linear(4, 5)

    def forward(self, x):
        x = self.first(self.group(self.convolution(x)))
        x = self.last(x.permute(0, 2, 3, 1))
        return self.head(self.pooled(self.tokens(x.flatten(1, 2)).mean(1)))


def slow(z, channels_at, sizes):
    """Mean and biased variance per unit and channel of an input whose channels are dimension channels_at."""
    z = np.moveaxis(z.detach().double().numpy(), channels_at, 1)
    means, variances, first = [], [], 0
    for size in sizes:
        own = [z[first : first + size, c].ravel() for c in range(z.shape[1])]
        means.append([v.sum() / v.size for v in own])
        variances.append([((v - v.sum() / v.size) ** 2).sum() / v.size for v in own])
        first += size
    return np.array(means), np.array(variances)


def targets_of(net, x):
    """Targets that fit the net: the statistics of x."""
    with torch.no_grad(), LayerTaps(net, calibrated_layers(net)) as taps:
        segments = taps(x, [len(x)])[1]
    return Targets([(s.name, s.term, s.mean.shape[1]) for s in segments], stacked(segments)[0])


@pytest.mark.parametrize("side", [4, 6])  # 4: every side looks like the channels
def test_channels_are_found_in_every_layout(side):
    net, x, inputs = Mixed().eval(), random(5, 3, side, side), {}
    names = {"group": 1, "first": 1, "last": 3, "tokens": 2, "pooled": 1}
    for name in names:
        getattr(net, name).register_forward_pre_hook(lambda _, given, name=name: inputs.update({name: given[0]}))
    with LayerTaps(net, calibrated_layers(net)) as taps:
        logits, segments = taps(x, [2, 3])
    assert torch.equal(logits, net(x))
    assert [s.name for s in segments] == list(names)
    for segment in segments:
        mean, var = slow(inputs[segment.name], names[segment.name], [2, 3])
        np.testing.assert_allclose(segment.mean.detach().numpy(), mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(segment.var.detach().numpy(), var, rtol=1e-4, atol=1e-5)


def test_channels_of_windows_and_tokens():
    assert channels_second(random(2, 5, 6, 3), nn.LayerNorm(3)).shape == (2, 3, 5, 6)
    assert channels_second(random(2, 7, 3), nn.LayerNorm(3)).shape == (2, 3, 1, 7)
    assert channels_second(random(2, 3), nn.LayerNorm(3)).shape == (2, 3, 1, 1)
    assert channels_second(random(2, 3, 7), nn.GroupNorm(1, 3)).shape == (2, 3, 1, 7)
    assert channels_second(random(2, 3, 5, 6), LayerNorm2d(3)).shape == (2, 3, 5, 6)


NETS = {"alexnet": (64, 5, "output"), "timm/convnext_atto": (32, None, "input"), "timm/vit_tiny_patch16_224": (32, None, "input"),
        "convnext_tiny": (32, None, "input"), "swin_t": (32, None, "input")}


@pytest.mark.parametrize("name", NETS)
def test_nets_of_torchvision_and_timm(name):
    side, count, of = NETS[name]
    if name in ("convnext_tiny", "swin_t"):  # layouts only: these are large
        with torch.device("meta"):
            network = build(name, 3, image_size=side)
            network.to("meta")
            x = torch.zeros(4, 3, side, side)
            with LayerTaps(network, calibrated_layers(network)) as taps:
                segments = taps(x, [2, 2])[1]
        for layer, segment in zip(taps.layers, segments, strict=True):
            assert segment.mean.shape == (2, layer.module.weight.numel())
        return
    network = build(name, 3, image_size=side, seed=("priors", name)).eval().requires_grad_(False)
    x = random(4, 3, side, side).requires_grad_(True)
    layers = calibrated_layers(network)
    assert {layer.of for layer in layers} == {of}
    assert count is None or len(layers) == count
    with CalibratedStatistics(network, targets_of(network, x)) as taps:
        logits, statistics = taps(x, [1, 3])
    torch.testing.assert_close(logits, network(x))
    assert len(statistics) == len(taps.layers) == len(layers) > 4
    for (mean, var, target_mean, target_var), layer in zip(statistics, layers, strict=True):
        channels = layer.module.out_channels if of == "output" else layer.module.weight.numel()
        assert mean.shape == var.shape == (2, channels)
        torch.testing.assert_close((mean[0] + 3 * mean[1]) / 4, target_mean, rtol=1e-3, atol=1e-4)
        assert (target_var >= (var[0] + 3 * var[1]) / 4 - 1e-4).all()
    sum(mean.sum() + var.sum() for mean, var, *_ in statistics).backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().max() > 0
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in network.modules())


def test_an_in_place_relu_after_a_convolution_changes_neither_values_nor_gradient():
    def net(inplace):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace), nn.Conv2d(4, 2, 3), nn.ReLU(inplace), nn.Flatten()).double()

    found = []
    for module in (net(True).requires_grad_(False), net(False).requires_grad_(False)):
        x = random(3, 3, 8, 8).double().requires_grad_(True)
        with LayerTaps(module, calibrated_layers(module)) as taps:
            logits, segments = taps(x, [3])
        values = stacked(segments)
        (values.square().sum() + logits.square().sum()).backward()
        found.append((logits, values, x.grad))
    first = net(False)[0](x).detach()
    torch.testing.assert_close(found[0][1][0, 0, :4], first.mean((0, 2, 3)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_convolution_layers_are_batch_norm_and_convolutions_in_module_order():
    network = build("resnet18", 3)
    layers = convolution_layers(network)
    assert [layer.name for layer in layers[:4]] == ["net.conv1", "net.bn1", "net.layer1.0.conv1", "net.layer1.0.bn1"]
    assert sum(isinstance(layer.module, nn.Conv2d) for layer in layers) == 20
    assert len(layers) == 40
