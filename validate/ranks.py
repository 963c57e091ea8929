"""The processes that train one student together.

Each takes whole micro-batches of every batch, and all keep the same student. Gradients are averaged
by DistributedDataParallel. BatchNorm sees one micro-batch at a time, as on one process, and its
running statistics are put together from all micro-batches, in their order.
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


def check(micro_batches, processes):
    """Raise UserError for more processes than a full batch has micro-batches."""
    if processes > micro_batches:
        several = "es" if micro_batches > 1 else ""
        raise UserError(
            f"NGPU={processes}, but a batch has {micro_batches} micro-batch{several}, each seen "
            f"whole by BatchNorm: at most {micro_batches} process{several} can train one student "
            f"with the same arithmetic. Set NGPU={micro_batches}, and run seeds (--seed) or cells "
            "of a table side by side.")


def check_gpus(device):
    """Raise UserError for more processes on this machine than GPUs, which NCCL does not share."""
    if device.type != "cuda":
        return
    processes, gpus = distributed.local_world_size(), torch.cuda.device_count()
    if processes > gpus:
        several = "s" if gpus > 1 else ""
        raise UserError(f"NGPU={processes}, but PyTorch finds {gpus} GPU{several} here, and each "
                        "process that trains a student needs one of its own. Set "
                        f"NGPU={gpus}, or check CUDA_VISIBLE_DEVICES.")


def share(sizes, rank, count):
    """(first image, sizes) of the micro-batches that a rank takes of `count` ranks.

    sizes: of all micro-batches, in order. Ranks take neighbours, the first ones on rank 0, and
    earlier ranks one more. A rank beyond their number takes none: (number of images, []).
    """
    each, more = divmod(len(sizes), count)
    first = rank * each + min(rank, more)
    return sum(sizes[:first]), sizes[first : first + each + (rank < more)]


class Ranks:
    """This process among those of a process group. device: torch.device of the student."""

    def __init__(self, device):
        distributed.form_group()
        self.rank, self.count = dist.get_rank(), dist.get_world_size()
        self._device = device
        # None is the group that was formed, gloo.
        self._group = (dist.new_group(backend="nccl", timeout=distributed.TIMEOUT)
                       if device.type == "cuda" else None)

    def share(self, sizes):
        """`share` of this rank."""
        return share(sizes, self.rank, self.count)

    def averaging(self, module):
        """The module, whose backward averages gradients over ranks."""
        devices = [self._device.index] if self._device.type == "cuda" else None
        with warnings.catch_warnings():
            # broadcast_buffers has a new name that PyTorch 2.6 does not know.
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(module, devices, process_group=self._group,
                                           broadcast_buffers=False, gradient_as_bucket_view=True)

    def sum(self, values):
        """Sum of a tensor over ranks, the same on all; the tensor itself changes."""
        dist.all_reduce(values, group=self._group)
        return values

    def all(self, values):
        """[ranks, n] from the values [n] of each rank, the same on all."""
        gathered = [torch.empty_like(values) for _ in range(self.count)]
        dist.all_gather(gathered, values, group=self._group)
        return torch.stack(gathered)


class RunningStatistics:
    """BatchNorm's running statistics of a student, kept equal on all ranks.

    A micro-batch with statistics s moves them by r <- (1 - m) r + m s, where m is the layer's
    momentum. Starting from 0, the g micro-batches of one rank give S. All ranks together give
    r <- (1 - m)^g r + S, rank by rank, in the order of the micro-batches.
    """

    def __init__(self, network, ranks):
        self._ranks = ranks
        self._layers = [layer for layer in batch_norm_layers(network)
                        if layer.running_mean is not None]
        if any(layer.momentum is None for layer in self._layers):
            raise UserError("a student whose BatchNorm averages over all of its batches (momentum "
                            "None) trains in one process. Set NGPU=1, or give --bn-momentum.")
        if self._layers:
            self._kept = torch.cat([torch.full_like(buffer, 1 - layer.momentum)
                                    for layer in self._layers
                                    for buffer in (layer.running_mean, layer.running_var)])

    @contextlib.contextmanager
    def follow(self, sizes):
        """On leaving this block all ranks hold the statistics that one process would.

        Inside are the train-mode passes of this rank's share of one batch. sizes: of all
        micro-batches of the batch.
        """
        if not self._layers or sum(sizes) == 1:  # a single image leaves them alone
            yield
            return
        shares = [share(sizes, rank, self._ranks.count)[1] for rank in range(self._ranks.count)]
        mine = len(shares[self._ranks.rank])
        buffers = [buffer for layer in self._layers
                   for buffer in (layer.running_mean, layer.running_var)]
        running = torch.cat(buffers)
        if mine:  # a rank without a micro-batch reads them instead
            torch._foreach_zero_(buffers)

        yield

        own = torch.cat(buffers) if mine else torch.zeros_like(running)
        for statistics, part in zip(self._ranks.all(own), shares, strict=True):
            running = running * self._kept ** len(part) + statistics
        torch._foreach_copy_(buffers, list(running.split([len(buffer) for buffer in buffers])))
        tracked = [layer.num_batches_tracked for layer in self._layers]
        torch._foreach_add_(tracked, len(sizes) - mine)


class Wrapped(nn.Module):
    """A network and how it runs as one module, for DistributedDataParallel to wrap."""

    def __init__(self, network, run):
        super().__init__()
        self.network, self._run = network, run

    def forward(self, images):
        return self._run(images)
