"""BatchNorm over groups of a batch in one pass: what a pass for each group gives, while all other layers see the whole batch.

The paper's student sees 50 images as two micro-batches of 25. Only BatchNorm couples the images of a batch, so one pass of 50
whose BatchNorm layers work on 25 and 25 is the same arithmetic: outputs, gradients, and running statistics that move once a
group, in order. Measured: validate/README.md.
"""

import contextlib
import functools

import torch
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norm_layers(network):
    """All BatchNorm layers of a network."""
    return [m for m in network.modules() if isinstance(m, _BatchNorm)]


class Groups:
    """Makes the BatchNorm layers of a network, in place, work group by group inside `of`; outside they do what they did.

    Only the layers' Python class changes: parameters, buffers and their names stay.
    """

    def __init__(self, network):
        self.sizes = None
        for layer in batch_norm_layers(network):
            layer.__class__ = _grouped_class(type(layer))
            layer.groups = self

    @contextlib.contextmanager
    def of(self, sizes):
        """Forwards inside this block have sum(sizes) images: groups of these sizes, one after the other."""
        self.sizes = list(sizes)
        try:
            yield
        finally:
            self.sizes = None


class _Grouped:
    """In front of a BatchNorm class: in train mode its forward is called once a group."""

    def forward(self, x):
        sizes = self.groups.sizes
        if sizes is None or len(sizes) == 1 or not self.training:
            return super().forward(x)
        rows = x.shape[0] // sum(sizes)  # more than one an image where a net lays its tokens or windows along the batch
        return torch.cat([super(_Grouped, self).forward(part) for part in x.split([rows * size for size in sizes])])


@functools.cache
def _grouped_class(kind):
    return kind if issubclass(kind, _Grouped) else type(f"Grouped{kind.__name__}", (_Grouped, kind), {})
