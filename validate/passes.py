"""How a batch goes through a student: as which micro-batches, in which passes and number format."""

import contextlib
from dataclasses import dataclass

import torch
from torch import nn

from models.networks import Network
from utils.precision import Arithmetic
from validate.grouped_batch_norm import Groups, batch_norm_layers
from validate.ranks import RunningStatistics, Wrapped


@dataclass(frozen=True)
class MicroBatches:
    """How a batch is cut into micro-batches, the images that BatchNorm sees at a time.

    batch_size: images of a full batch. steps: micro-batches of a full batch. together: whether they
    share one pass, with BatchNorm group by group; else each has its own, which needs less memory.
    """

    batch_size: int
    steps: int = 1
    together: bool = True

    def sizes(self, count):
        """Sizes of the micro-batches of `count` images, in order.

        A full batch gives micro-batches of ceil(batch_size / steps): 50 in 2 steps is 25 + 25
        (released code). A shorter batch gives as few of at most that size as hold it, whose sizes
        differ by one at most, larger ones first: 26 is 13 + 13, and 13 is 13. None has one image,
        which has no batch statistics, unless the batch itself has.
        """
        largest = -(-self.batch_size // self.steps)
        groups = min(-(-count // largest), max(1, count // 2))
        small, larger = divmod(count, groups)
        return [small + 1] * larger + [small] * (groups - larger)


class Passes:
    """A student as it trains.

    network: the student. It is changed in place (classes of layers, layout); its weights are its
    own. arithmetic: how it runs; weights, BatchNorm and logits stay in float32. ranks:
    validate.ranks.Ranks, or None on one process.
    """

    def __init__(self, network, device, micro_batches, arithmetic=Arithmetic(),  # noqa: B008 - frozen
                 ranks=None):
        self.network, self.micro_batches, self._ranks = network, micro_batches, ranks
        self._low_precision = arithmetic.precision != "fp32"
        if not self._low_precision and device.type == "cpu" and isinstance(network, Network):
            ordinary_layout(network)
        self._groups = Groups(network)
        self._forward = arithmetic.of(network)
        if ranks is not None:
            self._forward = ranks.averaging(Wrapped(network, self._forward))
            self._statistics = RunningStatistics(network, ranks)

    @property
    def scale(self):
        """Factor on this process's loss, so that the average of gradients over ranks is a sum."""
        return 1 if self._ranks is None else self._ranks.count

    def each(self, count):
        """Yield (first image, sizes of micro-batches) for each pass of this process over a batch.

        count: images of the batch. 50 images give (0, [25, 25]) together, and (0, [25]) and
        (25, [25]) apart. A process without a micro-batch gets (0, []) and should run `nothing`.
        Forward and backward of a pass belong inside the loop, which must run to its end.
        """
        sizes = self.micro_batches.sizes(count)
        start, mine = (0, sizes) if self._ranks is None else self._ranks.share(sizes)
        passes = [mine] if self.micro_batches.together or not mine else [[size] for size in mine]
        with self._following(sizes):
            for number, part in enumerate(passes):
                with self._averaging(last=number == len(passes) - 1):
                    yield start, part
                start += sum(part)

    def _following(self, sizes):
        """Context in which the ranks' running statistics follow one another."""
        return contextlib.nullcontext() if self._ranks is None else self._statistics.follow(sizes)

    def _averaging(self, last):
        """Context of one pass: gradients are averaged over ranks once per batch, in its last."""
        if self._ranks is None or last:
            return contextlib.nullcontext()
        return self._forward.no_sync()

    def __call__(self, images, sizes):
        """Logits [n, C] of the n = sum(sizes) images of one pass.

        In train mode BatchNorm sees one micro-batch at a time. A single image has no batch
        statistics and takes the running ones.
        """
        mode = contextlib.nullcontext()
        if len(images) == 1:
            mode = batch_norm_in_eval_mode(self.network)
        with mode, self._groups.of(sizes):
            logits = self._forward(images)
        return logits.float() if self._low_precision else logits

    def nothing(self, images):
        """A loss of 0 through the whole network, so that this process joins the average."""
        return self(images[:1], [1]).sum() * 0

    def sum(self, values):
        """Numbers (plain, or tensors of one element) summed over processes, as a list of floats."""
        device = next(self.network.parameters()).device
        values = torch.stack([torch.as_tensor(value, dtype=torch.float64, device=device)
                              for value in values])
        return (values if self._ranks is None else self._ranks.sum(values)).tolist()


def ordinary_layout(network):
    """Lay out a models.networks.Network without grouped convolutions as NCHW, in place.

    Measured, training ResNet-18 in fp32 on 2 cores: it takes 0.87 of channels_last's time at 32 and
    64 px and as long at 112. In bf16 and with depthwise convolutions channels_last is faster.
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
