"""Statistics of a convolution's input: channels, and patches of 16 x 16 (G-VBSM)."""

import functools

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from data.augment import interpolation_matrices
from models.bn_statistics import grouped_mean_var

PATCH = 16
_TINY = 8  # enlarging such maps would multiply them by four or more


def convolution_statistics(z, sizes):
    """Channel and patch statistics of z [n, C, H, W], per group of consecutive images (G-VBSM).

    The map is enlarged bilinearly to the next multiple of 16 first. sizes: images of each group, summing to n.
    Returns mean, biased var [U, C] over images and space, and mean, biased var [U, P] of every patch position (row by row)
    over images, channels and the patch's pixels. Differentiable once. A map of one pixel stays one: enlarging it changes no
    statistic.
    """
    height, width = z.shape[2:]
    if max(height, width) > PATCH:
        return _by_group(_ChannelsAndPatches, z, sizes)
    if (height, width) in ((1, 1), (PATCH, PATCH)):
        mean, var = grouped_mean_var(z, sizes)
    elif max(height, width) <= _TINY:
        mean, var = _by_group(_EnlargedMeanVar, z, sizes)
    else:
        mean, var = grouped_mean_var(_enlarge(z, (PATCH, PATCH)), sizes)
    # One patch: its variance is that within channels plus that between them
    return mean, var, mean.mean(1, keepdim=True), var.mean(1, keepdim=True) + mean.var(1, correction=0, keepdim=True)


def _by_group(function, z, sizes):
    """Results of an autograd function that takes equal groups, for groups of any size."""
    if len(set(sizes)) == 1:
        return function.apply(z, len(sizes))
    parts = [function.apply(part, 1) for part in z.split(list(sizes))]
    return tuple(torch.cat(found) for found in zip(*parts, strict=True))


def _enlarge(z, sides):
    """z [n, C, H, W] enlarged. Bilinear resizing of channels_last maps takes a tenth of the time on a CPU."""
    z = z.contiguous(memory_format=torch.channels_last)
    return z if tuple(z.shape[2:]) == sides else F.interpolate(z, size=sides, mode="bilinear", align_corners=False)


class _EnlargedMeanVar(torch.autograd.Function):
    """Mean and biased variance of equal groups of maps as enlarged to 16 x 16, without enlarging them.

    Enlarging is linear, r = R a, so the sum of r^2 is a' (R'R) a; a is centred first, so nothing cancels.
    """

    @staticmethod
    def forward(ctx, z, groups):
        share, products = _enlarging(*z.shape[2:], z.dtype, z.device)
        values = z.permute(0, 2, 3, 1).reshape(groups, -1, len(share), z.shape[1])  # [U, n/U, HW, C]
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
        gradient = torch.addcmul(offset[:, None], blurred, (grad_var * (2 / images))[:, None, None])
        return gradient.view(ctx.shape[0], *ctx.shape[2:], ctx.shape[1]).permute(0, 3, 1, 2), None


@functools.cache
def _enlarging(height, width, dtype, device):
    """Share of each pixel in the mean of the enlarged map [HW], and R'R / 256 [HW, HW], row by row."""
    down, across = (interpolation_matrices(torch.tensor([0]), torch.tensor([side]), side, PATCH)[0] for side in (height, width))
    matrix = torch.kron(down, across)
    return matrix.mean(0).to(device, dtype), (matrix.t() @ matrix / PATCH**2).to(device, dtype)


class _ChannelsAndPatches(torch.autograd.Function):
    """The four statistics of equal groups of larger maps, with the gradient written by hand.

    The enlarged map is made again in backward instead of kept. Variances are summed from centred values: E[z^2] - mean^2
    would cancel where |mean| >> sigma.
    """

    @staticmethod
    def forward(ctx, z, groups):
        ctx.sides = tuple(-(-side // PATCH) * PATCH for side in z.shape[2:])
        values = _enlarge(z, ctx.sides).permute(0, 2, 3, 1).unflatten(0, (groups, -1))  # [U, n/U, H, W, C]
        mean = values.mean((1, 2, 3))
        var = (values - mean[:, None, None, None]).square_().mean((1, 2, 3))
        patch_mean = _over_patches(values.mean((1, 4)))
        patch_var = _over_patches((values - _spread(patch_mean, ctx.sides)).square_().mean((1, 4)))
        ctx.save_for_backward(z, mean, patch_mean)
        return mean, var, patch_mean, patch_var

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        """For each kind of statistic, dz = grad_mean / N + grad_var 2 (z - mean) / N = slope z + offset; the two add up."""
        z, mean, patch_mean = ctx.saved_tensors
        values = _enlarge(z, ctx.sides).permute(0, 2, 3, 1).unflatten(0, (len(mean), -1))
        count = values[0].numel()

        def slope_and_offset(means, grad_mean, grad_var):
            share = means.shape[1] / count  # 1/N
            slope = grad_var * (2 * share)
            return slope, grad_mean * share - means * slope

        slope, offset = (t[:, None, None, None] for t in slope_and_offset(mean, *gradients[:2]))
        patch_slope, patch_offset = (_spread(t, ctx.sides) for t in slope_and_offset(patch_mean, *gradients[2:]))
        gradient = torch.addcmul(offset, values, slope).addcmul_(values, patch_slope).add_(patch_offset)
        gradient = gradient.flatten(0, 1).permute(0, 3, 1, 2)
        if gradient.shape != z.shape:
            gradient = torch.ops.aten.upsample_bilinear2d_backward(gradient, list(ctx.sides), list(z.shape), False, None, None)
        return gradient, None


def _over_patches(pixels):
    """Mean over each patch of a map [U, H, W]: [U, P]."""
    return F.avg_pool2d(pixels.unsqueeze(1), PATCH).flatten(1)


def _spread(patches, sides):
    """Values per patch [U, P] as a map [U, 1, H, W, 1]."""
    patches = patches.view(-1, *(side // PATCH for side in sides))
    return patches.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)[:, None, :, :, None]
