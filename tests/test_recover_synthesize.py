import copy
import math

import pytest
import torch
from torch import nn

from models.networks import build
from recover import losses
from recover.loss_log import LossLog, first_bad_term
from recover.synthesize import Recipe, UnitState, apply_augmentation, draw_augmentation, step_gradient, synthesize
from recover.units import Unit
from utils import images
from utils.schedules import cosine

SIZE = 16


def net(seed, batch_norm=True):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6) if batch_norm else nn.Identity(), nn.ReLU(),
              nn.Conv2d(6, 5, 3, stride=2), nn.BatchNorm2d(5) if batch_norm else nn.Identity(), nn.ReLU(),
              nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)]
    network = nn.Sequential(*layers)
    for m in network.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2)
    return network.double().eval().requires_grad_(False)


NETS = {"phi": net(0), "extra": net(1), "alexnet": net(2, batch_norm=False)}


def unit(ipc_id=0, steps=6, bn_teachers=("phi", "extra", "alexnet"), count=4):
    return Unit(ipc_id, 0, ipc_id, tuple(range(count)), steps, "phi", bn_teachers)


def start(u):
    x = torch.randn(len(u.classes), 3, SIZE, SIZE, generator=torch.Generator().manual_seed(u.ipc_id), dtype=torch.float64)
    return UnitState(u, images.clamp_(x), torch.tensor(u.classes))


def reference(u, recipe, steps_to_run):
    """Eq. 4 as it is written: every teacher runs apart, one loss, one backward, a hand-written Adam."""
    x = start(u).x.detach().clone()
    labels, m1, m2 = torch.tensor(u.classes), torch.zeros_like(x), torch.zeros_like(x)
    for t in range(steps_to_run):
        leaf = x.clone().requires_grad_(True)
        view = apply_augmentation(leaf, draw_augmentation(u, t, SIZE, recipe))
        loss = nn.functional.cross_entropy(NETS["phi"](view), labels)
        for name in u.bn_teachers:
            z, distance, first = view, 0.0, True
            for layer in NETS[name]:
                if isinstance(layer, nn.BatchNorm2d):
                    mean, var = z.mean((0, 2, 3)), z.var((0, 2, 3), correction=0)
                    term = (var - layer.running_var).norm() + (mean - layer.running_mean).norm()
                    distance, first = distance + (10 if first else 1) * term, False
                z = layer(z)
            loss = loss + recipe.r_bn / len(u.bn_teachers) * distance
        loss = loss + recipe.tv * losses.total_variation(view) + recipe.l2 * losses.l2_prior(view)
        loss.backward()
        g = leaf.grad
        m1, m2 = 0.5 * m1 + 0.5 * g, 0.9 * m2 + 0.1 * g**2
        lr = recipe.lr * cosine(t, u.steps)
        x = x - lr * (m1 / (1 - 0.5 ** (t + 1))) / ((m2 / (1 - 0.9 ** (t + 1))).sqrt() + 1e-8)
        images.clamp_(x)
    return x


@pytest.mark.parametrize("recipe", [Recipe(jitter=3, r_bn=0.5), Recipe(jitter=3, tv=0.01, l2=0.02)])
def test_equals_the_formula_written_out(recipe):
    u, nets = unit(), {name: NETS[name] for name in ("phi", "extra")}  # a net without BatchNorm need not be loaded
    state = start(u)
    synthesize([state], nets, recipe)
    assert torch.allclose(state.x, reference(u, recipe, u.steps), rtol=0, atol=1e-9)


def test_a_loaded_net_without_batch_norm_changes_nothing():
    a, b = start(unit()), start(unit())
    synthesize([a], NETS, Recipe(jitter=3))
    synthesize([b], {name: NETS[name] for name in ("phi", "extra")}, Recipe(jitter=3))
    assert torch.equal(a.x, b.x)


def test_units_together_equal_units_one_by_one():
    us = [unit(0, 6), unit(1, 3, ("phi",), count=3), unit(2, 5, ("phi", "extra"))]
    recipe, alone = Recipe(jitter=3, r_bn=0.3), []
    for u in us:
        state = start(u)
        synthesize([state], NETS, recipe, log_every=2)
        alone.append(state)
    together, finished = [start(u) for u in us], []
    synthesize(together, NETS, recipe, log_every=2, when_finished=lambda s: finished.append(s.unit.ipc_id))
    assert finished == [1, 2, 0]  # each leaves after its own last step
    for a, b in zip(alone, together, strict=True):
        assert torch.allclose(a.x, b.x, rtol=0, atol=1e-9)
        for (step_a, terms_a), (step_b, terms_b) in zip(a.log.finish(), b.log.finish(), strict=True):
            assert step_a == step_b
            assert terms_a.keys() == terms_b.keys()
            assert all(math.isclose(terms_a[k], terms_b[k], rel_tol=1e-9) for k in terms_a)


def test_units_together_equal_units_one_by_one_in_a_net_of_the_pool():
    """float64 and ShuffleNetV2 at 32 px in channels_last: grouped statistics of a real net."""
    network = build("shufflenet_v2_x0_5", 4, seed=("pool",)).double().eval().requires_grad_(False)
    us = [Unit(i, 0, i, (0, 1, 2), 2, "s", ("s",)) for i in range(3)]

    def begin(u):
        return UnitState(u, torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(u.ipc_id), dtype=torch.float64),
                         torch.tensor(u.classes))

    together = [begin(u) for u in us]
    synthesize(together, {"s": network}, Recipe(jitter=3))
    for u, state in zip(us, together, strict=True):
        alone = begin(u)
        synthesize([alone], {"s": network}, Recipe(jitter=3))
        assert torch.allclose(alone.x, state.x, rtol=0, atol=1e-8)
        assert not torch.allclose(begin(u).x, state.x, rtol=0, atol=1e-2)


def test_one_forward_serves_phi_and_theta1():
    calls = []
    counted = copy.deepcopy(NETS["phi"])
    counted.register_forward_hook(lambda *_: calls.append(1))
    synthesize([start(unit(steps=3))], {"phi": counted, "extra": NETS["extra"]}, Recipe(jitter=1))
    assert len(calls) == 3


def test_going_on_from_a_checkpoint_gives_the_same_bits():
    u, recipe = unit(steps=7), Recipe(jitter=3)
    whole, kept = start(u), {}

    def keep(step, _):
        if step == 3:
            kept.update({name: t.clone() for name, t in whole.tensors().items()})

    synthesize([whole], NETS, recipe, after_step=keep)
    again = start(u)
    again.restore(kept)
    synthesize([again], NETS, recipe, first_step=4)
    assert torch.equal(whole.x, again.x)


def test_pixels_stay_in_the_valid_range():
    state = start(unit(steps=4))
    synthesize([state], NETS, Recipe(lr=5.0, jitter=3))
    low, high = images.valid_range(state.x)
    assert ((state.x >= low) & (state.x <= high)).all()
    assert (state.x == low).any()  # so large a step reaches the limit


def test_terms_are_those_of_the_unit():
    state = start(unit(bn_teachers=("phi", "alexnet")))
    from models.bn_statistics import BatchNormStatistics

    leaf = state.x.detach().clone().requires_grad_(True)
    with BatchNormStatistics(NETS["phi"]) as tap:
        (terms,) = step_gradient([state], [leaf], {"phi": tap}, Recipe())
        logits, statistics = tap(leaf, [4])
    assert set(terms) == {"ce", "bn phi"}
    assert torch.equal(terms["ce"], nn.functional.cross_entropy(logits, state.labels))
    assert torch.allclose(terms["bn phi"], losses.bn_alignment(statistics)[0])


def test_draws_belong_to_slice_chunk_and_step():
    recipe, u = Recipe(jitter=4), unit()
    box, flip, rolled = draw_augmentation(u, 5, SIZE, recipe)
    box2, flip2, rolled2 = draw_augmentation(u, 5, SIZE, recipe)
    assert torch.equal(box, box2)
    assert (flip, rolled) == (flip2, rolled2)
    others = [draw_augmentation(unit(1), 5, SIZE, recipe), draw_augmentation(u, 6, SIZE, recipe)]
    assert all(not torch.equal(box, other[0]) or rolled != other[2] for other in others)


def test_log_numbers_and_bad_terms():
    log = LossLog()
    log.add(0, {"ce": torch.tensor(1.5), "bn a": torch.tensor(2.0)})
    log.add(100, {"ce": torch.tensor(float("nan")), "bn a": torch.tensor(2.0)})
    rows = log.finish()
    assert rows[0] == (0, {"ce": 1.5, "bn a": 2.0})
    assert first_bad_term(rows[0]) is None
    assert first_bad_term(rows[1]) == "ce"
