from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from recover.options import Matching
from recover.priors.convolution import ConvolutionAlignment, smoothed
from recover.priors.measured import Targets
from utils.precision import Arithmetic

SIDE, CLASSES = 20, 3
LAYOUT = [("0", "channels", 3), ("0", "patches", 4), ("1", "channels", 4), ("3", "channels", 4),
          ("3", "patches", 1)]
LENGTHS = [length for *_, length in LAYOUT]


@dataclass
class Part:
    labels: torch.Tensor
    memory: dict = field(default_factory=dict)

    def __len__(self):
        return len(self.labels)


def parts_of(*sizes):
    return [Part(torch.zeros(size, dtype=torch.int64)) for size in sizes]


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator) + 0.5


def small_network():
    """Convolution, BatchNorm, ReLU, convolution: four, two and four terms."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, CLASSES, 3)]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return network.double().eval().requires_grad_(False)


def targets():
    count = sum(LENGTHS)
    return Targets(LAYOUT, random(2, count, seed=1), random(CLASSES, 2, count, seed=2))


def alignment(network, targets, first_layer_weight=10.0, **matching):
    matching = Matching(match="convolution", **matching)
    return ConvolutionAlignment(network, targets, matching, first_layer_weight, Arithmetic())


def slow_statistics(network, x):
    """(mean, var) of every term of one unit, as in LAYOUT, through autograd."""
    def mean_var(rows):
        means = torch.stack([v.mean() for v in rows])
        return means, torch.stack([((v - v.mean()) ** 2).mean() for v in rows])

    def channels(z):
        return mean_var([z[:, c].flatten() for c in range(z.shape[1])])

    def enlarged(z):
        side = -(-z.shape[2] // 16) * 16
        z = F.interpolate(z, size=(side, side), mode="bilinear", align_corners=False)
        patches = [z[:, :, r : r + 16, c : c + 16].flatten()
                   for r in range(0, side, 16) for c in range(0, side, 16)]
        return [channels(z), mean_var(patches)]

    first = network[0](x)
    return [*enlarged(x), channels(first), *enlarged(network[2](network[1](first)))]


def slow_distance(statistics, target, weight=10.0):
    """statistics, target: [(mean, var), ...] as in LAYOUT."""
    total = 0.0
    for (name, *_), value, wanted in zip(LAYOUT, statistics, target, strict=True):
        for a, b in zip(value, wanted, strict=True):
            total = total + (weight if name == "0" else 1.0) * ((a - b) ** 2).sum().sqrt()
    return total


def cut(tensor):
    """[2, M] as [(mean, var), ...] by term."""
    return [tuple(term) for term in tensor.split(LENGTHS, 1)]


@pytest.mark.parametrize("sizes", [[4], [2, 2], [3, 1]])
@pytest.mark.parametrize("weight", [10.0, 1.0])
def test_distance_and_gradient_against_a_slow_loop(sizes, weight):
    network, wanted, parts = small_network(), targets(), parts_of(*sizes)
    x = random(4, 3, SIDE, SIDE).requires_grad_(True)
    with alignment(network, wanted, weight) as aligned:
        logits, distances = aligned(x, parts)
    assert aligned.layers == 3
    assert [part.memory for part in parts] == [{}] * len(sizes)
    torch.testing.assert_close(logits, network(x))

    expected = torch.stack([
        slow_distance(slow_statistics(network, images), cut(wanted.overall), weight)
        for images in x.split(sizes)])
    torch.testing.assert_close(distances, expected)
    factors = torch.arange(1.0, len(sizes) + 1, dtype=torch.float64)
    a, b = (torch.autograd.grad((factors * d).sum(), x)[0] for d in (distances, expected))
    torch.testing.assert_close(a, b)
    assert not any(m._forward_pre_hooks for m in network.modules())


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
    network, wanted, ema = small_network(), targets(), 0.8
    parts, pasts = parts_of(2, 2), [0.0, 0.0]
    # The slow loop runs the network under the hooks, which leave forwards of others alone.
    with alignment(network, wanted, statistics_ema=ema) as aligned:
        for step in range(3):
            x = random(4, 3, SIDE, SIDE, seed=step).requires_grad_(True)
            distances, expected = aligned(x, parts)[1], []
            for u, images in enumerate(x.split(2)):
                statistics = slow_statistics(network, images)
                now = torch.cat([torch.stack(term) for term in statistics], 1)
                pasts[u] = ema * pasts[u] + (1 - ema) * now.detach()
                used = pasts[u] + (now - now.detach())
                expected.append(slow_distance(cut(used), cut(wanted.overall)))
            torch.testing.assert_close(distances, torch.stack(expected))
            torch.testing.assert_close(torch.autograd.grad(distances.sum(), x)[0],
                                       torch.autograd.grad(sum(expected), x)[0])
    torch.testing.assert_close(parts[1].memory["statistics"], pasts[1])


def test_a_unit_that_goes_on_from_its_memory_alone_is_the_same():
    network, wanted, parts, (alone,) = small_network(), targets(), parts_of(2, 2), parts_of(2)
    steps = [random(4, 3, SIDE, SIDE, seed=step) for step in range(3)]
    with alignment(network, wanted, statistics_ema=0.4) as aligned:
        together = [aligned(x, parts)[1][1] for x in steps]
        aligned(steps[0][2:], [alone])
        alone.memory = {name: t.clone() for name, t in alone.memory.items()}  # a checkpoint
        separate = [aligned(x[2:], [alone])[1][0] for x in steps[1:]]
    torch.testing.assert_close(torch.stack(together[1:]), torch.stack(separate))


@pytest.mark.parametrize("patches", ["straight", "swapped"])
def test_class_statistics(patches):
    """A share is to the average of the class targets of the images present."""
    network, wanted, share = small_network(), targets(), 0.3
    before = wanted.classes.clone()
    x = random(5, 3, SIDE, SIDE).requires_grad_(True)
    parts = [Part(torch.tensor([2, 0, 2])), Part(torch.tensor([1, 1]))]
    with alignment(network, wanted, class_statistics=share, class_patches=patches) as aligned:
        distances = aligned(x, parts)[1]
    assert torch.equal(wanted.classes, before)

    for distance, part, images in zip(distances, parts, x.split([3, 2]), strict=True):
        target = cut(sum(wanted.classes[label] for label in part.labels.tolist()) / len(part))
        if patches == "swapped":
            target = [pair[::-1] if term == "patches" else pair
                      for pair, (_, term, _) in zip(target, LAYOUT, strict=True)]
        statistics = slow_statistics(network, images)
        expected = ((1 - share) * slow_distance(statistics, cut(wanted.overall))
                    + share * slow_distance(statistics, target))
        torch.testing.assert_close(distance, expected)
