from collections import Counter
from math import comb

import torch

from recover.teacher_pool import bn_teachers_of_slice, draw_slots, without_primary

POOL = ["mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5", "alexnet"]


def test_primary_leaves_the_pool():
    assert without_primary(["resnet18", *POOL, "alexnet"], "resnet18") == POOL
    assert without_primary(["resnet18", *POOL], "resnet50") == ["resnet18", *POOL]


def test_number_of_extras_is_binomial_and_names_are_alike():
    generator, draws = torch.Generator().manual_seed(0), 8000
    found = [draw_slots(POOL, 3, 0.5, generator) for _ in range(draws)]
    assert all(len(set(names)) == len(names) for names in found)
    sizes = Counter(len(names) for names in found)
    for k in range(4):
        assert abs(sizes[k] / draws - comb(3, k) / 8) < 0.02  # standard error at most 0.006
    names = Counter(name for drawn in found for name in drawn)
    for name in POOL:
        assert abs(names[name] / draws - 1.5 / 4) < 0.02


def test_pool_smaller_than_slots():
    assert draw_slots(["a"], 3, 1.0, torch.Generator().manual_seed(0)) == ["a"]
    assert draw_slots(POOL, 0, 1.0, torch.Generator().manual_seed(0)) == []


def test_primary_first_and_drawn_once_per_slice():
    first = bn_teachers_of_slice("resnet18", POOL, 3, 0.5, seed=0, ipc_id=4)
    assert first[0] == "resnet18"
    assert first == bn_teachers_of_slice("resnet18", POOL, 3, 0.5, seed=0, ipc_id=4)
    assert len({tuple(bn_teachers_of_slice("resnet18", POOL, 3, 0.5, 0, i)) for i in range(50)}) > 10
    assert bn_teachers_of_slice("resnet18", POOL, 0, 0.5, 0, 3) == ["resnet18"]
