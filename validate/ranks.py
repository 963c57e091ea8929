"""The processes that train one student together: each takes whole micro-batches of every batch, all keep the same student.

Gradients are averaged by DistributedDataParallel. BatchNorm sees one micro-batch at a time, as on one process; its running
statistics are put together from all micro-batches, in their order.
"""

import contextlib
import warnings

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from utils import distributed
from utils.errors import UserError
from validate.grouped_batch_norm import batch_norm_layers


def check(groups, count):
    """Refuse more processes than a full batch has micro-batches. groups: number of these. count: number of processes."""
    if count > groups:
        raise UserError(f"NGPU={count}, but a batch has {groups} micro-batch{'es' if groups > 1 else ''}, each seen whole by "
                        f"BatchNorm: at most {groups} process{'es' if groups > 1 else ''} can train one student with the same "
                        f"arithmetic. Set NGPU={groups}, and run seeds (--seed) or cells of a table side by side.")


def share(sizes, rank, count):
    """What a rank takes: (first image, sizes) of neighbouring micro-batches, the first ones on rank 0, earlier ranks one more.

    sizes: of all micro-batches, in order. A rank beyond their number takes none: (number of images, []).
    """
    each, more = divmod(len(sizes), count)
    first = rank * each + min(rank, more)
    return sum(sizes[:first]), sizes[first : first + each + (rank < more)]


class Ranks:
    """This process among those of a process group. device: torch.device that the student is on."""

    def __init__(self, device):
        distributed.form_group()
        self.rank, self.count, self._device = dist.get_rank(), dist.get_world_size(), device
        self._group = dist.new_group(backend="nccl") if device.type == "cuda" else None  # None: the one that was formed, gloo

    def share(self, sizes):
        """share(sizes, this rank, number of ranks)."""
        return share(sizes, self.rank, self.count)

    def averaging(self, module):
        """The module, whose backward averages gradients over ranks."""
        devices = [self._device.index] if self._device.type == "cuda" else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # broadcast_buffers has a new name that PyTorch 2.6 does not know
            return DistributedDataParallel(module, devices, process_group=self._group, broadcast_buffers=False,
                                           gradient_as_bucket_view=True)

    def sum(self, values):
        """Sum of a tensor over ranks, the same on all; the tensor itself changes."""
        dist.all_reduce(values, group=self._group)
        return values

    def all(self, values):
        """[ranks, n] from values [n] of each rank, the same on all."""
        found = [torch.empty_like(values) for _ in range(self.count)]
        dist.all_gather(found, values, group=self._group)
        return torch.stack(found)


class RunningStatistics:
    """BatchNorm's running statistics of a student, kept equal on all ranks.

    A micro-batch moves them by r <- (1 - m) r + m s, m the layer's momentum. From 0, a rank's own g micro-batches give S; so all
    together give r <- (1 - m)^g r + S rank by rank, in the order of the micro-batches.
    """

    def __init__(self, network, ranks):
        self._ranks = ranks
        self._layers = [layer for layer in batch_norm_layers(network) if layer.running_mean is not None]
        if any(layer.momentum is None for layer in self._layers):
            raise UserError("a student whose BatchNorm averages over all of its batches (momentum None) trains in one process. "
                            "Set NGPU=1, or give --bn-momentum.")
        if self._layers:
            self._kept = torch.cat([torch.full_like(buffer, 1 - layer.momentum) for layer in self._layers
                                    for buffer in (layer.running_mean, layer.running_var)])

    @contextlib.contextmanager
    def follow(self, sizes):
        """Train-mode passes of this rank's share of one batch inside; on leaving, all ranks hold what one process would.

        sizes: of all micro-batches of the batch.
        """
        counts = [len(share(sizes, rank, self._ranks.count)[1]) for rank in range(self._ranks.count)]
        if not self._layers or sum(sizes) == 1:  # a single image leaves them alone
            yield
            return
        buffers = [buffer for layer in self._layers for buffer in (layer.running_mean, layer.running_var)]
        tracked = [layer.num_batches_tracked for layer in self._layers]
        before = torch.cat(buffers)
        if counts[self._ranks.rank]:  # else this rank reads them
            torch._foreach_zero_(buffers)
        yield
        own = torch.cat(buffers) if counts[self._ranks.rank] else torch.zeros_like(before)
        for found, groups in zip(self._ranks.all(own), counts, strict=True):
            before = before * self._kept**groups + found
        torch._foreach_copy_(buffers, list(before.split([len(buffer) for buffer in buffers])))
        torch._foreach_add_(tracked, sum(counts) - counts[self._ranks.rank])


class Wrapped(nn.Module):
    """A network and how it runs (compiled, in a number format) as one module, for DistributedDataParallel to wrap."""

    def __init__(self, network, run):
        super().__init__()
        self.network, self._run = network, run

    def forward(self, images):
        return self._run(images)
