import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recover.priors.patches import convolution_statistics


def enlarged(image, side):
    """One map [H, W] enlarged bilinearly, pixel by pixel.

    Samples are taken at pixel centres and clamped at the border.
    """
    height, width = image.shape

    def neighbours(place, length):
        position = min(max((place + 0.5) * length / side - 0.5, 0), length - 1)
        low = int(position)
        return low, min(low + 1, length - 1), position - low

    out = np.zeros((side, side))
    for r in range(side):
        top, bottom, down = neighbours(r, height)
        for c in range(side):
            left, right, across = neighbours(c, width)
            above = (1 - across) * image[top, left] + across * image[top, right]
            below = (1 - across) * image[bottom, left] + across * image[bottom, right]
            out[r, c] = (1 - down) * above + down * below
    return out


def slow(z, sizes):
    """The four statistics, number by number."""
    side = -(-z.shape[2] // 16) * 16
    maps = np.array([[enlarged(channel, side) for channel in image]
                     for image in z.double().numpy()])
    groups, first = [], 0
    for size in sizes:
        group = maps[first : first + size]
        channels = [group[:, c].ravel() for c in range(group.shape[1])]
        patches = [group[:, :, r : r + 16, c : c + 16].ravel()
                   for r in range(0, side, 16) for c in range(0, side, 16)]
        groups.append([statistic for rows in (channels, patches) for statistic in
                       ([v.mean() for v in rows], [((v - v.mean()) ** 2).mean() for v in rows])])
        first += size
    return [np.array(part) for part in zip(*groups, strict=True)]


def random(*shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, dtype=dtype, generator=generator) * 3 + 1


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("side", "sizes"), [
    (16, [4]), (14, [2, 2]), (20, [3, 1]), (2, [1, 1, 1, 1]), (8, [2, 2]), (7, [3, 1]), (1, [2, 2]),
    (32, [4])])
def test_against_a_slow_loop(side, sizes, layout):
    z = random(4, 3, side, side).contiguous(memory_format=layout)
    statistics = convolution_statistics(z, sizes)
    units, patches = len(sizes), (-(-side // 16)) ** 2
    shapes = [list(t.shape) for t in statistics]
    assert shapes == [[units, 3]] * 2 + [[units, patches]] * 2
    for value, expected in zip(statistics, slow(z, sizes), strict=True):
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("side", "sizes"), [
    (3, [2]), (7, [2, 2]), (14, [2]), (17, [1, 1]), (1, [2]), (16, [2, 1]), (33, [2])])
def test_gradient(side, sizes):
    z = random(sum(sizes), 2, side, side).requires_grad_(True)

    def plain(t):
        patch = 16 if side > 1 else 1
        if side > 1:
            larger = (-(-side // 16) * 16,) * 2
            t = F.interpolate(t, size=larger, mode="bilinear", align_corners=False)
        groups = []
        for part in t.split(sizes):
            channels = part.transpose(0, 1).flatten(1)
            patches = part.unfold(2, patch, 16).unfold(3, patch, 16)
            patches = patches.permute(2, 3, 0, 1, 4, 5).flatten(2).flatten(0, 1)
            groups.append([v for rows in (channels, patches)
                           for v in (rows.mean(1), rows.var(1, correction=0))])
        return [torch.stack(part) for part in zip(*groups, strict=True)]

    def gradient(statistics):
        loss = sum((random(*t.shape) * t).sum() for t in statistics)
        return torch.autograd.grad(loss, z)[0]

    expected = gradient(plain(z))
    torch.testing.assert_close(gradient(convolution_statistics(z, sizes)), expected,
                               rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("side", [16, 28, 14, 7])
def test_a_mean_far_above_sigma_does_not_cancel(side, layout):
    z = (random(4, 3, side, side) + 1000).float().contiguous(memory_format=layout)
    statistics = convolution_statistics(z, [4])
    exact, tolerances = convolution_statistics(z.double(), [4]), (3e-6, 1e-3) * 2
    for value, expected, tolerance in zip(statistics, exact, tolerances, strict=True):
        torch.testing.assert_close(value.double(), expected, rtol=tolerance, atol=0)
