"""Rank, world size and shares of the work; sensible answers when no process group exists.

recover and relabel only split work, so they read torchrun's environment and form a process group only to wait for one
another where something is fetched once. A shard (I, N) is one of N jobs that know nothing of one another but share an output
folder: each takes its part of the work, and the ranks of a job divide that part. Nothing waits for another shard.
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


def slurm_shard():
    """(I, N) of a Slurm array job, whatever its first index and step are; (0, 1) outside of one.

    Raises UserError for an array with gaps (--array=2,5), whose tasks cannot tell which part is theirs.
    """
    if "SLURM_ARRAY_TASK_ID" not in os.environ or "SLURM_ARRAY_TASK_COUNT" not in os.environ:
        return 0, 1
    task, count = int(os.environ["SLURM_ARRAY_TASK_ID"]), int(os.environ["SLURM_ARRAY_TASK_COUNT"])
    first = int(os.environ.get("SLURM_ARRAY_TASK_MIN", 0))
    last = int(os.environ.get("SLURM_ARRAY_TASK_MAX", first + count - 1))
    step, left_over = divmod(last - first, max(1, count - 1))
    if left_over or (count > 1 and step < 1) or not first <= task <= last or (step and (task - first) % step):
        raise UserError(f"the Slurm array has {count} tasks from {first} to {last}, this is {task}: with gaps it cannot be told "
                        "which share of the work is whose. Use an array without gaps (--array=0-7), or give --shard I/N (0/1: "
                        "everything).")
    return (task - first) // step if step else 0, count


def place_of(shard):
    """(number of this process, number of processes) where each of N shards has world_size ranks. shard: (I, N)."""
    return shard[0] * world_size() + rank(), shard[1] * world_size()


def my_share(items, shard=(0, 1)):
    """The items of this rank of this shard: every n-th one, so that shares differ by at most one item."""
    mine, everyone = place_of(shard)
    return list(items)[mine::everyone]


def share_by_cost(items, cost, shard=(0, 1)):
    """The items of this rank of this shard, in their order, when items of unequal cost are dealt out: the dearest first, each to
    the process with least so far. cost: function of an item. A pure function of items, costs, shards and world size."""
    me, everyone = place_of(shard)
    items, totals, mine = list(items), [0] * everyone, []
    for place in sorted(range(len(items)), key=lambda i: (-cost(items[i]), i)):
        poorest = totals.index(min(totals))
        totals[poorest] += max(cost(items[place]), 1)
        if poorest == me:
            mine.append(place)
    return [items[place] for place in sorted(mine)]


def form_group():
    """Form the process group (gloo) if there is none. It waits for days: one rank may be at a pass over all training images.

    torchrun's store outlives a restart, with the addresses of the processes before it: every restart has names of its own.
    """
    if dist.is_initialized():
        return
    timeout = datetime.timedelta(days=7)
    store, own_rank, count = next(dist.rendezvous("env://", timeout=timeout))
    store = dist.PrefixStore(f"restart {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    dist.init_process_group("gloo", store=store, rank=own_rank, world_size=count, timeout=timeout)


def leave_group():
    """Take the process group down, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def barrier():
    """Wait for the other ranks. Forms the process group on first use; nothing to do on one process."""
    if world_size() == 1:
        return
    form_group()
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
