import argparse

import pytest

from utils import distributed, options
from utils.errors import UserError


def test_without_torchrun_everything_is_mine():
    assert (distributed.rank(), distributed.world_size(), distributed.local_rank()) == (0, 1, 0)
    assert distributed.my_share(range(5)) == [0, 1, 2, 3, 4]
    assert distributed.share_by_cost([3, 1, 2], lambda x: x) == [3, 1, 2]
    distributed.barrier()


def shares(monkeypatch, function, world):
    found = []
    for rank in range(world):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(world))
        found.append(function())
    return found


def test_shares_cover_everything_once(monkeypatch):
    for world in (2, 3, 7):
        found = shares(monkeypatch, lambda: distributed.my_share(range(11)), world)
        assert sorted(sum(found, [])) == list(range(11))
        assert max(map(len, found)) - min(map(len, found)) <= 1


def test_work_is_dealt_out_evenly(monkeypatch):
    """100 slices whose steps vary with period 8 over 8 ranks: dealt in turn, one rank would get all the long ones."""
    steps = [4000 - 500 * (i % 8) for i in range(100)]
    found = shares(monkeypatch, lambda: distributed.share_by_cost(range(100), lambda i: steps[i]), 8)
    assert sorted(sum(found, [])) == list(range(100))
    loads = [sum(steps[i] for i in mine) for mine in found]
    assert max(loads) <= 1.02 * sum(loads) / 8
    in_turn = shares(monkeypatch, lambda: distributed.my_share(range(100)), 8)
    assert max(sum(steps[i] for i in mine) for mine in in_turn) > 1.5 * sum(loads) / 8


def all_places(monkeypatch, function, shards, world):
    return [found for i in range(shards) for found in shares(monkeypatch, lambda: function((i, shards)), world)]  # noqa: B023


@pytest.mark.parametrize(("shards", "world"), [(1, 1), (4, 1), (3, 2), (5, 4)])
def test_ranks_of_shards_cover_everything_once(monkeypatch, shards, world):
    found = all_places(monkeypatch, lambda shard: distributed.my_share(range(11), shard), shards, world)
    assert sorted(sum(found, [])) == list(range(11))
    assert len(found) == shards * world
    assert max(map(len, found)) - min(map(len, found)) <= 1
    cost = [4000 - 500 * (i % 8) for i in range(100)]
    found = all_places(monkeypatch, lambda shard: distributed.share_by_cost(range(100), lambda i: cost[i], shard), shards, world)
    assert sorted(sum(found, [])) == list(range(100))
    assert max(sum(cost[i] for i in mine) for mine in found) <= 1.25 * sum(cost) / len(found)


def slurm(monkeypatch, **values):
    for name in ("ID", "COUNT", "MIN", "MAX"):
        monkeypatch.delenv(f"SLURM_ARRAY_TASK_{name}", raising=False)
    for name, value in values.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    return options.settle_shard(None)


def test_shard_of_a_slurm_array(monkeypatch):
    assert slurm(monkeypatch) == (0, 1)
    assert slurm(monkeypatch, ID=3, COUNT=8, MIN=0, MAX=7) == (3, 8)
    assert slurm(monkeypatch, ID=8, COUNT=8, MIN=1, MAX=8) == (7, 8)
    assert slurm(monkeypatch, ID=14, COUNT=3, MIN=10, MAX=18) == (1, 3)  # --array=10-18:4
    assert slurm(monkeypatch, ID=5, COUNT=1, MIN=5, MAX=5) == (0, 1)  # one task submitted again does what is missing
    with pytest.raises(UserError, match=r"has 2 tasks from 2 to 5, this is 3: with gaps .* give --shard I/N .0/1: everything."):
        slurm(monkeypatch, ID=3, COUNT=2, MIN=2, MAX=5)
    with pytest.raises(UserError, match="3 tasks from 0 to 5.* with gaps"):
        slurm(monkeypatch, ID=0, COUNT=3, MIN=0, MAX=5)
    assert options.settle_shard((1, 2)) == (1, 2)  # given: the array is not asked


@pytest.mark.parametrize("text", ["4/4", "-1/4", "1", "1/", "a/b", "0/0", "1.0/2", "/3"])
def test_a_shard_that_is_none(text):
    with pytest.raises(argparse.ArgumentTypeError, match=f"found '{text}', expected I/N with I from 0 to N - 1"):
        options.shard(text)
    assert options.shard("3/4") == (3, 4)
