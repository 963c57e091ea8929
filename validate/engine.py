"""Training a student: its optimiser, its batches and one epoch. Knows nothing of options and folders."""

import contextlib
import math
from dataclasses import dataclass

import torch

from data.augment import to_device
from data.epoch_plan import batch_slice, mixed_batch
from utils import schedules
from utils.seeding import seeded, stable_seed
from validate.grouped_batch_norm import batch_norm_layers
from validate.losses import micro_batches


@dataclass
class Batch:
    """What one optimiser step sees.

    images: float32 [n, 3, S, S], augmented and mixed. soft_labels: float32 [n, C] or None. classes: int64 [n], of the
    un-mixed images. partner_classes: int64 [n] of the images mixed in, with weight 1 - lam; None when they do not count.
    """

    images: torch.Tensor
    soft_labels: torch.Tensor | None
    classes: torch.Tensor
    partner_classes: torch.Tensor | None
    lam: float


def planned_batches(pixels, labels, plan, options, soft_labels, mixed_target, device):
    """The batches of an epoch in the order of its plan.

    pixels: function of int64 indices giving uint8 [n, 3, S, S] on the device; called once per batch, in order. labels: int64 [N],
    class of every image.
    plan, options: EpochPlan and PlanOptions. soft_labels: function of (number of the batch, mixed images) giving [n, C],
    or None. mixed_target: whether the partners' classes count too.
    """
    in_order = labels[plan.order]
    classes, partner_classes = to_device(in_order, device), None  # copied once an epoch
    if mixed_target and options.mix != "none":
        first = torch.arange(len(plan.order)) // options.batch_size * options.batch_size  # of each image's batch
        partner_classes = to_device(in_order[first + plan.partners], device)
    for number in range(options.batches):
        at = batch_slice(options, number)
        images = mixed_batch(pixels, plan, options, number)
        soft = None if soft_labels is None else to_device(soft_labels(number, images), device)
        partners = None if partner_classes is None else partner_classes[at]
        yield Batch(images, soft, classes[at], partners, float(plan.lams[number]))


def split_parameters(net):
    """(decayed, not decayed) parameters: weight decay takes those whose name contains "weight" and that have more than
    one dimension (released code; 21 of ResNet-18's 62)."""
    decayed, free = [], []
    for name, parameter in net.named_parameters():
        (decayed if "weight" in name and parameter.ndim > 1 else free).append(parameter)
    return decayed, free


def build_optimizer(net, name, lr, weight_decay, momentum=0.9, decay_on="matrices"):
    """AdamW (betas 0.9 / 0.999) or SGD with momentum, in PyTorch's fused form: one pass over memory, a tenth of the time on a CPU.

    The paper: AdamW, lr 1e-3, weight decay 0.01. decay_on: matrices (see split_parameters) or all (torchvision's recipe).
    """
    decayed, free = split_parameters(net)
    groups = [{"params": decayed, "weight_decay": weight_decay},
              {"params": free, "weight_decay": weight_decay if decay_on == "all" else 0.0}]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, fused=True)
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, fused=True)


def set_batch_norm_momentum(network, momentum):
    """running <- (1 - momentum) running + momentum batch, in every BatchNorm layer.

    Two forwards of a batch at 0.1 equal one at 1 - 0.9 * 0.9 = 0.19: what DELT's and RDED's code does to the student.
    """
    for layer in batch_norm_layers(network):
        layer.momentum = momentum


def factor(schedule, epoch, epochs, zeta=2.5):
    """Factor on the learning rate in epoch 0 ... epochs - 1, by the schedule's name. zeta: of ssrs and ssrs_continuous."""
    function = schedules.STUDENT[schedule]
    return function(epoch, epochs, zeta) if schedule.startswith("ssrs") else function(epoch, epochs)


def set_learning_rate(optimizer, lr):
    for group in optimizer.param_groups:
        group["lr"] = lr


@contextlib.contextmanager
def library_randomness(device, *key):
    """Seed what a net draws by itself (dropout, stochastic depth) on its device; the generators' old state comes back."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []), seeded(*key):
        if device.type == "cuda":
            torch.cuda.manual_seed(stable_seed(*key))
        yield


def train_step(passes, optimizer, batch, loss, sizes):
    """One optimiser step on a batch, as micro-batches of these sizes (one after the other in the batch).

    passes: validate.passes.Passes. loss: function of (logits, soft_labels, classes, partner_classes, lam) giving the mean over
    its images, called once a micro-batch. BatchNorm sees one micro-batch at a time, so its running statistics move once per
    micro-batch (released code), whether they share a pass or not. Several processes each take some of the micro-batches.
    Returns, over this process's images: (sum of the loss, number of hits on the un-mixed class), on the device, and their number.
    """
    count = len(batch.images)
    optimizer.zero_grad(set_to_none=True)
    total, hits, seen = 0.0, 0, 0
    for start, group in passes.each(sizes):
        if not group:
            passes.nothing(batch.images).backward()
            continue
        at = slice(start, start + sum(group))
        logits = passes(batch.images[at], group)
        weighted = 0.0
        for part, size in zip(logits.split(group), group, strict=True):
            own = slice(start, start + size)
            start += size
            soft = None if batch.soft_labels is None else batch.soft_labels[own]
            partners = None if batch.partner_classes is None else batch.partner_classes[own]
            value = loss(part, soft, batch.classes[own], partners, batch.lam)
            weighted = weighted + value * (passes.scale * size / count)
            total = total + value.detach() * size
        weighted.backward()
        hits = hits + (logits.detach().argmax(1) == batch.classes[at]).sum()
        seen += sum(group)
    optimizer.step()
    return total, hits, seen


def train_epoch(passes, optimizer, batches, loss, batch_size, accumulation_steps, after_batch=None, average=None):
    """One epoch. batches: iterable of Batch. after_batch: called with (images so far, loss sum, hits) of this process, the sums on
    the device. average: WeightAverage that follows every optimiser step, or None.

    Returns, while training and over all processes: (mean loss per image, top-1 in percent against the un-mixed class, number of the
    first batch whose loss is not finite, or None).
    """
    passes.network.train()
    seen, total, hits, by_batch = 0, 0.0, 0, []  # by batch, on the device: no step waits to see whether its loss is finite
    for batch in batches:
        sizes = micro_batches(len(batch.images), batch_size, accumulation_steps)
        batch_total, batch_hits, images = train_step(passes, optimizer, batch, loss, sizes)
        if average is not None:
            average.update(passes.network)
        seen, total, hits = seen + images, total + batch_total, hits + batch_hits
        by_batch.append(batch_total)
        if after_batch is not None:
            after_batch(seen, total, hits)
    seen, hits, *by_batch = passes.sum([seen, hits, *by_batch])
    first_bad = next((number for number, value in enumerate(by_batch) if not math.isfinite(value)), None)
    return sum(by_batch) / seen, 100 * hits / seen, first_bad
