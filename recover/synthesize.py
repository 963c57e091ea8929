"""Optimise the images of some units of work (paper Eq. 4), several units in one forward."""

import contextlib
from dataclasses import dataclass

import torch

from data import augment, images
from recover import losses
from recover.loss_log import LossLog
from recover.priors.density import density
from recover.teacher_pool import Teachers
from utils import schedules
from utils.seeding import stream

RATIO = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class Recipe:
    """Numbers and choices of the optimisation, named as recover's options; defaults are the paper's."""

    lr: float = 0.05
    r_bn: float = 0.01
    bn_terms: str = "mean"
    bn_normalise: str = "none"
    without_bn: str = "counted"
    min_scale_crops: float = 0.08
    crop_schedule: str = "constant"
    crop_milestone: float = 1.0
    flip_prob: float = 0.5
    jitter: int = 32
    density: float = 0.0
    density_temperature: float = 4.0
    tv_l2: float = 0.0
    l2_scale: float = 0.0
    seed: int = 0


def draw_augmentation(unit, step, size, recipe):
    """One draw for the whole batch: crop box, mirrored or not, roll. Stream (seed, "recover", *unit.where, step)."""
    generator = stream(recipe.seed, "recover", *unit.where, step)
    least = schedules.crop_area(recipe.crop_schedule, step, unit.steps, recipe.min_scale_crops, recipe.crop_milestone)
    box = augment.draw_crops(1, size, size, (least, 1.0), RATIO, generator)[0]
    flip = bool(augment.draw_flips(1, recipe.flip_prob, generator))
    return box, flip, augment.draw_roll(recipe.jitter, generator)


def apply_augmentation(x, draw):
    """Crop, flip and roll a batch [n, 3, S, S] in the same way, differentiably."""
    box, flip, (rows, columns) = draw
    x = augment.crop_differentiable(x, box, x.shape[-1])
    return augment.roll(x.flip(3) if flip else x, rows, columns)


class UnitState:
    """Images of one unit while they are optimised: pixels, Adam, the terms logged so far, and what alignments remember."""

    def __init__(self, unit, start, labels):
        self.unit, self.labels = unit, labels
        self.x = start.clone().requires_grad_(True)
        self.adam = torch.optim.Adam([self.x], betas=(0.5, 0.9), eps=1e-8)  # the learning rate is set at every step
        self.log, self.memory = LossLog(), {}
        self.classes = torch.tensor(unit.classes)  # labels once more, on the host
        self._joined = None, None

    def __len__(self):
        return len(self.x)

    def joined(self, step):
        """Indices of the images that take part in a step, on the host and on the device; None for all.

        EarlyLate's groups join one after the other.
        """
        joins = self.unit.joins
        if joins is None or step >= max(joins):
            return None
        here = [i for i, first in enumerate(joins) if first <= step]
        if self._joined[0] is None or len(self._joined[0]) != len(here):  # a copy to the device only when a group joins
            index = torch.tensor(here, dtype=torch.int64)
            self._joined = index, index.to(self.x.device)
        return self._joined

    def memory_of(self, teacher):
        """What an alignment to this teacher remembers from step to step, {name: tensor}."""
        return self.memory.setdefault(teacher, {})

    def tensors(self):
        """What a checkpoint needs, {name: tensor}."""
        adam = self.adam.state[self.x]
        remembered = {f"memory/{teacher}//{name}": t for teacher, kept in self.memory.items() for name, t in kept.items()}
        return {"x": self.x.detach(), "exp_avg": adam["exp_avg"], "exp_avg_sq": adam["exp_avg_sq"], "step": adam["step"],
                **remembered}

    def restore(self, tensors):
        """Go on from a checkpoint."""
        with torch.no_grad():
            self.x.copy_(tensors["x"])
        device = self.x.device
        self.adam.state[self.x] = {"step": tensors["step"].clone(), "exp_avg": tensors["exp_avg"].to(device),
                                   "exp_avg_sq": tensors["exp_avg_sq"].to(device)}
        for key, tensor in tensors.items():
            if key.startswith("memory/"):
                teacher, _, name = key.removeprefix("memory/").partition("//")
                self.memory_of(teacher)[name] = tensor.to(device)


@dataclass
class Part:
    """The images of a unit that take part in a step.

    augmented: a leaf [n, 3, S, S] whose .grad receives the gradient. labels int64 [n]; classes: the same on the host.
    teachers: Teachers of this step.
    """

    state: UnitState
    augmented: torch.Tensor
    labels: torch.Tensor
    classes: torch.Tensor
    teachers: Teachers


def counted(teachers, alignments, recipe):
    """m of a mean over BN teachers: all (released code), or those that have a term."""
    if recipe.without_bn == "counted":
        return len(teachers.bn)
    return max(1, sum(name in alignments and alignments[name].layers > 0 for name in teachers.bn))


def step_gradient(parts, alignments, recipe):
    """Loss terms and their gradient with respect to the augmented images, teacher by teacher.

    parts: units that take part. alignments: {teacher: NormAlignment or its like}; a BN teacher that is not in it has no matched
    layers and adds 0. Each net sees a unit once, whether it is its logit teacher, BN teacher or both; phi and theta_1 are one
    forward. Its graph is freed before the next net runs, so memory is the largest teacher's, not the sum.
    Returns per unit {"ce": scalar, "bn NAME": scalar per BN teacher, ...}, detached, on the device.
    """
    terms = [{} for _ in parts]
    for name, alignment in alignments.items():
        for gather in (True, False):  # whether it is a BN teacher of theirs, or phi alone
            users = [(part, found) for part, found in zip(parts, terms, strict=True)
                     if gather == (alignment.layers > 0 and name in part.teachers.bn) and (gather or name == part.teachers.logit)]
            if users:
                teacher_gradient(name, alignment, gather, users, alignments, recipe)
    for found, part in zip(terms, parts, strict=True):
        add_image_priors(found, part, recipe)
    return terms


def teacher_gradient(name, alignment, gather, users, alignments, recipe):
    """One teacher's forward and backward for the units that have it. users: (Part, its terms). gather: as a BN teacher."""
    x, labels = torch.cat([part.augmented for part, _ in users]), [part.labels for part, _ in users]
    sizes = [len(own) for own in labels]
    if gather:
        logits, distances = alignment(x, sizes, labels, [part.state.memory_of(name) for part, _ in users])
    else:
        logits, distances = alignment.logits(x), None
    entropy = losses.cross_entropy(logits.to(x.dtype), torch.cat(labels), sizes)
    loss = 0.0
    for row, (part, found) in enumerate(users):
        ce, bn = 0.0, 0.0
        if name == part.teachers.logit:
            ce = entropy[row]
            found["ce"] = ce.detach()
        if gather:
            bn = distances[row] / (alignment.layers if recipe.bn_normalise == "layers" else 1)
            found[f"bn {name}"] = bn.detach()
        weight = losses.bn_weight(recipe.r_bn, counted(part.teachers, alignments, recipe), recipe.bn_terms)
        loss = loss + losses.teacher_term(bn, weight, ce)
    loss.backward()


def add_image_priors(found, part, recipe):
    """Terms of the augmented images alone: SRe2L's TV and L2, G-VBSM's density. Adds their gradient, notes them in `found`."""
    if recipe.tv_l2 or recipe.l2_scale:
        x = part.augmented
        prior = recipe.tv_l2 * losses.total_variation(x) + recipe.l2_scale * losses.l2_prior(x)
        prior.backward()
        found["priors"] = prior.detach()
    if recipe.density:
        value = density(part.augmented, part.classes, recipe.density_temperature)
        (recipe.density * value).backward()
        found["density"] = value.detach()


def synthesize(states, alignments, recipe, first_step=0, log_every=100, after_step=None, when_finished=None):
    """Optimise the units of `states` together, each with its own crops, statistics, Adam and cosine.

    alignments: {name: NormAlignment or its like, of a frozen net in eval mode}. A unit leaves the forward after its last step.
    first_step: where a checkpoint stands. after_step(step, active states) and when_finished(state) are called if given.
    Terms go into state.log, rows of every log_every-th step and the last; nothing here waits for the device but the density term.
    """
    with contextlib.ExitStack() as stack:
        for alignment in alignments.values():
            stack.enter_context(alignment)
        for step in range(first_step, max(s.unit.steps for s in states)):
            active = [s for s in states if step < s.unit.steps]
            one_step(active, alignments, recipe, step, log_every)
            if after_step is not None:
                after_step(step, active)
            if when_finished is not None:
                for state in active:
                    if step == state.unit.steps - 1:
                        when_finished(state)


def one_step(active, alignments, recipe, step, log_every):
    """One step of every active unit: augment, gradient, Adam, clamp."""
    views, parts = [], []
    for state in active:
        here = state.joined(step)
        x, labels, classes = state.x, state.labels, state.classes
        if here is not None:
            x, labels, classes = x[here[1]], labels[here[1]], classes[here[0]]
        if len(labels):
            views.append(apply_augmentation(x, draw_augmentation(state.unit, step, x.shape[-1], recipe)))
            parts.append(Part(state, views[-1].detach().requires_grad_(True), labels, classes, state.unit.teachers(step)))
    terms = step_gradient(parts, alignments, recipe)
    for state in active:
        state.x.grad = None
    for view, part, values in zip(views, parts, terms, strict=True):
        view.backward(part.augmented.grad)
        part.state.log.add(step, values, keep=step % log_every == 0 or step == part.state.unit.steps - 1)
    for state in active:
        if state.x.grad is None:  # no image has joined yet; Adam counts the step all the same (DELT)
            state.x.grad = torch.zeros_like(state.x)
        state.adam.param_groups[0]["lr"] = recipe.lr * schedules.cosine(step, state.unit.steps)
        state.adam.step()
        with torch.no_grad():
            images.clamp_(state.x)
