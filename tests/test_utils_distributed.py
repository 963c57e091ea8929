import pytest
import torch

from utils import distributed
from utils.distributed import my_share, share_by_cost
from utils.errors import UserError


def test_without_torchrun_everything_is_mine():
    assert (distributed.rank(), distributed.world_size(), distributed.local_rank()) == (0, 1, 0)
    assert my_share(range(5)) == [0, 1, 2, 3, 4]
    assert share_by_cost([3, 1, 2], lambda x: x) == [3, 1, 2]
    distributed.barrier()


def shares(monkeypatch, function, shards, world):
    """function(shard) of every rank of every shard."""
    monkeypatch.setenv("WORLD_SIZE", str(world))
    answers = []
    for shard in range(shards):
        for rank in range(world):
            monkeypatch.setenv("RANK", str(rank))
            answers.append(function((shard, shards)))
    return answers


def varied(i):
    """Steps of IPC slice i, which vary with period 8."""
    return 4000 - 500 * (i % 8)


@pytest.mark.parametrize(("shards", "world"), [(1, 1), (1, 7), (4, 1), (3, 2), (5, 4)])
def test_shares_cover_everything_once(monkeypatch, shards, world):
    in_turn = shares(monkeypatch, lambda shard: my_share(range(11), shard), shards, world)
    assert len(in_turn) == shards * world
    assert sorted(sum(in_turn, [])) == list(range(11))
    assert max(map(len, in_turn)) - min(map(len, in_turn)) <= 1

    by_cost = shares(monkeypatch, lambda shard: share_by_cost(range(100), varied, shard), shards,
                     world)
    assert sorted(sum(by_cost, [])) == list(range(100))
    total = sum(map(varied, range(100)))
    assert max(sum(map(varied, own)) for own in by_cost) <= 1.25 * total / len(by_cost)


def test_work_is_dealt_out_by_cost(monkeypatch):
    """Dealt in turn over 8 ranks, one rank would get all the long slices."""
    mean = sum(map(varied, range(100))) / 8
    by_cost = shares(monkeypatch, lambda _: share_by_cost(range(100), varied), 1, 8)
    assert max(sum(map(varied, own)) for own in by_cost) <= 1.02 * mean
    in_turn = shares(monkeypatch, lambda _: my_share(range(100)), 1, 8)
    assert max(sum(map(varied, own)) for own in in_turn) > 1.5 * mean


def slurm(monkeypatch, **values):
    for name in ("ID", "COUNT", "MIN", "MAX"):
        monkeypatch.delenv(f"SLURM_ARRAY_TASK_{name}", raising=False)
    for name, value in values.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    return distributed.slurm_shard()


def test_the_shard_of_a_slurm_array(monkeypatch):
    assert slurm(monkeypatch) == (0, 1)
    assert slurm(monkeypatch, ID=3, COUNT=8, MIN=0, MAX=7) == (3, 8)
    assert slurm(monkeypatch, ID=8, COUNT=8, MIN=1, MAX=8) == (7, 8)
    assert slurm(monkeypatch, ID=14, COUNT=3, MIN=10, MAX=18) == (1, 3)  # --array=10-18:4
    # One task that is submitted again does what is missing.
    assert slurm(monkeypatch, ID=5, COUNT=1, MIN=5, MAX=5) == (0, 1)


@pytest.mark.parametrize("values", [{"ID": 3, "COUNT": 2, "MIN": 2, "MAX": 5},
                                    {"ID": 0, "COUNT": 3, "MIN": 0, "MAX": 5}])
def test_an_array_with_gaps_is_refused(monkeypatch, values):
    with pytest.raises(UserError, match="with gaps .* give --shard I/N .0/1: everything."):
        slurm(monkeypatch, **values)


def without_gpu(monkeypatch, cuda="13.0"):
    """A machine with NVIDIA's driver where PyTorch finds no GPU. cuda: that it is built for."""
    def init():
        raise RuntimeError("The NVIDIA driver is too old (found\n11040). Please see: a page.")

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(distributed.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(torch, "__version__", "2.x")
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", init)


TOO_OLD = ("PyTorch 2.x is built for CUDA 13.0 and says: The NVIDIA driver is too old (found "
           "11040). Install or update the driver, or install a build for it (pytorch.org).")
NO_CUDA = "PyTorch 2.x is built without CUDA: install a build with it (pytorch.org)."


@pytest.mark.parametrize(("cuda", "why"), [("13.0", TOO_OLD), (None, NO_CUDA)])
def test_a_gpu_that_pytorch_cannot_use_is_noted_once(monkeypatch, capsys, cuda, why):
    without_gpu(monkeypatch, cuda)
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        assert distributed.choose_device("auto") == torch.device("cpu")
    assert capsys.readouterr().out == (
        "note: NVIDIA's driver is installed here, but PyTorch finds no GPU, so the CPU is used. "
        f"{why}\n")
    with pytest.raises(UserError) as refused:
        distributed.choose_device("cuda")
    assert str(refused.value) == ("--device cuda: PyTorch finds no GPU here. "
                                  f"{why} Or use --device cpu, or auto.")


def test_a_cpu_that_was_chosen_is_not_noted(monkeypatch, capsys):
    without_gpu(monkeypatch)
    distributed.choose_device("cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    distributed.choose_device("auto")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(distributed.shutil, "which", lambda _: None)
    monkeypatch.setattr(distributed.Path, "glob", lambda *_: iter(()))
    distributed.choose_device("auto")
    assert capsys.readouterr().out == ""
