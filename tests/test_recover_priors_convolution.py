import pytest
import torch
import torch.nn.functional as F
from torch import nn

from recover.priors.convolution import ConvolutionAlignment, smoothed
from recover.priors.measured import Targets

SIDE, CLASSES = 20, 3
LAYOUT = [("0", "channels", 3), ("0", "patches", 4), ("1", "channels", 4), ("3", "channels", 4), ("3", "patches", 1)]


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.5


def small_net():
    """Convolution, BatchNorm, ReLU, convolution: four, two and four terms."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, CLASSES, 3),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return net.double().eval().requires_grad_(False)


def targets(classes=True):
    count = sum(length for *_, length in LAYOUT)
    return Targets(LAYOUT, random(2, count, seed=1), random(CLASSES, 2, count, seed=2) if classes else None)


def slow_statistics(net, x):
    """Mean and variance of every term of one unit, layer by layer, through autograd: [(mean, var), ...] as in LAYOUT."""
    def patches(z):
        side = -(-z.shape[2] // 16) * 16
        z = F.interpolate(z, size=(side, side), mode="bilinear", align_corners=False)
        own = [z[:, :, r : r + 16, c : c + 16].flatten() for r in range(0, side, 16) for c in range(0, side, 16)]
        channels = [z[:, c].flatten() for c in range(z.shape[1])]
        return [of(channels), of(own)]

    def of(rows):
        return torch.stack([v.mean() for v in rows]), torch.stack([((v - v.mean()) ** 2).mean() for v in rows])

    first = net[0](x)
    return [*patches(x), of([first[:, c].flatten() for c in range(first.shape[1])]), *patches(net[2](net[1](first)))]


def slow_distance(statistics, target, weight):
    """statistics, target: [(mean, var), ...] as in LAYOUT."""
    total = 0.0
    for (name, *_), found, wanted in zip(LAYOUT, statistics, target, strict=True):
        for a, b in zip(found, wanted, strict=True):
            total = total + (weight if name == "0" else 1.0) * ((a - b) ** 2).sum().sqrt()
    return total


def cut(tensor):
    """[2, M] as [(mean, var), ...] by layer."""
    return [tuple(part) for part in tensor.split([length for *_, length in LAYOUT], 1)]


@pytest.mark.parametrize("sizes", [[4], [2, 2], [3, 1]])
@pytest.mark.parametrize("weight", [10.0, 1.0])
def test_distance_and_gradient_against_a_slow_loop(sizes, weight):
    net, wanted = small_net(), targets(classes=False)
    x = random(4, 3, SIDE, SIDE).requires_grad_(True)
    labels = list(torch.zeros(4, dtype=torch.int64).split(sizes))
    memories = [{} for _ in sizes]
    with ConvolutionAlignment(net, wanted, first_layer_weight=weight) as alignment:
        logits, distances = alignment(x, sizes, labels, memories)
    assert alignment.layers == 3
    assert memories == [{}] * len(sizes)
    torch.testing.assert_close(logits, net(x))
    expected = torch.stack([slow_distance(slow_statistics(net, part), cut(wanted.overall), weight) for part in x.split(sizes)])
    torch.testing.assert_close(distances, expected)
    factors = torch.arange(1.0, len(sizes) + 1, dtype=torch.float64)
    a, b = (torch.autograd.grad((factors * value).sum(), x)[0] for value in (distances, expected))
    torch.testing.assert_close(a, b)
    assert not any(m._forward_pre_hooks for m in net.modules())


def test_smoothed_statistics_and_their_gradient():
    memory, past = {}, torch.zeros(2, 5, dtype=torch.float64)
    for step in range(4):
        s = random(2, 5, seed=step).requires_grad_(True)
        value = smoothed(s, memory, 0.4)
        past = 0.4 * past + 0.6 * s.detach()
        torch.testing.assert_close(value.detach(), past)
        weights = random(2, 5, seed=9)
        torch.testing.assert_close(torch.autograd.grad((weights * value).sum(), s)[0], weights)
        assert not memory["statistics"].requires_grad


def test_distance_uses_the_smoothed_value_of_each_unit():
    net, wanted, ema = small_net(), targets(classes=False), 0.8
    sizes, memories, pasts = [2, 2], [{}, {}], [None, None]
    labels = [torch.zeros(2, dtype=torch.int64)] * 2
    # the slow loop runs the net under the hooks: forwards that are not the alignment's are left alone
    with ConvolutionAlignment(net, wanted, ema=ema) as alignment:
        for step in range(3):
            x = random(4, 3, SIDE, SIDE, seed=step).requires_grad_(True)
            distances = alignment(x, sizes, labels, memories)[1]
            expected = []
            for u, part in enumerate(x.split(sizes)):
                now = slow_statistics(net, part)
                pasts[u] = [tuple((ema * p if pasts[u] else 0) + (1 - ema) * t.detach() for p, t in zip(old, pair, strict=True))
                            for old, pair in zip(pasts[u] or now, now, strict=True)]
                used = [tuple(p + (t - t.detach()) for p, t in zip(old, pair, strict=True))
                        for old, pair in zip(pasts[u], now, strict=True)]
                expected.append(slow_distance(used, cut(wanted.overall), 10.0))
            torch.testing.assert_close(distances, torch.stack(expected))
            torch.testing.assert_close(torch.autograd.grad(distances.sum(), x)[0], torch.autograd.grad(sum(expected), x)[0])
    torch.testing.assert_close(memories[1]["statistics"], torch.cat([torch.stack(pair) for pair in pasts[1]], 1))


def test_a_unit_that_goes_on_from_its_memory_alone_is_the_same():
    net, wanted, labels = small_net(), targets(classes=False), torch.zeros(2, dtype=torch.int64)
    steps = [random(4, 3, SIDE, SIDE, seed=step) for step in range(3)]
    with ConvolutionAlignment(net, wanted, ema=0.4) as alignment:
        memories = [{}, {}]
        together = [alignment(x, [2, 2], [labels] * 2, memories)[1][1] for x in steps]
        memory = {}
        alignment(steps[0][2:], [2], [labels], [memory])
        memory = {name: tensor.clone() for name, tensor in memory.items()}  # through a checkpoint
        alone = [alignment(x[2:], [2], [labels], [memory])[1][0] for x in steps[1:]]
    torch.testing.assert_close(torch.stack(together[1:]), torch.stack(alone))


@pytest.mark.parametrize("patches", ["straight", "swapped"])
def test_class_statistics(patches):
    """Half to global targets, half to the average of the class targets of the images present."""
    net, wanted, share = small_net(), targets(), 0.3
    x, labels = random(5, 3, SIDE, SIDE).requires_grad_(True), [torch.tensor([2, 0, 2]), torch.tensor([1, 1])]
    with ConvolutionAlignment(net, wanted, class_weight=share, class_patches=patches) as alignment:
        distances = alignment(x, [3, 2], labels, [{}, {}])[1]
    for u, (part, own) in enumerate(zip(x.split([3, 2]), labels, strict=True)):
        target = cut(sum(wanted.classes[label] for label in own.tolist()) / len(own))
        if patches == "swapped":
            target = [pair[::-1] if term == "patches" else pair for pair, (_, term, _) in zip(target, LAYOUT, strict=True)]
        found = slow_statistics(net, part)
        expected = (1 - share) * slow_distance(found, cut(wanted.overall), 10.0) + share * slow_distance(found, target, 10.0)
        torch.testing.assert_close(distances[u], expected)


def test_swapped_leaves_the_targets_as_they_are():
    wanted = targets()
    before = wanted.classes.clone()
    ConvolutionAlignment(small_net(), wanted, class_weight=0.5, class_patches="swapped")
    assert torch.equal(wanted.classes, before)


def test_class_weight_needs_class_statistics():
    with pytest.raises(ValueError, match="class statistics"):
        ConvolutionAlignment(small_net(), targets(classes=False), class_weight=0.5)
