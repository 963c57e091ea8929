from collections import Counter
from itertools import combinations
from math import comb

import pytest
import torch

from recover.options import TeacherLaw
from recover.teacher_pool import TeacherDraws, Teachers, draw_slots, draw_teachers, draw_uniform

POOL = ["mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5", "alexnet"]


def law(**options):
    return TeacherLaw("resnet18", tuple(POOL), **options)


def draws(of, count=6000):
    generator = torch.Generator().manual_seed(0)
    return [draw_teachers(of, generator) for _ in range(count)]


def test_primary_leaves_the_pool():
    assert TeacherLaw("resnet18", ("resnet18", *POOL, "alexnet")).pool == POOL
    assert TeacherLaw("resnet50", ("resnet18", *POOL)).everyone == ["resnet50", "resnet18", *POOL]


def test_number_of_extras_is_binomial_and_names_are_alike():
    generator, count = torch.Generator().manual_seed(0), 8000
    drawn = [draw_slots(POOL, 3, 0.5, generator) for _ in range(count)]
    assert all(len(set(names)) == len(names) for names in drawn)
    sizes = Counter(len(names) for names in drawn)
    for k in range(4):
        assert abs(sizes[k] / count - comb(3, k) / 8) < 0.02  # standard error at most 0.006
    names = Counter(name for each in drawn for name in each)
    for name in POOL:
        assert abs(names[name] / count - 1.5 / 4) < 0.02


def test_pool_smaller_than_slots():
    assert draw_slots(["a"], 3, 1.0, torch.Generator().manual_seed(0)) == ["a"]
    assert draw_slots(POOL, 0, 1.0, torch.Generator().manual_seed(0)) == []


@pytest.mark.parametrize(("least", "most"), [(1, 2), (1, 4), (0, 3), (2, 2)])
def test_uniform_over_subsets(least, most):
    """Every subset equally often: frequencies within four standard errors."""
    generator, count = torch.Generator().manual_seed(1), 8000
    drawn = Counter(tuple(draw_uniform(POOL, least, most, generator)) for _ in range(count))
    subsets = [s for size in range(least, most + 1) for s in combinations(POOL, size)]
    assert set(drawn) == set(subsets)
    p = 1 / len(subsets)
    for subset in subsets:
        assert abs(drawn[subset] / count - p) < 4 * (p * (1 - p) / count) ** 0.5


def test_exact_draws_every_choice_alike():
    generator = torch.Generator().manual_seed(2)
    drawn = Counter(tuple(draw_uniform(POOL, 3, 3, generator)) for _ in range(4000))
    assert set(drawn) == set(combinations(POOL, 3))
    assert all(abs(n / 4000 - 1 / 4) < 0.03 for n in drawn.values())


def test_single_dual_and_multi():
    assert set(draws(law(decoupling="single"), 50)) == {Teachers("resnet18", ("resnet18",))}
    dual = draws(law(decoupling="dual", logit_teacher="drawn"))
    assert all(len(t.bn) == 1 and t.bn[0] != t.logit for t in dual)
    pairs = Counter((t.logit, t.bn[0]) for t in dual)
    assert len(pairs) == 20  # every ordered pair of five nets
    assert all(abs(n / 6000 - 1 / 20) < 0.012 for n in pairs.values())
    single = draws(law(decoupling="single", logit_teacher="drawn"))
    assert all(t.bn == (t.logit,) for t in single)
    assert {t.logit for t in single} == {"resnet18", *POOL}


def test_multi_laws_and_theta1():
    slots = draws(law(), 100)
    assert all(t.bn[0] == t.logit == "resnet18" for t in slots)  # always theta_1 = phi
    exact = draws(law(bn_law="exact", bn_count=2, theta1="free"), 2000)
    assert all(len(t.bn) == 2 for t in exact)
    assert 0.35 < sum("resnet18" in t.bn for t in exact) / 2000 < 0.45  # 2 of 5 nets
    forced = draws(law(bn_law="exact", bn_count=3, logit_teacher="drawn"), 500)
    assert all(len(set(t.bn)) == 3 and t.bn[0] == t.logit for t in forced)
    sizes = Counter(len(t.bn) for t in draws(law(bn_law="uniform", bn_count=2, theta1="free")))
    assert abs(sizes[1] / 6000 - 5 / 15) < 0.025  # 5 subsets of one net, 10 of two
    assert set(sizes) == {1, 2}
    free = draws(law(bn_law="uniform", bn_count=5, theta1="free"), 300)
    assert all(t.bn[0] == "resnet18" for t in free if "resnet18" in t.bn)
    assert {len(t.bn) for t in draws(law(bn_law="uniform", bn_count=2), 300)} == {1, 2}


def test_pre_is_drawn_once_and_intra_anew_at_each_step():
    pre = TeacherDraws(law(), 5)
    assert not pre.change
    assert pre.at(4) == pre.at(4, step=9)
    assert len({pre.at(i) for i in range(50)}) > 10
    assert [pre.at(i) for i in range(9)] != [TeacherDraws(law(), 6).at(i) for i in range(9)]

    intra = TeacherDraws(law(selection="intra", decoupling="dual"), 5)
    steps = [intra.at(4, step=s) for s in range(200)]
    assert intra.change
    assert steps == [intra.at(4, step=s) for s in range(200)]
    counts = Counter(t.bn[0] for t in steps)
    assert len(counts) == 4
    assert all(n > 25 for n in counts.values())  # 50 expected of each, standard error 6
    assert steps != [intra.at(5, step=s) for s in range(200)]


def test_in_turn_takes_network_n_mod_k_for_both_terms():
    turns = TeacherDraws(law(decoupling="single", selection="in-turn"))
    names = [turns.at(0, step=s).logit for s in range(7)]
    assert names == ["resnet18", *POOL, "resnet18", POOL[0]]
    assert turns.at(3, step=2) == Teachers("efficientnet_b0", ("efficientnet_b0",))
    assert turns.possible_logit == {"resnet18", *POOL}
    assert TeacherDraws(law()).possible_logit == {"resnet18"}
