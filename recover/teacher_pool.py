"""Which teachers an IPC slice gets."""

import torch

from utils.seeding import stream


def without_primary(names, primary):
    """The pool of extra BN teachers: the given names, each once, minus the primary."""
    return [name for name in dict.fromkeys(names) if name != primary]


def draw_slots(pool, slots, probability, generator):
    """Fill `slots` places one after the other, each with the given probability, drawing without replacement (released code).

    pool: names. Returns the names drawn, in order. With 3 slots and probability 1/2 their number is Binomial(3, 1/2).
    """
    left, drawn = list(pool), []
    for _ in range(slots):
        filled = torch.rand((), generator=generator, dtype=torch.float64).item() < probability
        if filled and left:
            drawn.append(left.pop(int(torch.randint(len(left), (), generator=generator))))
    return drawn


def bn_teachers_of_slice(primary, pool, slots, probability, seed, ipc_id):
    """BN teachers of an IPC slice, theta_1 = primary first: drawn once before distillation, the same for all its chunks.

    (Paper 3.3 "pre-distillation selection"; drawn per slice as in the released code, where the paper says per image.)
    """
    return [primary, *draw_slots(pool, slots, probability, stream(seed, "teachers", ipc_id))]
