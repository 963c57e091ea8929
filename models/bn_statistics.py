"""Batch statistics of every BatchNorm2d's input, gathered in the same forward that gives the logits."""

import functools

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from models.networks import build


class BatchNormStatistics:
    """A frozen net in eval mode that gives the statistics of its BatchNorm layers' inputs beside its logits.

        with BatchNormStatistics(net) as taps:
            logits, statistics = taps(x, sizes)

    sizes: numbers of images of the units that share the forward (they lie one after the other in x). Statistics are per
    unit, biased, over batch and space of each layer's *input*, in module order, at least float32:
    a list of (mean [U, C], var [U, C], running_mean [C], running_var [C]). Empty for a net without BatchNorm2d. Calling the
    net itself gathers nothing. Inside the block a layer's forward is one function with its statistics (`with_statistics`);
    layers with a forward of their own (timm's BatchNormAct2d) get hooks.
    """

    def __init__(self, net):
        self.layers = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        self.net = net
        self._sizes, self._found, self._hooks = None, [], []

    def __enter__(self):
        for place, layer in enumerate(self.layers):
            if type(layer).forward is nn.BatchNorm2d.forward:
                layer.forward = functools.partial(self._forward, place, layer)
            else:
                self._hooks.append(layer.register_forward_pre_hook(functools.partial(self._gather, place)))
        return self

    def __exit__(self, *_):
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        for layer in self.layers:
            layer.__dict__.pop("forward", None)

    def _forward(self, place, layer, z):
        if self._sizes is None or layer.training:  # the net is asked for its logits alone, or is not the frozen one
            return nn.BatchNorm2d.forward(layer, z)
        y, mean, var = with_statistics(z, layer, self._sizes)
        self._found.append((place, (mean, var, layer.running_mean, layer.running_var)))
        return y

    def _gather(self, place, layer, inputs):
        if self._sizes is not None:
            mean, var = grouped_mean_var(inputs[0], self._sizes)
            self._found.append((place, (mean, var, layer.running_mean, layer.running_var)))

    def __call__(self, x, sizes):
        self._sizes, self._found = tuple(sizes), []
        logits = self.net(x)
        found, self._found, self._sizes = self._found, [], None
        return logits, [statistics for _, statistics in sorted(found, key=lambda item: item[0])]  # called in another order


def with_statistics(z, layer, sizes):
    """BatchNorm in eval mode and the statistics of its input, as one function: z is read once in each direction.

    z [n, C, H, W], layer: nn.BatchNorm2d. sizes: images of each group of consecutive ones, summing to n.
    Returns (y like z, mean [U, C], biased var [U, C]), differentiable once with respect to z.
    """
    scale = torch.rsqrt(layer.running_var + layer.eps)
    if layer.weight is not None:
        scale = scale * layer.weight.detach()
    return _Normalise.apply(z, layer, scale, tuple(sizes))


class _Normalise(torch.autograd.Function):
    """y = z scale + shift, mean, var, with one gradient for all three, written by hand:

    dz = dy scale + dvar 2 (z - mean) / N + dmean / N, N the values of a channel in the group (Eq. 3's statistics, chain rule).
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
        return _sum_of_products(z, slope, grad_y, scale.view(1, -1, 1, 1), offset), None, None, None


def grouped_mean_var(z, sizes):
    """Mean and biased variance of z [n, C, H, W] over images and space, per group of consecutive images.

    sizes: images of each group, summing to n. Returns mean [U, C], var [U, C], at least float32, differentiable once.
    """
    return _MeanVar.apply(z, tuple(sizes))


class _MeanVar(torch.autograd.Function):
    """The statistics alone, for layers that are not BatchNorm's own: dz = dvar 2 (z - mean) / N + dmean / N."""

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
    """Mean [U, C] and biased variance [U, C] of groups of consecutive images of z [n, C, H, W], at least float32.

    Never E[z^2] - mean^2, which would cancel where |mean| >> sigma: PyTorch's own kernel for BatchNorm sums squares of centred
    values; compiled, where one pass over memory is worth more, values are centred at the first one of their channel.
    """
    of_part = _shifted_sums if torch.compiler.is_compiling() or z.is_meta else _native
    parts = [of_part(part) for part in z.split(list(sizes))]
    return torch.stack([mean for mean, _ in parts]), torch.stack([var for _, var in parts])


def _native(z):
    low = z.dtype in (torch.bfloat16, torch.float16)  # then the type of the running statistics decides that of the result
    running = torch.zeros(2, z.shape[1], device=z.device) if low else (None, None)
    return torch.batch_norm_update_stats(z, *running, 0.0)


def _shifted_sums(z):
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    first = z[:1, :, :1, :1]
    centred = z - first
    mean, square = (t.mean((2, 3)).mean(0) for t in (centred, centred.square()))  # by image: shorter sums round less
    return mean + first[0, :, 0, 0], (square - mean.square()).clamp_min(0)


def _slope_and_offset(z, mean, grad_mean, grad_var, sizes):
    """Per image and channel a, b of a z + b, the gradient of the statistics with respect to z. [n or 1, C, 1, 1]."""
    pixels = z.shape[2] * z.shape[3]
    values = sizes[0] * pixels
    if len(set(sizes)) > 1:  # filled on the device: a copy from the host would wait for it
        values = torch.cat([mean.new_full((1, 1), size * pixels) for size in sizes])
    slope = grad_var * (2 / values)
    offset = grad_mean / values - mean * slope
    if len(sizes) > 1:
        slope, offset = (torch.cat([row.expand(size, -1) for row, size in zip(t.split(1), sizes, strict=True)])
                         for t in (slope, offset))
    return slope[:, :, None, None], offset[:, :, None, None]


def _sum_of_products(a, b, c, d, e):
    """a b + c d + e in the type of a. Compiled one pass in float32; else two passes in the type of a."""
    if torch.compiler.is_compiling():
        return (a * b + c * d + e).to(a.dtype)
    b, d, e = (t.to(a.dtype) for t in (b, d, e))
    return torch.addcmul(e, a, b).addcmul_(c, d)


@functools.cache
def has_batch_norm(name):
    """Whether a net of this name has BatchNorm2d layers; looked up without loading or allocating weights."""
    with torch.device("meta"):
        return any(isinstance(m, nn.BatchNorm2d) for m in build(name, num_classes=2).modules())
