"""Which teachers guide an image, and when they are drawn (paper 3.1 to 3.3)."""

import math
from dataclasses import dataclass

import torch

from recover.options import TeacherLaw
from utils.seeding import stream


@dataclass(frozen=True)
class Teachers:
    """Who guides a unit: the logit teacher phi, and the BN teachers, phi first if it is one."""

    logit: str
    bn: tuple


@dataclass(frozen=True)
class TeacherDraws:
    """The teachers that a law gives to every unit, drawn from streams of this seed."""

    law: TeacherLaw
    seed: int = 0

    def at(self, *place, step=None):
        """The Teachers of a place: (ipc_id,), (ipc_id, class) or ("batch", number).

        The stream is (seed, "teachers", *place), and has the step added where teachers are drawn
        again at every step.
        """
        law = self.law
        if law.selection == "in-turn":
            name = law.everyone[step % len(law.everyone)]
            return Teachers(name, (name,))
        key = place if law.selection == "pre" else (*place, step)
        return draw_teachers(law, stream(self.seed, "teachers", *key))

    @property
    def change(self):
        """Whether teachers change from step to step."""
        return self.law.selection != "pre"

    @property
    def possible_logit(self):
        """Names of the networks that may be phi."""
        drawn = self.law.logit_teacher == "drawn" or self.law.selection == "in-turn"
        return set(self.law.everyone) if drawn else {self.law.primary_teacher}


def draw_teachers(law, generator):
    """One draw of Teachers by a TeacherLaw."""
    phi = law.primary_teacher
    if law.logit_teacher == "drawn":
        phi = law.everyone[_draw_index(law.everyone, generator)]
    others = [name for name in law.everyone if name != phi]

    if law.decoupling == "single":
        return Teachers(phi, (phi,))
    if law.decoupling == "dual":
        return Teachers(phi, (others[_draw_index(others, generator)],))
    if law.bn_law == "slots":  # theta_1 = phi always (released code)
        drawn = draw_slots(others, law.bn_slots, law.bn_slot_prob, generator)
        # In the pool's order, so that equal sets are equal however they were drawn
        return Teachers(phi, (phi, *sorted(drawn, key=others.index)))

    least = law.bn_count if law.bn_law == "exact" else 1
    if law.theta1 == "forced":
        return Teachers(phi, (phi, *draw_uniform(others, least - 1, law.bn_count - 1, generator)))
    return Teachers(phi, tuple(draw_uniform([phi, *others], least, law.bn_count, generator)))


def draw_slots(pool, slots, probability, generator):
    """Fill `slots` places one after the other, each with the given probability (released code).

    pool: names, drawn without replacement. Returns the names drawn, in order. With 3 slots and
    probability 1/2 their number is Binomial(3, 1/2).
    """
    left, drawn = list(pool), []
    for _ in range(slots):
        filled = torch.rand((), generator=generator, dtype=torch.float64).item() < probability
        if filled and left:
            drawn.append(left.pop(_draw_index(left, generator)))
    return drawn


def draw_uniform(names, least, most, generator):
    """A subset of `names`, uniform over those of `least` to `most` members (paper 3.2).

    Its members are in the order of `names`.
    """
    sizes = range(least, min(most, len(names)) + 1)
    subsets = sum(math.comb(len(names), size) for size in sizes)
    place = int(torch.randint(subsets, (), generator=generator))

    # A size has as many places as it has subsets.
    for size in sizes:
        if place < math.comb(len(names), size):
            break
        place -= math.comb(len(names), size)
    chosen = torch.randperm(len(names), generator=generator)[:size].tolist()
    return [names[i] for i in sorted(chosen)]


def _draw_index(names, generator):
    return int(torch.randint(len(names), (), generator=generator))
