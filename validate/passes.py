"""How the images of a batch go through a student: number format, compilation, which micro-batches this process takes and
whether they share a pass."""

import contextlib

import torch
from torch import nn

from models.networks import Network
from utils.precision import Arithmetic
from validate.grouped_batch_norm import Groups, batch_norm_layers
from validate.ranks import RunningStatistics, Wrapped

FP32 = Arithmetic()


class Passes:
    """A student as it trains.

    network: the student; it is changed in place (classes of layers, layout), its weights are its own. arithmetic: how it runs;
    weights, BatchNorm and logits are in its own number format, float32. together: one pass for all micro-batches, BatchNorm
    group by group; else a pass for each, which needs less memory. ranks: validate.ranks.Ranks, or None on one process.
    """

    def __init__(self, network, device, arithmetic=FP32, together=True, ranks=None):
        self.network, self._low, self._together, self._ranks = network, arithmetic.precision != "fp32", together, ranks
        if not self._low and device.type == "cpu" and isinstance(network, Network):
            ordinary_layout(network)
        self._groups = Groups(network) if together else None
        self._forward = arithmetic.of(network)
        if ranks is not None:
            self._forward = ranks.averaging(Wrapped(network, self._forward))
            self._statistics = RunningStatistics(network, ranks)

    @property
    def scale(self):
        """Factor on this process's loss that makes the average of gradients over processes their sum."""
        return 1 if self._ranks is None else self._ranks.count

    def each(self, sizes):
        """(first image, sizes) of each pass of this process over a batch that is cut into micro-batches of these sizes.

        [(0, [25, 25])] together, [(0, [25]), (25, [25])] apart. A process that has none gets (0, []), and should run `nothing`.
        Forward and backward of a pass belong inside the loop, and the loop must run to its end.
        """
        start, mine = (0, list(sizes)) if self._ranks is None else self._ranks.share(list(sizes))
        passes = [mine] if self._together or not mine else [[size] for size in mine]
        with contextlib.nullcontext() if self._ranks is None else self._statistics.follow(sizes):
            for number, part in enumerate(passes):
                last = self._ranks is None or number == len(passes) - 1
                with contextlib.nullcontext() if last else self._forward.no_sync():  # gradients are averaged once a batch
                    yield start, part
                start += sum(part)

    def __call__(self, images, sizes):
        """Logits [n, C] of the n = sum(sizes) images of one pass; in train mode BatchNorm sees one micro-batch at a time."""
        with contextlib.ExitStack() as inside:
            if len(images) == 1:  # has no batch statistics (at 1x1 pixels its variance is 0, PyTorch refuses): the running ones
                inside.enter_context(batch_norm_in_eval_mode(self.network))
            if self._groups is not None:
                inside.enter_context(self._groups.of(sizes))
            logits = self._forward(images)
        return logits.float() if self._low else logits

    def nothing(self, images):
        """A loss of 0 through the whole network, so that this process takes part where gradients are averaged."""
        return self(images[:1], [1]).sum() * 0

    def sum(self, values):
        """Numbers (tensors of one on the device, or plain) summed over processes, as a list of floats."""
        device = next(self.network.parameters()).device
        values = torch.stack([torch.as_tensor(value, dtype=torch.float64, device=device) for value in values])
        return (values if self._ranks is None else self._ranks.sum(values)).tolist()


def ordinary_layout(network):
    """Lay out a models.networks.Network without grouped convolutions as NCHW, in place.

    Measured, training ResNet-18 in fp32 on 2 cores: 0.87 of channels_last's time at 32 and 64 px, equal at 112; in bf16 and with
    depthwise convolutions channels_last wins.
    """
    if not any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in network.modules()):
        network.channels_last = False
        network.net.to(memory_format=torch.contiguous_format)


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
