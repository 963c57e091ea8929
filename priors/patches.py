"""Statistics of a convolution's input: channels, and patches of 16 x 16 (G-VBSM)."""

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

PATCH = 16


def convolution_statistics(z, sizes):
    """Channel and patch statistics of z [n, C, H, W], per group of consecutive images (G-VBSM).

    The map is enlarged bilinearly to the next multiple of 16 first. sizes: images of each group, summing to n.
    Returns mean, biased var [U, C] over images and space, and mean, biased var [U, P] of every patch position (row by row)
    over images, channels and the patch's pixels. Differentiable once. A map of one pixel stays one: enlarging it changes no
    statistic.
    """
    if len(set(sizes)) == 1:
        return _ConvolutionStatistics.apply(z, len(sizes))
    parts = [_ConvolutionStatistics.apply(part, 1) for part in z.split(list(sizes))]
    return tuple(torch.cat(found) for found in zip(*parts, strict=True))


def _enlarged_sides(height, width):
    return (1, 1) if height == width == 1 else tuple(-(-side // PATCH) * PATCH for side in (height, width))


def _enlarge(z, sides):
    """z enlarged, as [n, H, W, C]. Bilinear resizing of channels_last maps takes a tenth of the time on a CPU."""
    z = z.contiguous(memory_format=torch.channels_last)
    if tuple(z.shape[2:]) != sides:
        z = F.interpolate(z, size=sides, mode="bilinear", align_corners=False)
    return z.permute(0, 2, 3, 1)


def _shrink(gradient, shape):
    """Gradient of _enlarge: [n, H', W', C] to [n, C, H, W] of `shape`."""
    gradient = gradient.permute(0, 3, 1, 2)
    if gradient.shape == shape:
        return gradient
    return torch.ops.aten.upsample_bilinear2d_backward(gradient, list(gradient.shape[2:]), list(shape), False, None, None)


def _over_patches(pixels):
    """Mean over each patch of a map [U, H, W]: [U, H/16, W/16]."""
    return pixels if pixels.shape[1:] == (1, 1) else F.avg_pool2d(pixels.unsqueeze(1), PATCH).squeeze(1)


def _spread(patches, sides):
    """Values per patch [U, P] as a map [U, 1, H, W, 1]."""
    rows, columns = (max(side // PATCH, 1) for side in sides)
    patches = patches.view(-1, rows, columns)
    if sides != (1, 1):
        patches = patches.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)
    return patches[:, None, :, :, None]


class _ConvolutionStatistics(torch.autograd.Function):
    """The four statistics of equal groups, with the gradient written by hand: one pass over the enlarged map, which is made
    again in backward instead of kept. Variances are summed from centred values: E[z^2] - mean^2 would cancel where |mean| >> sigma.
    """

    @staticmethod
    def forward(ctx, z, groups):
        sides = _enlarged_sides(*z.shape[2:])
        values = _enlarge(z, sides).unflatten(0, (groups, -1))  # [U, n/U, H, W, C]
        mean = values.mean((1, 2, 3))
        var = (values - mean[:, None, None, None]).square_().mean((1, 2, 3))
        patch_mean = _over_patches(values.mean((1, 4))).flatten(1)
        patch_var = _over_patches((values - _spread(patch_mean, sides)).square_().mean((1, 4))).flatten(1)
        ctx.save_for_backward(z, mean, patch_mean)
        ctx.sides = sides
        return mean, var, patch_mean, patch_var

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        """For each kind of statistic, dz = grad_mean / N + grad_var 2 (z - mean) / N = slope z + offset; the two add up."""
        z, mean, patch_mean = ctx.saved_tensors
        values = _enlarge(z, ctx.sides).unflatten(0, (len(mean), -1))
        count = values[0].numel()

        def slope_and_offset(means, grad_mean, grad_var):
            share = means.shape[1] / count  # 1/N
            slope = grad_var * (2 * share)
            return slope, grad_mean * share - means * slope

        slope, offset = (t[:, None, None, None] for t in slope_and_offset(mean, *gradients[:2]))
        patch_slope, patch_offset = (_spread(t, ctx.sides) for t in slope_and_offset(patch_mean, *gradients[2:]))
        gradient = torch.addcmul(offset, values, slope).addcmul_(values, patch_slope).add_(patch_offset)
        return _shrink(gradient.flatten(0, 1), z.shape), None
