import copy
import math

import pytest
import torch
from torch import nn

from data import images
from models.networks import build
from recover import losses
from recover.alignment import NormAlignment
from recover.loss_log import LossLog, first_bad_term
from recover.priors.density import density
from recover.synthesize import (
    Part,
    Recipe,
    UnitState,
    apply_augmentation,
    draw_augmentation,
    one_step,
    step_gradient,
    synthesize,
)
from recover.teacher_pool import TeacherLaw, Teachers
from recover.units import Unit
from utils.precision import Arithmetic
from utils.schedules import cosine, crop_area

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


def unit(ipc_id=0, steps=6, bn_teachers=("phi", "extra", "alexnet"), count=4, logit="phi", joins=None, labels=None, law=None):
    labels = tuple(range(count)) if labels is None else labels
    fixed = Teachers(logit, tuple(bn_teachers)) if law is None else None
    return Unit(f"slice{ipc_id}", ipc_id, (ipc_id, 0), labels, (ipc_id,) * len(labels), steps,
                law or TeacherLaw("phi", ("extra", "alexnet")), (ipc_id,), fixed, joins)


def start(u):
    x = torch.randn(len(u.classes), 3, SIZE, SIZE, generator=torch.Generator().manual_seed(u.number), dtype=torch.float64)
    return UnitState(u, images.clamp_(x), torch.tensor(u.classes))


def alignments(*names, first=10.0):
    return {name: NormAlignment(NETS[name], first) for name in names or NETS}


def reference(u, recipe, steps_to_run):
    """Eq. 4 as it is written: every teacher runs apart, one loss, one backward, a hand-written Adam."""
    x = start(u).x.detach().clone()
    labels, m1, m2 = torch.tensor(u.classes), torch.zeros_like(x), torch.zeros_like(x)
    for t in range(steps_to_run):
        leaf, guides = x.clone().requires_grad_(True), u.teachers(t)
        here = [i for i in range(len(x)) if u.joins is None or u.joins[i] <= t]
        loss = 0.0 * leaf.sum()
        if here:
            view = apply_augmentation(leaf[here], draw_augmentation(u, t, SIZE, recipe))
            loss = loss + nn.functional.cross_entropy(NETS[guides.logit](view), labels[here])
            m = sum(has_norm(name) for name in guides.bn) if recipe.without_bn == "left-out" else len(guides.bn)
            for name in guides.bn:
                z, distance, layers = view, 0.0, 0
                for layer in NETS[name]:
                    if isinstance(layer, nn.BatchNorm2d):
                        mean, var = z.mean((0, 2, 3)), z.var((0, 2, 3), correction=0)
                        term = (var - layer.running_var).norm() + (mean - layer.running_mean).norm()
                        distance, layers = distance + (1 if layers else 10) * term, layers + 1
                    z = layer(z)
                if recipe.bn_normalise == "layers" and layers:
                    distance = distance / layers
                loss = loss + recipe.r_bn * distance / (m if recipe.bn_terms == "mean" else 1)
            loss = loss + recipe.tv_l2 * losses.total_variation(view) + recipe.l2_scale * losses.l2_prior(view)
            if recipe.density:
                loss = loss + recipe.density * density(view, labels[here], recipe.density_temperature)
        loss.backward()
        g = leaf.grad
        m1, m2 = 0.5 * m1 + 0.5 * g, 0.9 * m2 + 0.1 * g**2
        lr = recipe.lr * cosine(t, u.steps)
        x = x - lr * (m1 / (1 - 0.5 ** (t + 1))) / ((m2 / (1 - 0.9 ** (t + 1))).sqrt() + 1e-8)
        images.clamp_(x)
    return x


def has_norm(name):
    return any(isinstance(m, nn.BatchNorm2d) for m in NETS[name].modules())


INTRA = TeacherLaw("phi", ("extra", "alexnet"), decoupling="dual", logit_teacher="drawn", selection="intra")
TURNS = TeacherLaw("phi", ("extra", "alexnet"), decoupling="single", selection="in-turn")


@pytest.mark.parametrize(("recipe", "u"), [
    (Recipe(jitter=3, r_bn=0.5), unit()),
    (Recipe(jitter=3, tv_l2=0.01, l2_scale=0.02), unit()),
    (Recipe(jitter=3, r_bn=0.5, bn_terms="sum", bn_normalise="layers"), unit()),
    (Recipe(jitter=3, r_bn=0.5, without_bn="left-out"), unit()),
    (Recipe(jitter=3, r_bn=0.5), unit(logit="extra", bn_teachers=("phi",))),
    (Recipe(jitter=3, r_bn=0.5), unit(logit="alexnet", bn_teachers=("alexnet",))),
    (Recipe(jitter=3, r_bn=0.5), unit(law=INTRA)),
    (Recipe(jitter=3, r_bn=0.5), unit(law=TURNS)),
    (Recipe(jitter=0, r_bn=0.5, crop_schedule="cosine", min_scale_crops=0.2), unit()),
    (Recipe(jitter=2, r_bn=0.5), unit(joins=(0, 0, 2, 4))),
    (Recipe(jitter=2, r_bn=0.5), unit(joins=(2, 2, 3, 4))),
    (Recipe(jitter=2, r_bn=0.5, density=3.0), unit(labels=(0, 0, 0, 2, 2, 1))),
], ids=["plain", "priors", "sum-normalised", "left-out", "dual", "single-without-bn", "intra", "in-turn", "crop-schedule",
        "early-late", "all-late", "density"])
def test_equals_the_formula_written_out(recipe, u):
    state = start(u)
    synthesize([state], alignments(), recipe)
    assert torch.allclose(state.x, reference(u, recipe, u.steps), rtol=0, atol=1e-9)


def test_compiled_nets_equal_the_formula_written_out():
    u, recipe = unit(logit="extra", bn_teachers=("phi", "extra")), Recipe(jitter=3, r_bn=0.5)
    compiled = {name: NormAlignment(NETS[name], arithmetic=Arithmetic(compile=True)) for name in ("phi", "extra")}
    state = start(u)
    synthesize([state], compiled, recipe)
    assert torch.allclose(state.x, reference(u, recipe, u.steps), rtol=0, atol=1e-8)


def test_bfloat16_takes_nearly_the_same_gradient():
    network, gradients = build("resnet18", 4, seed=("bf16",)).eval().requires_grad_(False), {}
    x = images.clamp_(torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    for precision in ("fp32", "bf16"):
        leaf = x.clone().requires_grad_(True)
        with NormAlignment(network, arithmetic=Arithmetic(precision)) as alignment:
            logits, distances = alignment(leaf, [4, 4])
        assert distances.dtype == torch.float32
        (nn.functional.cross_entropy(logits.float(), torch.arange(8) % 4) + 0.01 * distances.sum()).backward()
        gradients[precision] = leaf.grad.flatten()
    assert nn.functional.cosine_similarity(*gradients.values(), dim=0) > 0.98
    assert not torch.equal(*gradients.values())


@pytest.mark.gpu
@pytest.mark.parametrize("arithmetic", [Arithmetic(), Arithmetic("bf16"), Arithmetic("bf16", compile=True)], ids=str)
def test_no_step_waits_for_a_gpu(arithmetic):
    u, recipe = unit(bn_teachers=("s",), logit="s", steps=30), Recipe(jitter=3)
    network = build("shufflenet_v2_x0_5", 4, seed=("gpu",)).eval().requires_grad_(False).cuda()
    x = images.clamp_(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))).cuda()
    state = UnitState(u, x, torch.tensor(u.classes).cuda())
    with NormAlignment(network, arithmetic=arithmetic) as alignment:
        for step in range(1, 3):  # compilation and first calls may wait
            one_step([state], {"s": alignment}, recipe, step, 100)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for step in range(3, 8):
                one_step([state], {"s": alignment}, recipe, step, 100)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(state.x).all()
    assert not torch.equal(state.x, x)


def test_a_net_without_batch_norm_need_not_be_loaded():
    a, b = start(unit()), start(unit())
    synthesize([a], alignments(), Recipe(jitter=3))
    synthesize([b], alignments("phi", "extra"), Recipe(jitter=3))
    assert torch.equal(a.x, b.x)


def test_options_change_the_result():
    """No variant falls back to another."""
    base, found = start(unit()), []
    synthesize([base], alignments(), Recipe(jitter=3, r_bn=0.5))
    for change in ({"bn_terms": "sum"}, {"bn_normalise": "layers"}, {"without_bn": "left-out"}, {"crop_schedule": "step"},
                   {"crop_schedule": "linear", "crop_milestone": 0.5}, {"tv_l2": 0.1}):
        state = start(unit())
        synthesize([state], alignments(), Recipe(jitter=3, r_bn=0.5, **change))
        found.append(state.x.detach())
    assert all(not torch.allclose(base.x, x, atol=1e-3) for x in found)


def test_late_images_stay_as_they_are_until_they_join():
    u, seen = unit(joins=(0, 0, 3, 3)), {}
    state = start(u)
    first = state.x.detach().clone()
    synthesize([state], alignments(), Recipe(jitter=2), after_step=lambda step, _: seen.update({step: state.x.detach().clone()}))
    assert torch.equal(seen[2][2:], first[2:])
    assert not torch.equal(seen[2][:2], first[:2])
    assert (seen[3][2:] != first[2:]).flatten(1).any(1).all()


def test_crops_follow_the_schedule():
    u, recipe = unit(steps=10), Recipe(crop_schedule="cosine", crop_milestone=0.5, min_scale_crops=0.1)
    for step in range(10):
        least = crop_area("cosine", step, 10, 0.1, 0.5)
        areas = [float(draw_augmentation(unit(i, 10), step, 200, recipe)[0][2:].prod()) / 200**2 for i in range(40)]
        assert min(areas) >= least - 0.01
    assert least == 0.1
    assert math.isclose(float(draw_augmentation(u, 0, 200, recipe)[0][2:].prod()), 200**2, rel_tol=1e-2)


def test_units_together_equal_units_one_by_one():
    us = [unit(0, 6), unit(1, 3, ("phi",), count=3), unit(2, 5, ("extra",)), unit(3, 4, law=INTRA), unit(4, joins=(0, 2, 2, 7))]
    recipe, alone = Recipe(jitter=3, r_bn=0.3), []
    for u in us:
        state = start(u)
        synthesize([state], alignments(), recipe, log_every=2)
        alone.append(state)
    together, finished = [start(u) for u in us], []
    synthesize(together, alignments(), recipe, log_every=2, when_finished=lambda s: finished.append(s.unit.number))
    assert finished == [1, 3, 2, 0, 4]  # each leaves after its own last step
    for a, b in zip(alone, together, strict=True):
        assert torch.allclose(a.x, b.x, rtol=0, atol=1e-9)
        for (step_a, terms_a), (step_b, terms_b) in zip(a.log.finish(), b.log.finish(), strict=True):
            assert step_a == step_b
            assert terms_a.keys() == terms_b.keys()
            assert all(math.isclose(terms_a[k], terms_b[k], rel_tol=1e-9) for k in terms_a)


def test_units_together_equal_units_one_by_one_in_a_net_of_the_pool():
    """float64 and ShuffleNetV2 at 32 px in channels_last: grouped statistics of a real net."""
    network = build("shufflenet_v2_x0_5", 4, seed=("pool",)).double().eval().requires_grad_(False)
    us = [unit(i, 2, ("s",), count=3, logit="s") for i in range(3)]

    def begin(u):
        return UnitState(u, torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(u.number), dtype=torch.float64),
                         torch.tensor(u.classes))

    together = [begin(u) for u in us]
    synthesize(together, {"s": NormAlignment(network)}, Recipe(jitter=3))
    for u, state in zip(us, together, strict=True):
        alone = begin(u)
        synthesize([alone], {"s": NormAlignment(network)}, Recipe(jitter=3))
        assert torch.allclose(alone.x, state.x, rtol=0, atol=1e-8)
        assert not torch.allclose(begin(u).x, state.x, rtol=0, atol=1e-2)


def test_one_forward_serves_phi_and_theta1():
    calls = []
    counted = copy.deepcopy(NETS["phi"])
    counted.register_forward_hook(lambda *_: calls.append(1))
    synthesize([start(unit(steps=3))], {"phi": NormAlignment(counted), **alignments("extra")}, Recipe(jitter=1))
    assert len(calls) == 3


def test_going_on_from_a_checkpoint_gives_the_same_bits():
    u, recipe = unit(steps=7), Recipe(jitter=3)
    whole, kept = start(u), {}

    def keep(step, _):
        if step == 3:
            kept.update({name: t.clone() for name, t in whole.tensors().items()})

    synthesize([whole], alignments(), recipe, after_step=keep)
    again = start(u)
    again.restore(kept)
    synthesize([again], alignments(), recipe, first_step=4)
    assert torch.equal(whole.x, again.x)


def test_pixels_stay_in_the_valid_range():
    state = start(unit(steps=4))
    synthesize([state], alignments(), Recipe(lr=5.0, jitter=3))
    low, high = images.valid_range(state.x)
    assert ((state.x >= low) & (state.x <= high)).all()
    assert (state.x == low).any()  # so large a step reaches the limit


def test_terms_are_those_of_the_unit():
    state = start(unit(bn_teachers=("phi", "alexnet")))
    leaf = state.x.detach().clone().requires_grad_(True)
    with NormAlignment(NETS["phi"]) as phi:
        (terms,) = step_gradient([Part(state, leaf, state.labels, state.classes, state.unit.teachers(0))], {"phi": phi}, Recipe())
        logits, distances = phi(leaf, [4])
    assert set(terms) == {"ce", "bn phi"}
    assert torch.equal(terms["ce"], nn.functional.cross_entropy(logits, state.labels))
    assert torch.allclose(terms["bn phi"], distances[0])


class Remembering(NormAlignment):
    """Its distance grows with what it remembers."""

    def __call__(self, x, sizes, labels=None, memories=None):  # noqa: ARG002
        logits, distances = super().__call__(x, sizes)
        for memory in memories:
            memory["count"] = memory.get("count", torch.zeros(1)) + 1
        return logits, distances * torch.cat([memory["count"] for memory in memories])


def test_what_alignments_remember_goes_into_checkpoints():
    u, recipe = unit(steps=5, bn_teachers=("phi",)), Recipe(jitter=3, r_bn=0.1)
    whole, kept = start(u), {}
    synthesize([whole], {"phi": Remembering(NETS["phi"])}, recipe,
               after_step=lambda step, _: kept.update({n: t.clone() for n, t in whole.tensors().items()}) if step == 2 else None)
    assert float(whole.memory_of("phi")["count"]) == 5
    again = start(u)
    again.restore(kept)
    assert float(again.memory_of("phi")["count"]) == 3
    synthesize([again], {"phi": Remembering(NETS["phi"])}, recipe, first_step=3)
    assert torch.equal(whole.x, again.x)


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
    assert log.bad == (100, rows[1][1])
    assert first_bad_term(rows[0]) is None
    assert first_bad_term(rows[1]) == "ce"


def test_the_first_bad_step_is_known_between_the_rows_that_are_kept():
    log = LossLog()
    for step in range(8):
        names = ("ce", "bn a") if step % 2 else ("ce",)  # teachers may change from step to step
        log.add(step, {name: torch.tensor(float("inf") if step in (5, 6) else step + 0.5) for name in names}, keep=step in (0, 4))
    assert log.arrived() == [(0, {"ce": 0.5}), (4, {"ce": 4.5})]
    assert log.bad is None  # step 5 is still on the device
    assert log.finish() == []
    assert log.rows == [(0, {"ce": 0.5}), (4, {"ce": 4.5})]
    assert log.bad == (5, {"ce": float("inf"), "bn a": float("inf")})
