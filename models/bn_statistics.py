"""Batch statistics of every BatchNorm2d's input, gathered in the same forward that gives the logits."""

import functools

import torch
from torch import nn

from models.networks import build


class BatchNormStatistics:
    """Hooks on a frozen net that gather BatchNorm statistics while it runs.

        with BatchNormStatistics(net) as taps:
            logits, statistics = taps(x, sizes)

    sizes: numbers of images of the units that share the forward (they lie one after the other in x). Statistics are per
    unit, biased, over batch and space of each layer's *input*, in module order:
    a list of (mean [U, C], var [U, C], running_mean [C], running_var [C]). Empty for a net without BatchNorm2d.
    """

    def __init__(self, net):
        self.layers = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        self.net = net
        self._sizes = None
        self._found = []

    def __enter__(self):
        self._hooks = [layer.register_forward_pre_hook(self._gather) for layer in self.layers]
        return self

    def __exit__(self, *_):
        for hook in self._hooks:
            hook.remove()

    def _gather(self, layer, inputs):
        mean, var = grouped_mean_var(inputs[0], self._sizes)
        self._found.append((mean, var, layer.running_mean, layer.running_var))

    def __call__(self, x, sizes):
        self._sizes, self._found = list(sizes), []
        logits = self.net(x)
        found, self._found = self._found, []
        return logits, found


def grouped_mean_var(z, sizes):
    """Mean and biased variance of z [n, C, H, W] over images and space, per group of consecutive images.

    sizes: images of each group, summing to n. Returns mean [U, C], var [U, C].
    """
    if len(sizes) == 1:
        var, mean = torch.var_mean(z, (0, 2, 3), correction=0)
        return mean.unsqueeze(0), var.unsqueeze(0)
    pairs = [torch.var_mean(part, (0, 2, 3), correction=0) for part in z.split(list(sizes))]
    return torch.stack([mean for _, mean in pairs]), torch.stack([var for var, _ in pairs])


@functools.cache
def has_batch_norm(name):
    """Whether a net of this name has BatchNorm2d layers; looked up without loading or allocating weights."""
    with torch.device("meta"):
        return any(isinstance(m, nn.BatchNorm2d) for m in build(name, num_classes=2).modules())
