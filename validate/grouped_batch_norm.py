"""BatchNorm over groups of a batch in one pass, while all other layers see the whole batch.

The paper's student sees 50 images as two micro-batches of 25. Only BatchNorm couples the images of
a batch, so one pass of 50 whose BatchNorm layers work on 25 and 25 is the same arithmetic as a pass
for each: outputs, gradients, and running statistics that move once per group, in order.
"""

import contextlib
import functools

import torch
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norm_layers(network):
    """All BatchNorm layers of a network."""
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


class Groups:
    """Makes the BatchNorm layers of a network work group by group inside `of`.

    The layers are changed in place, but only in their Python class: parameters, buffers and their
    names stay. Outside of `of` they do what they did.
    """

    def __init__(self, network):
        self.sizes = None
        for layer in batch_norm_layers(network):
            layer.__class__ = _grouped_class(type(layer))
            layer.groups = self

    @contextlib.contextmanager
    def of(self, sizes):
        """Forwards in this block see sum(sizes) images, in groups of these sizes."""
        self.sizes = list(sizes)
        try:
            yield
        finally:
            self.sizes = None


class _Grouped:
    """A mixin before a BatchNorm class: in train mode its forward runs once per group."""

    def forward(self, x):
        sizes = self.groups.sizes
        if sizes is None or len(sizes) == 1 or not self.training:
            return super().forward(x)
        # Networks that lay tokens or windows along the batch have several rows per image.
        rows = x.shape[0] // sum(sizes)
        parts = x.split([rows * size for size in sizes])
        return torch.cat([super(_Grouped, self).forward(part) for part in parts])


@functools.cache
def _grouped_class(kind):
    if issubclass(kind, _Grouped):
        return kind
    return type(f"Grouped{kind.__name__}", (_Grouped, kind), {})
