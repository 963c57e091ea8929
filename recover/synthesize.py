"""Optimise the images of some units of work (paper Eq. 4), which share forwards."""

import contextlib

import torch

from data import augment, images
from recover.gradient import View, loss_gradient
from recover.loss_log import LossLog
from utils import schedules
from utils.seeding import stream


def synthesize(states, alignments, options, first_step=0):
    """Optimise the units of `states` together; yield (step, active states) after every step.

    Each unit has its own crops, statistics, Adam and cosine, and leaves the forward after its last
    step. alignments: {teacher: an alignment of recover/alignment.py}. options:
    recover.options.Options. first_step: the step to go on at. Nothing here waits for the
    device, but the density term.
    """
    with contextlib.ExitStack() as stack:
        for alignment in alignments.values():
            stack.enter_context(alignment)
        for step in range(first_step, max(state.unit.steps for state in states)):
            active = [state for state in states if step < state.unit.steps]
            views = [state.view(step, options) for state in active]
            loss_gradient([view for view in views if view is not None], alignments, options.losses)
            for state, view in zip(active, views, strict=True):
                state.descend(view, step, options)
            yield step, active


def draw_augmentation(unit, step, size, options):
    """One draw for a whole unit: box, mirrored or not, roll.

    The stream is (seed, "recover", *unit.key, step). size: side of the images in pixels.
    """
    o, generator = options.optimisation, stream(options.run.seed, "recover", *unit.key, step)
    least = schedules.crop_area(o.crop_schedule, step, unit.steps, o.min_scale_crops,
                                o.crop_milestone)
    box = augment.draw_boxes(o.augment, 1, size, (least, 1.0), generator)[0]
    flip = bool(augment.draw_flips(1, o.flip_prob, generator))
    return box, flip, augment.draw_roll(o.jitter, generator)


def apply_augmentation(x, draw):
    """Cut, flip and roll a unit's images [n, 3, S, S] in the same way, differentiably."""
    box, flip, (rows, columns) = draw
    x = augment.crop_differentiable(x, box, x.shape[-1])
    return augment.roll(x.flip(3) if flip else x, rows, columns)


class UnitState:
    """Images of one unit while they are optimised: pixels, Adam, loss terms, and memories.

    x: float [n, 3, S, S], normalised. labels: int64 [n] on the device. memories: {teacher: {name:
    tensor}}, what alignments remember from step to step.
    """

    def __init__(self, unit, start, labels):
        self.unit, self.labels = unit, labels
        self.x = start.clone().requires_grad_(True)
        self.adam = torch.optim.Adam([self.x], betas=(0.5, 0.9), eps=1e-8)
        self.log, self.memories = LossLog(), {}
        self._classes = torch.tensor(unit.classes)  # labels once more, on the host
        self._joined, self._augmented = None, None

    def view(self, step, options):
        """The View of a step: the images that take part, augmented. None before any has joined."""
        x, labels, classes = self._taking_part(step)
        if not len(labels):
            return None
        draw = draw_augmentation(self.unit, step, x.shape[-1], options)
        self._augmented = apply_augmentation(x, draw)
        leaf = self._augmented.detach().requires_grad_(True)
        return View(leaf, labels, classes, self.unit.teachers(step), self.memories)

    def _taking_part(self, step):
        """(x, labels, classes on the host) of the images that have joined (EarlyLate)."""
        joins = self.unit.joins
        if joins is None or step >= max(joins):
            return self.x, self.labels, self._classes
        if self._joined is None or len(self._joined[0]) != self.unit.joined(step):
            # A copy to the device only when a group joins
            index = torch.tensor([i for i, join in enumerate(joins) if join <= step],
                                 dtype=torch.int64)
            self._joined = index, index.to(self.x.device)
        on_host, on_device = self._joined
        return self.x[on_device], self.labels[on_device], self._classes[on_host]

    def descend(self, view, step, options):
        """Take the gradient back through the augmentation, then Adam and the clamp of a step."""
        self.x.grad = None
        if view is None:
            # No image has joined yet; Adam counts the step all the same (DELT).
            self.x.grad = torch.zeros_like(self.x)
        else:
            self._augmented.backward(view.images.grad)
            self._augmented = None
            kept = step % options.run.log_every == 0 or step == self.unit.steps - 1
            self.log.add(step, view.terms, kept)

        lr = options.optimisation.lr * schedules.cosine(step, self.unit.steps)
        self.adam.param_groups[0]["lr"] = lr
        self.adam.step()
        with torch.no_grad():
            images.clamp_(self.x)

    def tensors(self):
        """What a checkpoint needs, {name: tensor}."""
        adam = self.adam.state[self.x]
        memories = {f"memory/{teacher}//{name}": tensor for teacher, memory in self.memories.items()
                    for name, tensor in memory.items()}
        return {"x": self.x.detach(), "exp_avg": adam["exp_avg"],
                "exp_avg_sq": adam["exp_avg_sq"], "step": adam["step"], **memories}

    def restore(self, tensors):
        """Go on from a checkpoint. Raises KeyError or RuntimeError for one that does not fit."""
        device = self.x.device
        with torch.no_grad():
            self.x.copy_(tensors["x"])
        self.adam.state[self.x] = {
            "step": tensors["step"].clone(),
            "exp_avg": tensors["exp_avg"].to(device).view_as(self.x),
            "exp_avg_sq": tensors["exp_avg_sq"].to(device).view_as(self.x)}
        for key, tensor in tensors.items():
            if key.startswith("memory/"):
                teacher, _, name = key.removeprefix("memory/").partition("//")
                self.memories.setdefault(teacher, {})[name] = tensor.to(device)
