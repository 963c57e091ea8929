"""Statistics of a convolution's input: its channels, and patches of 16 x 16 pixels (G-VBSM)."""

import functools

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from data.augment import interpolation_matrices
from models.bn_statistics import grouped_mean_var

PATCH = 16
_TINY = 8  # maps of at most this side would have four or more times as many pixels enlarged


def convolution_statistics(z, sizes):
    """Channel and patch statistics of feature maps, per group of consecutive images (G-VBSM).

    z [n, C, H, W] is first enlarged bilinearly to the next multiple of 16. sizes: images of each of
    U groups, summing to n. Returns mean and biased variance [U, C] over images and space, and mean
    and biased variance [U, P] of each of P patch positions (row by row) over images, channels and
    the pixels of the patch. Differentiable once.
    """
    height, width = z.shape[2:]
    if max(height, width) > PATCH:
        return _by_group(_ChannelsAndPatches, z, sizes)

    if (height, width) in ((1, 1), (PATCH, PATCH)):  # enlarging one pixel changes no statistic
        mean, var = grouped_mean_var(z, sizes)
    elif max(height, width) <= _TINY:
        mean, var = _by_group(_EnlargedMeanVar, z, sizes)
    else:
        mean, var = grouped_mean_var(_enlarge(z, (PATCH, PATCH)), sizes)

    # There is one patch. Its variance is that within channels plus that between them.
    patch_mean = mean.mean(1, keepdim=True)
    patch_var = var.mean(1, keepdim=True) + mean.var(1, correction=0, keepdim=True)
    return mean, var, patch_mean, patch_var


def _by_group(function, z, sizes):
    """Results of an autograd function that takes equal groups, for groups of any size."""
    if len(set(sizes)) == 1:
        return function.apply(z, len(sizes))
    parts = [function.apply(part, 1) for part in z.split(list(sizes))]
    return tuple(torch.cat(results) for results in zip(*parts, strict=True))


def _enlarge(z, sides):
    """z [n, C, H, W] enlarged to `sides`.

    On a CPU, resizing maps in channels_last takes a tenth of the time.
    """
    z = z.contiguous(memory_format=torch.channels_last)
    if tuple(z.shape[2:]) == sides:
        return z
    return F.interpolate(z, size=sides, mode="bilinear", align_corners=False)


class _EnlargedMeanVar(torch.autograd.Function):
    """Mean and biased variance of equal groups of maps as enlarged to 16 x 16, without enlarging.

    Enlarging is linear, r = R a, so the sum of r^2 is a' (R'R) a; a is centred first, so nothing
    cancels.
    """

    @staticmethod
    def forward(ctx, z, groups):
        share, products = _enlarging(*z.shape[2:], z.dtype, z.device)
        values = z.permute(0, 2, 3, 1)
        values = values.reshape(groups, -1, len(share), z.shape[1])  # [U, n/U, HW, C]

        mean = share @ values.mean(1)
        centred = values - mean[:, None, None]
        blurred = products @ centred
        var = (centred * blurred).sum(2).mean(1)

        ctx.save_for_backward(blurred, share)
        ctx.shape = z.shape
        return mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_mean, grad_var):
        blurred, share = ctx.saved_tensors
        images = blurred.shape[1]
        offset = (grad_mean / images)[:, None] * share[:, None]
        slope = (grad_var * (2 / images))[:, None, None]
        gradient = torch.addcmul(offset[:, None], blurred, slope)

        n, channels, height, width = ctx.shape
        return gradient.view(n, height, width, channels).permute(0, 3, 1, 2), None


@functools.cache
def _enlarging(height, width, dtype, device):
    """Share of each pixel in the mean of the enlarged map, [HW], and R'R / 256, [HW, HW].

    Pixels are counted row by row.
    """
    down, across = (
        interpolation_matrices(torch.tensor([0]), torch.tensor([side]), side, PATCH)[0]
        for side in (height, width))
    matrix = torch.kron(down, across)
    products = matrix.t() @ matrix / PATCH**2
    return matrix.mean(0).to(device, dtype), products.to(device, dtype)


class _ChannelsAndPatches(torch.autograd.Function):
    """The four statistics of equal groups of larger maps, with a gradient written by hand.

    The enlarged map is made again in backward instead of kept. Variances are summed from centred
    values: E[z^2] - mean^2 would cancel where |mean| >> sigma.
    """

    @staticmethod
    def forward(ctx, z, groups):
        ctx.sides = tuple(-(-side // PATCH) * PATCH for side in z.shape[2:])
        values = _enlarged_groups(z, ctx.sides, groups)
        mean = values.mean((1, 2, 3))
        var = (values - mean[:, None, None, None]).square_().mean((1, 2, 3))

        patch_mean = _over_patches(values.mean((1, 4)))
        centred = values - _spread(patch_mean, ctx.sides)
        patch_var = _over_patches(centred.square_().mean((1, 4)))

        ctx.save_for_backward(z, mean, patch_mean)
        return mean, var, patch_mean, patch_var

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_mean, grad_var, grad_patch_mean, grad_patch_var):
        """The gradient is a sum over both kinds of statistic of slope z + offset."""
        z, mean, patch_mean = ctx.saved_tensors
        values = _enlarged_groups(z, ctx.sides, len(mean))
        count = values[0].numel()

        slope, offset = (t[:, None, None, None]
                         for t in _slope_and_offset(mean, grad_mean, grad_var, count))
        patch_slope, patch_offset = (
            _spread(t, ctx.sides)
            for t in _slope_and_offset(patch_mean, grad_patch_mean, grad_patch_var, count))
        gradient = torch.addcmul(offset, values, slope)
        gradient = gradient.addcmul_(values, patch_slope).add_(patch_offset)

        gradient = gradient.flatten(0, 1).permute(0, 3, 1, 2)
        if gradient.shape != z.shape:
            gradient = torch.ops.aten.upsample_bilinear2d_backward(
                gradient, list(ctx.sides), list(z.shape), False, None, None)
        return gradient, None


def _enlarged_groups(z, sides, groups):
    """z [n, C, ...] enlarged to `sides` (H, W), in groups: [U, n/U, H, W, C]."""
    return _enlarge(z, sides).permute(0, 2, 3, 1).unflatten(0, (groups, -1))


def _slope_and_offset(mean, grad_mean, grad_var, count):
    """a and b of dz = a z + b = grad_mean / N + grad_var 2 (z - mean) / N, each shaped like mean.

    mean: of a group's channels or patches. count: values in a group, of which each channel or patch
    holds an equal number N.
    """
    share = mean.shape[1] / count  # 1/N
    slope = grad_var * (2 * share)
    return slope, grad_mean * share - mean * slope


def _over_patches(pixels):
    """Mean over each patch of a map [U, H, W]: [U, P]."""
    return F.avg_pool2d(pixels.unsqueeze(1), PATCH).flatten(1)


def _spread(patches, sides):
    """Values per patch [U, P] as a map [U, 1, H, W, 1]."""
    patches = patches.view(-1, *(side // PATCH for side in sides))
    return patches.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)[:, None, :, :, None]
