"""Optimise the images of some units of work (paper Eq. 4), several units in one forward."""

import contextlib
from dataclasses import dataclass

import torch

from models.bn_statistics import BatchNormStatistics
from recover import losses
from recover.loss_log import LossLog
from utils import augment, images, schedules
from utils.seeding import stream

RATIO = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class Recipe:
    """Numbers of the optimisation; defaults are the paper's."""

    lr: float = 0.05
    r_bn: float = 0.01
    first_bn_multiplier: float = 10.0
    min_area: float = 0.08
    flip: float = 0.5
    jitter: int = 32
    tv: float = 0.0
    l2: float = 0.0
    seed: int = 0


def draw_augmentation(unit, step, size, recipe):
    """One draw for the whole batch: crop box, mirrored or not, roll. Stream (seed, "recover", slice, chunk, step)."""
    generator = stream(recipe.seed, "recover", unit.ipc_id, unit.chunk, step)
    box = augment.draw_crops(1, size, size, (recipe.min_area, 1.0), RATIO, generator)[0]
    flip = bool(augment.draw_flips(1, recipe.flip, generator))
    return box, flip, augment.draw_roll(recipe.jitter, generator)


def apply_augmentation(x, draw):
    """Crop, flip and roll a batch [n, 3, S, S] in the same way, differentiably."""
    box, flip, (rows, columns) = draw
    x = augment.crop_differentiable(x, box, x.shape[-1])
    return augment.roll(x.flip(3) if flip else x, rows, columns)


class UnitState:
    """Images of one unit while they are optimised: pixels, Adam, and the terms logged so far."""

    def __init__(self, unit, start, labels):
        self.unit, self.labels = unit, labels
        self.x = start.clone().requires_grad_(True)
        self.adam = torch.optim.Adam([self.x], betas=(0.5, 0.9), eps=1e-8)  # the learning rate is set at every step
        self.log = LossLog()

    def __len__(self):
        return len(self.x)

    def tensors(self):
        """What a checkpoint needs, {name: tensor}."""
        adam = self.adam.state[self.x]
        return {"x": self.x.detach(), "exp_avg": adam["exp_avg"], "exp_avg_sq": adam["exp_avg_sq"], "step": adam["step"]}

    def restore(self, tensors):
        """Go on from a checkpoint."""
        with torch.no_grad():
            self.x.copy_(tensors["x"])
        device = self.x.device
        self.adam.state[self.x] = {"step": tensors["step"].clone(), "exp_avg": tensors["exp_avg"].to(device),
                                   "exp_avg_sq": tensors["exp_avg_sq"].to(device)}


def step_gradient(states, augmented, taps, recipe):
    """Loss terms and their gradient with respect to the augmented images, teacher by teacher.

    states: units that take part. augmented: per unit a leaf [n, 3, S, S] whose .grad receives the gradient.
    taps: {teacher: BatchNormStatistics}; a BN teacher that is not in it has no BatchNorm and adds 0.
    Each net runs once, on the units that have it as logit or BN teacher; phi and theta_1 are one forward. Its graph is freed
    before the next net runs, so memory is the largest teacher's, not the sum.
    Returns per unit {"ce": scalar, "bn NAME": scalar per BN teacher, ...}, detached, on the device.
    """
    terms = [{} for _ in states]
    for name, tap in taps.items():
        users = [i for i, s in enumerate(states)
                 if name == s.unit.logit_teacher or (tap.layers and name in s.unit.bn_teachers)]
        if not users:
            continue
        sizes = [len(states[i]) for i in users]
        logits, statistics = tap(torch.cat([augmented[i] for i in users]), sizes)
        alignment = losses.bn_alignment(statistics, recipe.first_bn_multiplier) if statistics else None
        entropy = losses.cross_entropy(logits, torch.cat([states[i].labels for i in users]), sizes)
        loss = 0.0
        for row, i in enumerate(users):
            unit, ce, bn = states[i].unit, 0.0, 0.0
            if name == unit.logit_teacher:
                ce = entropy[row]
                terms[i]["ce"] = ce.detach()
            if statistics and name in unit.bn_teachers:
                bn = alignment[row]
                terms[i][f"bn {name}"] = bn.detach()
            loss = loss + losses.teacher_term(bn, recipe.r_bn, len(unit.bn_teachers), ce)
        loss.backward()
    if recipe.tv or recipe.l2:
        for found, x in zip(terms, augmented, strict=True):
            prior = recipe.tv * losses.total_variation(x) + recipe.l2 * losses.l2_prior(x)
            prior.backward()
            found["priors"] = prior.detach()
    return terms


def synthesize(states, networks, recipe, first_step=0, log_every=100, after_step=None, when_finished=None):
    """Optimise the units of `states` together, each with its own crops, statistics, Adam and cosine.

    networks: {name: frozen net in eval mode}. A unit leaves the forward after its last step.
    first_step: where a checkpoint stands. after_step(step, active states) and when_finished(state) are called if given.
    Terms go into state.log at every log_every-th step and the last; nothing here waits for the device.
    """
    with contextlib.ExitStack() as stack:
        taps = {name: stack.enter_context(BatchNormStatistics(net)) for name, net in networks.items()}
        for step in range(first_step, max(s.unit.steps for s in states)):
            active = [s for s in states if step < s.unit.steps]
            views = [apply_augmentation(s.x, draw_augmentation(s.unit, step, s.x.shape[-1], recipe)) for s in active]
            leaves = [view.detach().requires_grad_(True) for view in views]
            terms = step_gradient(active, leaves, taps, recipe)
            for state, view, leaf, values in zip(active, views, leaves, terms, strict=True):
                state.x.grad = None
                view.backward(leaf.grad)
                state.adam.param_groups[0]["lr"] = recipe.lr * schedules.cosine(step, state.unit.steps)
                state.adam.step()
                with torch.no_grad():
                    images.clamp_(state.x)
                if step % log_every == 0 or step == state.unit.steps - 1:
                    state.log.add(step, values)
            if after_step is not None:
                after_step(step, active)
            if when_finished is not None:
                for state in active:
                    if step == state.unit.steps - 1:
                        when_finished(state)
