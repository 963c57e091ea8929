from utils import distributed


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
