"""How the images of a batch go through a student: number format, compilation, one pass for all micro-batches or one for each."""

import contextlib

from utils import precision
from validate.grouped_batch_norm import Groups, batch_norm_layers


class Passes:
    """A student as it trains.

    network: the student; changed in place, so its weights are read from itself. number_format: fp32 or bf16 (autocast: the
    logits come out in float32). compiled: whether forwards and backwards are compiled. together: one pass for all micro-batches,
    BatchNorm group by group; else a pass for each, which needs less memory.
    """

    def __init__(self, network, device, number_format="fp32", compiled=False, together=True):
        self.network, self._device, self._format = network, device, number_format
        self._groups = Groups(network) if together else None
        self._forward = precision.compiled(network) if compiled else network

    def cut(self, sizes):
        """The micro-batches of each pass: [[25, 25]] together, [[25], [25]] apart."""
        return [list(sizes)] if self._groups is not None else [[size] for size in sizes]

    def __call__(self, images, sizes):
        """Logits [n, C] of the n = sum(sizes) images of one pass; in train mode BatchNorm sees one micro-batch at a time."""
        with contextlib.ExitStack() as inside:
            if len(images) == 1:  # has no batch statistics (at 1x1 pixels its variance is 0, PyTorch refuses): the running ones
                inside.enter_context(batch_norm_in_eval_mode(self.network))
            if self._groups is not None:
                inside.enter_context(self._groups.of(sizes))
            inside.enter_context(precision.autocast(self._device, self._format))
            logits = self._forward(images)
        return logits.float() if self._format == "bf16" else logits


@contextlib.contextmanager
def batch_norm_in_eval_mode(network):
    """BatchNorm layers use their running statistics, and leave them alone, inside this block."""
    layers = [layer for layer in batch_norm_layers(network) if layer.training]
    for layer in layers:
        layer.eval()
    try:
        yield
    finally:
        for layer in layers:
            layer.train()
