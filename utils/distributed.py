"""Rank, world size and shares of the work; sensible answers when no process group exists.

recover and relabel only split work, so they read torchrun's environment and form a process group
only to wait for one another where something is fetched once. A shard (I, N) is one of N jobs that
share an output folder and otherwise know nothing of one another: each takes its part of the work,
and the ranks of a job divide that part. PyTorch is imported when it is needed.
"""

import contextlib
import datetime
import os
import shutil
import warnings
from pathlib import Path

from utils.errors import UserError
from utils.memory import keep_freed_blocks
from utils.text import printable

# Of a process group: one rank may pass over all training images while the others wait.
TIMEOUT = datetime.timedelta(days=7)


def rank():
    """Rank of this process under torchrun, else 0."""
    return int(os.environ.get("RANK", 0))


def world_size():
    """Number of processes under torchrun, else 1."""
    return int(os.environ.get("WORLD_SIZE", 1))


def local_rank():
    """Rank on this machine under torchrun, else 0."""
    return int(os.environ.get("LOCAL_RANK", 0))


def local_world_size():
    """Number of processes on this machine under torchrun, else 1."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def print0(*values, **options):
    """print on rank 0 only, with control characters escaped."""
    if rank() == 0:
        print(*map(printable, values), flush=True, **options)


def slurm_shard():
    """(I, N) of a Slurm array job, whatever its first index and step are; (0, 1) outside of one.

    Raises UserError for an array with gaps (--array=2,5), whose tasks cannot tell which part is
    theirs.
    """
    environment = os.environ
    if not {"SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"} <= set(environment):
        return 0, 1
    task = int(environment["SLURM_ARRAY_TASK_ID"])
    count = int(environment["SLURM_ARRAY_TASK_COUNT"])
    first = int(environment.get("SLURM_ARRAY_TASK_MIN", 0))
    last = int(environment.get("SLURM_ARRAY_TASK_MAX", first + count - 1))

    tasks = range(first, last + 1, max(1, (last - first) // max(1, count - 1)))
    if len(tasks) != count or tasks[-1] != last or task not in tasks:
        raise UserError(f"the Slurm array has {count} tasks from {first} to {last}, this is "
                        f"{task}: with gaps it cannot be told which share of the work is whose. "
                        "Use an array without gaps (--array=0-7), or give --shard I/N (0/1: "
                        "everything).")
    return tasks.index(task), count


def place_of(shard):
    """(number of this process, number of processes) where each shard has world_size ranks."""
    return shard[0] * world_size() + rank(), shard[1] * world_size()


def my_share(items, shard=(0, 1)):
    """The items of this rank of this shard: every n-th one, so shares differ by one at most."""
    process, processes = place_of(shard)
    return list(items)[process::processes]


def share_by_cost(items, cost, shard=(0, 1)):
    """The items of this rank of this shard, in their order, when items cost unequally much.

    The dearest item is dealt out first, each to the process that has least so far. cost: function
    of an item. A pure function of items, costs, shard and world size.
    """
    process, processes = place_of(shard)
    items, totals, mine = list(items), [0] * processes, []
    for place in sorted(range(len(items)), key=lambda i: (-cost(items[i]), i)):
        poorest = totals.index(min(totals))
        totals[poorest] += max(cost(items[place]), 1)
        if poorest == process:
            mine.append(place)
    return [items[place] for place in sorted(mine)]


def form_group():
    """Form the process group (gloo) if there is none.

    torchrun's store outlives a restart, with the addresses of the processes before it, so the names
    of every restart are its own.
    """
    import torch.distributed as dist

    if dist.is_initialized():
        return
    store, own_rank, count = next(dist.rendezvous("env://", timeout=TIMEOUT))
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)
    dist.init_process_group("gloo", store=dist.PrefixStore(f"restart {restart}", store),
                            rank=own_rank, world_size=count, timeout=TIMEOUT)


def leave_group():
    """Take the process group down, if there is one."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def barrier():
    """Wait for the other ranks. Forms the process group on first use."""
    if world_size() == 1:
        return
    import torch.distributed as dist

    form_group()
    dist.barrier()


@contextlib.contextmanager
def first_on_node():
    """Run the block on local rank 0 first: what it fetches is fetched once per machine.

    Where it fails there, the others try it too, and fail alike.
    """
    if local_rank() != 0:
        barrier()
    try:
        yield
    finally:
        if local_rank() == 0:
            barrier()


def set_threads(threads):
    """Apply --threads, unless it is None. Returns the number in force."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def choose_device(name):
    """The torch.device for --device auto|cuda|cpu; each local rank takes its own GPU.

    Where auto takes the CPU of a machine that has NVIDIA's driver, a note says so.
    """
    import torch

    if name == "cpu":
        return _cpu()
    with warnings.catch_warnings():  # what it warns of, _why_no_gpu says once
        warnings.simplefilter("ignore")
        usable = torch.cuda.is_available()
    if not usable and name == "cuda":
        raise UserError(f"--device cuda: PyTorch finds no GPU here. {_why_no_gpu()} Or use "
                        "--device cpu, or auto.")
    if not usable:
        if _has_nvidia_driver():
            print0("note: NVIDIA's driver is installed here, but PyTorch finds no GPU, so the CPU "
                   f"is used. {_why_no_gpu()}")
        return _cpu()
    device = torch.device("cuda", local_rank() % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def _cpu():
    import torch

    keep_freed_blocks()
    return torch.device("cpu")


def _has_nvidia_driver():
    """Whether a GPU may be expected here: not where CUDA_VISIBLE_DEVICES hides all of them."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return any(Path("/dev").glob("nvidia[0-9]*")) or shutil.which("nvidia-smi") is not None


def _why_no_gpu():
    """Why PyTorch finds no GPU, as far as it tells, and what to do: sentences."""
    import torch

    version = f"PyTorch {torch.__version__}"
    if torch.version.cuda is None:
        return f"{version} is built without CUDA: install a build with it (pytorch.org)."
    try:
        torch.cuda.init()
        reason = "nothing more"
    except Exception as error:  # whatever it is, the text is all that is wanted
        # What PyTorch asks for after this, the sentence below says in a few words.
        reason = " ".join(str(error).split()).split(". Please")[0].rstrip(".")
    return (f"{version} is built for CUDA {torch.version.cuda} and says: {reason}. Install or "
            "update the driver, or install a build for it (pytorch.org).")
