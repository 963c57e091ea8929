import copy
import math

import pytest
import torch
from torch import nn

from data import images
from models.networks import build
from recover import losses
from recover.alignment import NormAlignment
from recover.options import Options, TeacherLaw
from recover.presets import PRESETS
from recover.priors.density import density
from recover.synthesize import (
    UnitState,
    apply_augmentation,
    draw_augmentation,
    synthesize,
)
from recover.teacher_pool import TeacherDraws, Teachers
from recover.units import Unit
from utils.options import from_values
from utils.precision import Arithmetic
from utils.schedules import cosine, crop_area

SIZE = 16
POOL = TeacherLaw("phi", ("extra", "alexnet"))
INTRA = TeacherLaw("phi", ("extra", "alexnet"), "dual", "drawn", "intra")
TURNS = TeacherLaw("phi", ("extra", "alexnet"), "single", selection="in-turn")


def network(seed, batch_norm=True):
    torch.manual_seed(seed)
    norm = nn.BatchNorm2d if batch_norm else nn.Identity
    net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), norm(6), nn.ReLU(),
                        nn.Conv2d(6, 5, 3, stride=2), norm(5), nn.ReLU(),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4))
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2)
    return net.double().eval().requires_grad_(False)


NETS = {"phi": network(0), "extra": network(1), "alexnet": network(2, batch_norm=False)}


def recipe(**given):
    """Options of recover with some of them given."""
    return from_values(Options, {"flip_prob": 0.5, "jitter": 3, **given}, PRESETS)


def unit(ipc_id=0, steps=6, bn=("phi", "extra", "alexnet"), labels=(0, 1, 2, 3), logit="phi",
         joins=None, law=None):
    fixed = Teachers(logit, tuple(bn)) if law is None else None
    return Unit(f"slice{ipc_id}", ipc_id, (ipc_id, 0), labels, (ipc_id,) * len(labels), steps,
                TeacherDraws(law or POOL), (ipc_id,), fixed, joins)


def start(u, size=SIZE):
    g = torch.Generator().manual_seed(u.number)
    x = torch.randn(len(u.classes), 3, size, size, generator=g, dtype=torch.float64)
    return UnitState(u, images.clamp_(x), torch.tensor(u.classes))


def alignments(*names):
    return {name: NormAlignment(NETS[name]) for name in names or NETS}


def optimise(states, guides, options, first_step=0):
    """All steps, whatever happens between them."""
    for _ in synthesize(states, guides, options, first_step):
        pass


def has_norm(name):
    return any(isinstance(m, nn.BatchNorm2d) for m in NETS[name].modules())


def distance(name, view, by_layers):
    """R_k of Eq. 3, layer after layer through the network."""
    z, total, layers = view, 0.0, 0
    for layer in NETS[name]:
        if isinstance(layer, nn.BatchNorm2d):
            mean, var = z.mean((0, 2, 3)), z.var((0, 2, 3), correction=0)
            term = (var - layer.running_var).norm() + (mean - layer.running_mean).norm()
            total, layers = total + (1 if layers else 10) * term, layers + 1
        z = layer(z)
    return total / layers if by_layers and layers else total


def written_out(u, options):
    """Eq. 4 as it stands: every teacher runs apart, one loss, one backward, Adam by hand."""
    w, x = options.losses, start(u).x.detach().clone()
    labels, m1, m2 = torch.tensor(u.classes), torch.zeros_like(x), torch.zeros_like(x)
    for t in range(u.steps):
        leaf, guides = x.clone().requires_grad_(True), u.teachers(t)
        part = [i for i in range(len(x)) if u.joins is None or u.joins[i] <= t]
        loss = 0.0 * leaf.sum()
        if part:
            view = apply_augmentation(leaf[part], draw_augmentation(u, t, SIZE, options))
            loss = loss + nn.functional.cross_entropy(NETS[guides.logit](view), labels[part])
            counted = [n for n in guides.bn if w.without_bn == "counted" or has_norm(n)]
            for name in guides.bn:
                share = max(1, len(counted)) if w.bn_terms == "mean" else 1
                loss = loss + w.r_bn * distance(name, view, w.bn_normalise == "layers") / share
            loss = loss + w.tv_l2 * losses.total_variation(view)
            loss = loss + w.l2_scale * losses.l2_prior(view)
            if w.density:
                loss = loss + w.density * density(view, labels[part], w.density_temperature)
        loss.backward()
        g = leaf.grad
        m1, m2 = 0.5 * m1 + 0.5 * g, 0.9 * m2 + 0.1 * g**2
        lr = options.optimisation.lr * cosine(t, u.steps)
        root = (m2 / (1 - 0.9 ** (t + 1))).sqrt() + 1e-8
        x = images.clamp_(x - lr * (m1 / (1 - 0.5 ** (t + 1))) / root)
    return x


CASES = {
    "plain": (recipe(r_bn=0.5), unit()),
    "priors": (recipe(tv_l2=0.01, l2_scale=0.02), unit()),
    "sum-normalised": (recipe(r_bn=0.5, bn_terms="sum", bn_normalise="layers"), unit()),
    "left-out": (recipe(r_bn=0.5, without_bn="left-out"), unit()),
    "dual": (recipe(r_bn=0.5), unit(logit="extra", bn=("phi",))),
    "single-without-bn": (recipe(r_bn=0.5), unit(logit="alexnet", bn=("alexnet",))),
    "intra": (recipe(r_bn=0.5), unit(law=INTRA)),
    "in-turn": (recipe(r_bn=0.5), unit(law=TURNS)),
    "crop-schedule": (recipe(jitter=0, r_bn=0.5, crop_schedule="cosine", min_scale_crops=0.2),
                      unit()),
    "early-late": (recipe(jitter=2, r_bn=0.5), unit(joins=(0, 0, 2, 4))),
    "all-late": (recipe(jitter=2, r_bn=0.5), unit(joins=(2, 2, 3, 4))),
    "density": (recipe(jitter=2, r_bn=0.5, density=3.0), unit(labels=(0, 0, 0, 2, 2, 1))),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_formula_written_out(case):
    options, u = CASES[case]
    state = start(u)
    optimise([state], alignments(), options)
    assert torch.allclose(state.x, written_out(u, options), rtol=0, atol=1e-9)


@pytest.mark.slow
def test_compiled_networks_equal_the_formula_written_out():
    u, options = unit(logit="extra", bn=("phi", "extra")), recipe(r_bn=0.5)
    state = start(u)
    optimise([state], {name: NormAlignment(NETS[name], arithmetic=Arithmetic(compile=True))
                       for name in ("phi", "extra")}, options)
    assert torch.allclose(state.x, written_out(u, options), rtol=0, atol=1e-8)


@pytest.mark.gpu
@pytest.mark.parametrize("case", ["plain", "priors", "in-turn", "early-late", "density"])
def test_a_gpu_equals_the_formula_written_out_on_the_cpu(case):
    options, u = CASES[case]
    first = start(u)
    state = UnitState(u, first.x.detach().cuda(), first.labels.cuda())
    optimise([state], {name: NormAlignment(copy.deepcopy(net).cuda())
                       for name, net in NETS.items()}, options)
    assert torch.allclose(state.x.cpu(), written_out(u, options), rtol=0, atol=1e-8)


@pytest.mark.gpu
@pytest.mark.parametrize("arithmetic", [Arithmetic(), Arithmetic("bf16"), Arithmetic("bf16", True)],
                         ids=str)
def test_no_step_waits_for_a_gpu(arithmetic):
    u, options = unit(bn=("s",), logit="s", steps=30), recipe()
    net = build("shufflenet_v2_x0_5", 4, seed=("gpu",)).eval().requires_grad_(False).cuda()
    x = images.clamp_(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    state = UnitState(u, x.cuda(), torch.tensor(u.classes).cuda())
    guides = {"s": NormAlignment(net, arithmetic=arithmetic)}
    try:
        for step, _ in synthesize([state], guides, options, 1):
            if step == 3:  # compilation and first calls may wait
                torch.cuda.set_sync_debug_mode("error")
            if step == 8:
                break
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(state.x).all()
    assert not torch.equal(state.x.cpu(), x)


def test_a_network_without_batch_norm_need_not_be_loaded():
    a, b = start(unit()), start(unit())
    optimise([a], alignments(), recipe())
    optimise([b], alignments("phi", "extra"), recipe())
    assert torch.equal(a.x, b.x)


def test_late_images_stay_as_they_are_until_they_join():
    state = start(unit(joins=(0, 0, 3, 3)))
    first = state.x.detach().clone()
    steps = [state.x.detach().clone() for _ in synthesize([state], alignments(), recipe())]
    assert torch.equal(steps[2][2:], first[2:])
    assert not torch.equal(steps[2][:2], first[:2])
    assert (steps[3][2:] != first[2:]).flatten(1).any(1).all()


@pytest.mark.parametrize("kind", ["shift", "none"])
def test_shifted_and_whole_images(kind):
    """Shifted in black by up to an eighth of the side; what leaves the image has no gradient."""
    options, u = recipe(augment=kind, flip_prob=0.0, jitter=0), unit()
    size, black = 16, images.standardise_(torch.zeros(3, 1, 1, dtype=torch.float64))
    corners = set()
    for step in range(40):
        x = torch.randn(2, 3, size, size, dtype=torch.float64, requires_grad=True)
        draw = draw_augmentation(u, step, size, options)
        top, left = draw[0][:2].tolist()
        corners |= {top, left}

        framed = black.expand(2, 3, size + 8, size + 8).clone()
        framed[:, :, 4:-4, 4:-4] = x.detach()
        expected = framed[:, :, 4 + top : 4 + top + size, 4 + left : 4 + left + size]
        view = apply_augmentation(x, draw)
        assert torch.equal(view, expected)
        view.sum().backward()
        assert x.grad.sum() == 2 * 3 * (size - abs(top)) * (size - abs(left))
    assert corners == (set(range(-2, 3)) if kind == "shift" else {0})


def test_crops_follow_the_schedule():
    options = recipe(crop_schedule="cosine", crop_milestone=0.5, min_scale_crops=0.1)
    for step in range(10):
        least = crop_area("cosine", step, 10, 0.1, 0.5)
        boxes = [draw_augmentation(unit(i, 10), step, 200, options)[0] for i in range(40)]
        assert min(float(box[2:].prod()) / 200**2 for box in boxes) >= least - 0.01
    assert least == 0.1
    whole = draw_augmentation(unit(steps=10), 0, 200, options)[0]
    assert math.isclose(float(whole[2:].prod()), 200**2, rel_tol=1e-2)


def test_units_together_equal_units_one_by_one():
    units = [unit(0, 6), unit(1, 3, ("phi",), (0, 1, 2)), unit(2, 5, ("extra",)),
             unit(3, 4, law=INTRA), unit(4, joins=(0, 2, 2, 7))]
    options, alone = recipe(r_bn=0.3, log_every=2), [start(u) for u in units]
    for state in alone:
        optimise([state], alignments(), options)

    together, active = [start(u) for u in units], []
    for step, states in synthesize(together, alignments(), options):
        active.append((step, [state.unit.number for state in states]))
    assert active[2:] == [(2, [0, 1, 2, 3, 4]), (3, [0, 2, 3, 4]), (4, [0, 2, 4]), (5, [0, 4])]
    for a, b in zip(alone, together, strict=True):
        assert torch.allclose(a.x, b.x, rtol=0, atol=1e-9)
        rows = zip(a.log.finish(), b.log.finish(), strict=True)
        for (step_a, terms_a), (step_b, terms_b) in rows:
            assert step_a == step_b
            assert terms_a == pytest.approx(terms_b, rel=1e-9)


def test_units_together_equal_units_one_by_one_in_a_network_of_the_pool():
    """float64 and ShuffleNetV2 at 32 px in channels_last: grouped statistics of a real network."""
    net = build("shufflenet_v2_x0_5", 4, seed=("pool",)).double().eval().requires_grad_(False)
    units = [unit(i, 2, ("s",), (0, 1, 2), logit="s") for i in range(3)]
    together = [start(u, 32) for u in units]
    optimise(together, {"s": NormAlignment(net)}, recipe())
    for u, state in zip(units, together, strict=True):
        alone = start(u, 32)
        optimise([alone], {"s": NormAlignment(net)}, recipe())
        assert torch.allclose(alone.x, state.x, rtol=0, atol=1e-8)
        assert not torch.allclose(start(u, 32).x, state.x, rtol=0, atol=1e-2)


def test_one_forward_serves_phi_and_theta1():
    calls = []
    counted = copy.deepcopy(NETS["phi"])
    counted.register_forward_hook(lambda *_: calls.append(1))
    guides = {"phi": NormAlignment(counted), **alignments("extra")}
    optimise([start(unit(steps=3))], guides, recipe(jitter=1))
    assert len(calls) == 3


def test_going_on_from_a_checkpoint_gives_the_same_bits():
    u, whole = unit(steps=7), start(unit(steps=7))
    for step, _ in synthesize([whole], alignments(), recipe()):
        if step == 3:
            kept = {name: t.clone() for name, t in whole.tensors().items()}
    again = start(u)
    again.restore(kept)
    optimise([again], alignments(), recipe(), first_step=4)
    assert torch.equal(whole.x, again.x)


def test_pixels_stay_in_the_valid_range():
    state = start(unit(steps=4))
    optimise([state], alignments(), recipe(lr=5.0))
    black = images.normalise(torch.zeros(3, 1, 1, dtype=torch.uint8), torch.float64)
    white = images.normalise(torch.full((3, 1, 1), 255, dtype=torch.uint8), torch.float64)
    assert ((state.x >= black) & (state.x <= white)).all()
    assert (state.x == black).any()  # so large a step reaches the limit


class Remembering(NormAlignment):
    """Its distance grows with what it remembers."""

    def __call__(self, x, parts):
        logits, distances = super().__call__(x, parts)
        for part in parts:
            part.memory["count"] = part.memory.get("count", torch.zeros(1)) + 1
        return logits, distances * torch.cat([part.memory["count"] for part in parts])


def test_what_alignments_remember_goes_into_checkpoints():
    u, options = unit(steps=5, bn=("phi",)), recipe(r_bn=0.1)
    whole = start(u)
    for step, _ in synthesize([whole], {"phi": Remembering(NETS["phi"])}, options):
        if step == 2:
            kept = {name: t.clone() for name, t in whole.tensors().items()}
    assert float(whole.memories["phi"]["count"]) == 5
    again = start(u)
    again.restore(kept)
    assert float(again.memories["phi"]["count"]) == 3
    optimise([again], {"phi": Remembering(NETS["phi"])}, options, first_step=3)
    assert torch.equal(whole.x, again.x)


def test_draws_belong_to_the_unit_and_the_step():
    options, u = recipe(jitter=4), unit()
    box, flip, roll = draw_augmentation(u, 5, SIZE, options)
    again = draw_augmentation(u, 5, SIZE, options)
    assert torch.equal(box, again[0])
    assert (flip, roll) == again[1:]
    for other in (draw_augmentation(unit(1), 5, SIZE, options),
                  draw_augmentation(u, 6, SIZE, options)):
        assert not torch.equal(box, other[0]) or roll != other[2]
