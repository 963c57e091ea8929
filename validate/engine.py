"""Training a student: its optimiser, one step and one epoch."""

import math

import torch

from validate.grouped_batch_norm import batch_norm_layers
from validate.losses import student_loss


def split_parameters(net):
    """(decayed, not decayed) parameters: weight decay takes matrices and convolutions.

    These are the parameters whose name contains "weight" and that have more than one dimension
    (released code): 21 of ResNet-18's 62.
    """
    decayed, free = [], []
    for name, parameter in net.named_parameters():
        (decayed if "weight" in name and parameter.ndim > 1 else free).append(parameter)
    return decayed, free


def build_optimizer(net, optimisation):
    """AdamW (betas 0.9 and 0.999) or SGD with momentum. optimisation: its options, resolved.

    PyTorch's fused form passes over memory once and takes a tenth of the time on a CPU.
    """
    decayed, free = split_parameters(net)
    decay = optimisation.weight_decay
    groups = [{"params": decayed, "weight_decay": decay},
              {"params": free,
               "weight_decay": decay if optimisation.weight_decay_on == "all" else 0.0}]
    if optimisation.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=optimisation.lr, fused=True)
    return torch.optim.SGD(groups, lr=optimisation.lr, momentum=optimisation.momentum, fused=True)


def load_optimizer(optimizer, state):
    """Take over the moments in the state_dict of an optimizer; options are its own."""
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state["state"], "param_groups": groups})
    # Fused steps take for granted that moments lie in memory as their parameter does.
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if name != "step":
                own = torch.empty_like(parameter, requires_grad=False)
                moments[name] = own.copy_(value.view_as(parameter))


def set_learning_rate(optimizer, lr):
    for group in optimizer.param_groups:
        group["lr"] = lr


def set_batch_norm_momentum(network, momentum):
    """running <- (1 - momentum) running + momentum batch, in every BatchNorm layer.

    Two forwards of a batch at 0.1, as in DELT's and RDED's code, equal one at 1 - 0.9^2 = 0.19.
    """
    for layer in batch_norm_layers(network):
        layer.momentum = momentum


def train_step(passes, optimizer, batch, objective):
    """One optimiser step on a Batch, cut into micro-batches.

    The step follows the mean over micro-batches of their losses, each weighted by its images.
    BatchNorm sees one micro-batch at a time, so its running statistics move once per micro-batch
    (released code). Several processes each take some of the micro-batches.
    passes: validate.passes.Passes. objective: validate.options.Objective.
    Returns, over this process's images: (sum of the loss, hits on the un-mixed class), both on the
    device, and the number of images.
    """
    optimizer.zero_grad(set_to_none=True)
    loss_sum, hits, seen = 0.0, 0, 0
    for start, sizes in passes.each(len(batch)):
        if not sizes:
            passes.nothing(batch.images).backward()
            continue

        part = batch.part(slice(start, start + sum(sizes)))
        logits = passes(part.images, sizes)
        loss = 0.0
        for z, micro_batch in zip(logits.split(sizes), part.split(sizes), strict=True):
            value = student_loss(objective, z, micro_batch.soft_labels, micro_batch.classes,
                                 micro_batch.partner_classes, micro_batch.lam)
            loss = loss + value * (passes.scale * len(micro_batch) / len(batch))
            loss_sum = loss_sum + value.detach() * len(micro_batch)
        loss.backward()

        hits = hits + (logits.detach().argmax(1) == part.classes).sum()
        seen += len(part)
    optimizer.step()
    return loss_sum, hits, seen


def train_epoch(passes, optimizer, batches, objective, average=None, after_batch=None):
    """One epoch. batches: iterable of Batch.

    average: WeightAverage of the student, which follows every step, or None. after_batch: called
    with (images so far, sum of the loss, hits) of this process, the sums on the device.
    Returns, while training and over all processes: (mean loss per image, top-1 in per cent against
    the un-mixed class, number of the first batch whose loss is not finite, or None).
    """
    passes.network.train()
    seen, loss_sum, hits = 0, 0.0, 0
    losses = []  # per batch, on the device: no step waits to see whether its loss is finite
    for batch in batches:
        loss, batch_hits, images = train_step(passes, optimizer, batch, objective)
        if average is not None:
            average.update_parameters(passes.network)
        seen, loss_sum, hits = seen + images, loss_sum + loss, hits + batch_hits
        losses.append(loss)
        if after_batch is not None:
            after_batch(seen, loss_sum, hits)

    seen, hits, *losses = passes.sum([seen, hits, *losses])
    not_finite = (batch for batch, value in enumerate(losses) if not math.isfinite(value))
    return sum(losses) / seen, 100 * hits / seen, next(not_finite, None)
