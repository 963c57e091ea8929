"""How the images of a batch go through a student: number format, compilation, one pass for all micro-batches or one for each."""

import contextlib

import torch
from torch import nn

from models.networks import Network
from utils.precision import Arithmetic
from validate.grouped_batch_norm import Groups, batch_norm_layers

FP32 = Arithmetic()


class Passes:
    """A student as it trains.

    network: the student; it is changed in place (classes of layers, layout), its weights are its own. arithmetic: how it runs;
    weights, BatchNorm and logits are in its own number format, float32. together: one pass for all micro-batches, BatchNorm
    group by group; else a pass for each, which needs less memory.
    """

    def __init__(self, network, device, arithmetic=FP32, together=True):
        self.network, self._low = network, arithmetic.precision != "fp32"
        if not self._low and device.type == "cpu" and isinstance(network, Network):
            ordinary_layout(network)
        self._groups = Groups(network) if together else None
        self._forward = arithmetic.of(network)

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
            logits = self._forward(images)
        return logits.float() if self._low else logits


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
