"""Factors on the learning rate, numbers of steps, areas of crops. Plain numbers in and out."""

import math


def cosine(step, steps):
    """1/2 (1 + cos(pi step / steps)): recover per step, SRe2L's student per epoch."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def half_cosine(epoch, epochs):
    """1/2 (1 + cos(pi epoch / (2 epochs))): from 1 to 1/2 (DELT, RDED)."""
    return 0.5 * (1 + math.cos(math.pi * epoch / (2 * epochs)))


def linear(epoch, epochs):
    """1 - epoch / epochs."""
    return 1 - epoch / epochs


def linear_half(epoch, epochs):
    """1 - epoch / (2 epochs): from 1 to 1/2 (EDC as its code ran; half_cosine was meant)."""
    return 1 - epoch / (2 * epochs)


def step(epoch, epochs):
    """Times 0.1 at each third of the epochs (torchvision's ResNet recipe: every 30 of 90)."""
    return 0.1 ** (3 * epoch // epochs)


def ssrs(epoch, epochs, zeta=2.5):
    """Smoothed cosine, then a short linear end.

    The source is the released code; the paper cites EDC, whose own script runs another curve.
    epoch <= 5/6 epochs: 1/2 (1 + cos(pi epoch / (zeta epochs))). Later: its value at 5/6 times
    (6E - 6e) / (6E), which jumps down to about a sixth: with 300 epochs 0.75 at epoch 250, 0.1225
    at 251, 0.0025 at 299.
    """
    if 6 * epoch <= 5 * epochs:
        return 0.5 * (1 + math.cos(math.pi * epoch / (zeta * epochs)))
    return _knee(zeta) * (6 * epochs - 6 * epoch) / (6 * epochs)


def ssrs_continuous(epoch, epochs, zeta=2.5):
    """ssrs without the jump: its last piece is the value at 5/6 times (6E - 6e) / E."""
    if 6 * epoch <= 5 * epochs:
        return ssrs(epoch, epochs, zeta)
    return _knee(zeta) * (6 * epochs - 6 * epoch) / epochs


def _knee(zeta):
    return 0.5 * (1 + math.cos(5 * math.pi / (6 * zeta)))


def milestones(epoch, epochs, parts, gamma):
    """Times gamma from each milestone on; at m / n of the epochs it is epoch floor(m epochs / n).

    parts: pairs (m, n). With ((2, 3), (5, 6)), gamma 0.2 and 100 epochs: 1 up to epoch 65, 0.2 up
    to 82, then 0.04.
    """
    return gamma ** sum(epoch >= m * epochs // n for m, n in parts)


STUDENT = {"ssrs": ssrs, "ssrs_continuous": ssrs_continuous, "cosine": cosine,
           "half_cosine": half_cosine, "linear": linear, "linear_half": linear_half, "step": step}


def recover_steps(ipc_id, iteration, varied=True):
    """Steps of an IPC slice: iteration (1 - (ipc_id mod 8)/8), or constant.

    Paper Table 3b, "varying iterations": 4000 gives 4000, 3500, ..., 500, 4000, ... A positive
    iteration gives at least one step.
    """
    if not varied or iteration == 0:
        return iteration
    return max(1, iteration * (8 - ipc_id % 8) // 8)


def crop_area(kind, step, steps, least, milestone=1.0):
    """Least area of a crop at a step (CDA's curriculum; paper Table 3b, "resize schedule").

    The largest area is always 1. The least falls from 1 (whole image) to `least` during the first
    milestone * steps steps, in which u runs from 0 to 1, and stays there:
    linear: least + (1 - least) (1 - u). cosine: least + (1 - least) 1/2 (1 + cos(pi u)).
    step: 1. constant: always `least`.
    """
    u = step / (milestone * steps)
    if kind == "constant" or u >= 1:
        return least
    falling = {"linear": linear(u, 1), "cosine": cosine(u, 1), "step": 1.0}
    return least + (1 - least) * falling[kind]


CROP = ("constant", "cosine", "linear", "step")  # kinds of crop_area
