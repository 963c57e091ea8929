"""Rank, world size and shares of the work; sensible answers when no process group exists.

recover and relabel only split work, so they read torchrun's environment and form a process group only to wait for one
another where something is fetched once.
"""

import contextlib
import datetime
import os

import torch
import torch.distributed as dist

from utils.errors import UserError


def rank():
    """Rank of this process under torchrun, else 0."""
    return int(os.environ.get("RANK", 0))


def world_size():
    """Number of processes under torchrun, else 1."""
    return int(os.environ.get("WORLD_SIZE", 1))


def local_rank():
    """Rank on this machine under torchrun, else 0."""
    return int(os.environ.get("LOCAL_RANK", 0))


def print0(*values, **options):
    """print on rank 0 only."""
    if rank() == 0:
        print(*values, flush=True, **options)


def my_share(items):
    """The items of this rank: every world_size-th one, so that ranks differ by at most one item."""
    return list(items)[rank() :: world_size()]


def share_by_cost(items, cost):
    """The items of this rank, in their order, when items of unequal cost are dealt out: the dearest first, each to the rank
    with least so far. cost: function of an item. A pure function of items, costs and world size."""
    items, totals, mine = list(items), [0] * world_size(), []
    for place in sorted(range(len(items)), key=lambda i: (-cost(items[i]), i)):
        poorest = totals.index(min(totals))
        totals[poorest] += max(cost(items[place]), 1)
        if poorest == rank():
            mine.append(place)
    return [items[place] for place in sorted(mine)]


def barrier():
    """Wait for the other ranks, days if need be: one may be at a pass over all training images. Forms the process group (gloo)
    on first use; nothing to do on one process."""
    if world_size() == 1:
        return
    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=datetime.timedelta(days=7))
    dist.barrier()


@contextlib.contextmanager
def first_on_node():
    """Run the block on local rank 0 first, then on the others: what it fetches is fetched once per machine."""
    if local_rank() != 0:
        barrier()
    yield
    if local_rank() == 0:
        barrier()


def choose_device(name):
    """The torch.device for --device auto|cuda|cpu; under torchrun each local rank takes its own GPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        if not torch.cuda.is_available():
            raise UserError("--device cuda: PyTorch finds no GPU here. Use --device cpu, or auto.")
        device = torch.device("cuda", local_rank() % torch.cuda.device_count())
        torch.cuda.set_device(device)
        return device
    return torch.device("cpu")
