"""Batch statistics of every BatchNorm2d's input, from the forward that gives the logits."""

import functools

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from models.networks import build


class BatchNormStatistics:
    """A frozen network in eval mode that gives its BatchNorm layers' statistics beside its logits.

        with BatchNormStatistics(network) as taps:
            logits, statistics = taps(x, sizes)

    sizes: numbers of images of the U units that share the forward, one after the other in x.
    statistics: a list of (mean [U, C], var [U, C], running_mean [C], running_var [C]), one entry
    per BatchNorm2d in module order, empty for a network without any. mean and the biased var are
    over the images and the space of a layer's *input*, per unit, at least float32.

    Inside the block a layer's forward and its statistics are one function (`with_statistics`);
    layers with a forward of their own (timm's BatchNormAct2d) get hooks instead. Calling the
    network itself gathers nothing.
    """

    def __init__(self, network):
        self.layers = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        self.network = network
        self._sizes, self._gathered, self._hooks, self._scales = None, [], [], []
        # Made once: compiled code is thrown away with a function that it has called.
        self._functions = [
            functools.partial(self._forward if _is_plain(layer) else self._before, place, layer)
            for place, layer in enumerate(self.layers)]

    def __enter__(self):
        # The network is frozen: once is enough, and a GPU gets three kernels fewer per layer.
        self._scales = [scale_of(layer) if _is_plain(layer) else None for layer in self.layers]
        for layer, function in zip(self.layers, self._functions, strict=True):
            if _is_plain(layer):
                layer.forward = function
            else:
                self._hooks.append(layer.register_forward_pre_hook(function))
        return self

    def __exit__(self, *_):
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        for layer in self.layers:
            layer.__dict__.pop("forward", None)

    def __call__(self, x, sizes):
        self._sizes, self._gathered = tuple(sizes), []
        logits = self.network(x)
        gathered, self._gathered, self._sizes = self._gathered, [], None
        # Layers may be called in another order than that of the modules.
        return logits, [statistics for _, statistics in sorted(gathered, key=lambda item: item[0])]

    def _forward(self, place, layer, z):
        if self._sizes is None or layer.training:
            return nn.BatchNorm2d.forward(layer, z)
        # Compiled code makes it from the layer anew, in a kernel that does other things as well.
        scale = None if torch.compiler.is_compiling() else self._scales[place]
        y, mean, var = with_statistics(z, layer, self._sizes, scale)
        self._gathered.append((place, (mean, var, layer.running_mean, layer.running_var)))
        return y

    def _before(self, place, layer, _, inputs):
        if self._sizes is not None:
            mean, var = grouped_mean_var(inputs[0], self._sizes)
            self._gathered.append((place, (mean, var, layer.running_mean, layer.running_var)))


def _is_plain(layer):
    """Whether a layer's forward is BatchNorm2d's own."""
    return type(layer).forward is nn.BatchNorm2d.forward


def with_statistics(z, layer, sizes, scale=None):
    """BatchNorm in eval mode and the statistics of its input, as one function.

    z is read once in each direction. z [n, C, H, W]; layer: nn.BatchNorm2d; sizes: images of each
    group of consecutive ones, summing to n; scale: scale_of(layer), where it is known. Returns
    (y like z, mean [U, C], biased var [U, C]), differentiable once with respect to z.
    """
    scale = scale_of(layer) if scale is None else scale
    return _Normalise.apply(z, layer, scale, tuple(sizes))


def scale_of(layer):
    """What a BatchNorm2d in eval mode multiplies its input by: [C]."""
    scale = torch.rsqrt(layer.running_var + layer.eps)
    return scale if layer.weight is None else scale * layer.weight.detach()


class _Normalise(torch.autograd.Function):
    """y = z scale + shift, mean and var, with one gradient for all three, by the chain rule:

    dz = dy scale + dvar 2 (z - mean) / N + dmean / N, N the values of a channel in its group.
    """

    @staticmethod
    def forward(ctx, z, layer, scale, sizes):
        y = nn.BatchNorm2d.forward(layer, z)
        mean, var = group_statistics(z, sizes)
        ctx.save_for_backward(z, mean, scale)
        ctx.sizes = sizes
        return y, mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y, grad_mean, grad_var):
        z, mean, scale = ctx.saved_tensors
        slope, offset = _slope_and_offset(z, mean, grad_mean, grad_var, ctx.sizes)
        gradient = _sum_of_products(z, slope, grad_y, scale.view(1, -1, 1, 1), offset)
        return gradient, None, None, None


def grouped_mean_var(z, sizes):
    """Mean and biased variance of z [n, C, H, W] over images and space, per group of images.

    sizes: images of each group of consecutive ones, summing to n. Returns mean [U, C] and
    var [U, C], at least float32, differentiable once.
    """
    return _MeanVar.apply(z, tuple(sizes))


class _MeanVar(torch.autograd.Function):
    """The statistics alone: dz = dvar 2 (z - mean) / N + dmean / N."""

    @staticmethod
    def forward(ctx, z, sizes):
        mean, var = group_statistics(z, sizes)
        ctx.save_for_backward(z, mean)
        ctx.sizes = sizes
        return mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_mean, grad_var):
        z, mean = ctx.saved_tensors
        slope, offset = _slope_and_offset(z, mean, grad_mean, grad_var, ctx.sizes)
        return torch.addcmul(offset.to(z.dtype), z, slope.to(z.dtype)), None


def group_statistics(z, sizes):
    """Mean [U, C] and biased variance [U, C] of groups of images of z, at least float32.

    Never E[z^2] - mean^2, which cancels where |mean| >> sigma. PyTorch's own kernel for BatchNorm
    sums squares of centred values. Compiled, where one pass over memory is worth more, values are
    centred at the first one of their channel.
    """
    compiled = torch.compiler.is_compiling() or z.is_meta
    of_group = _shifted_sums if compiled else _batch_norm_kernel
    groups = [of_group(group) for group in z.split(list(sizes))]
    if len(groups) == 1:  # a view: a stack would copy, one more kernel on a GPU
        return tuple(statistic[None] for statistic in groups[0])
    return torch.stack([mean for mean, _ in groups]), torch.stack([var for _, var in groups])


def _batch_norm_kernel(z):
    running = None, None
    if z.dtype in (torch.bfloat16, torch.float16):
        # Running statistics decide the type of the result.
        running = torch.zeros(2, z.shape[1], device=z.device)
    return torch.batch_norm_update_stats(z, *running, 0.0)


def _shifted_sums(z):
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    first = z[:1, :, :1, :1]
    centred = z - first
    # By image and then over images: shorter sums round less.
    mean, square = (t.mean((2, 3)).mean(0) for t in (centred, centred.square()))
    return mean + first[0, :, 0, 0], (square - mean.square()).clamp_min(0)


def _slope_and_offset(z, mean, grad_mean, grad_var, sizes):
    """a and b of a z + b, the statistics' gradient with respect to z: each [n or 1, C, 1, 1]."""
    pixels = z.shape[2] * z.shape[3]
    values = sizes[0] * pixels
    if len(set(sizes)) > 1:
        # Filled on the device: a copy from the host would wait for a GPU.
        values = torch.cat([mean.new_full((1, 1), size * pixels) for size in sizes])
    slope = grad_var * (2 / values)
    offset = grad_mean / values - mean * slope

    if len(sizes) > 1:
        slope, offset = (
            torch.cat([row.expand(size, -1) for row, size in zip(t.split(1), sizes, strict=True)])
            for t in (slope, offset))
    return slope[:, :, None, None], offset[:, :, None, None]


def _sum_of_products(a, b, c, d, e):
    """a b + c d + e in the type of a. Compiled it is one pass in float32, else two in that type."""
    if torch.compiler.is_compiling():
        return (a * b + c * d + e).to(a.dtype)
    b, d, e = (t.to(a.dtype) for t in (b, d, e))
    return torch.addcmul(e, a, b).addcmul_(c, d)


@functools.cache
def has_batch_norm(name):
    """Whether a network of this name has BatchNorm2d layers; no weights are allocated."""
    with torch.device("meta"):
        return any(isinstance(m, nn.BatchNorm2d) for m in build(name, num_classes=2).modules())
