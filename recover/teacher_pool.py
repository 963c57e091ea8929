"""Which teachers guide an image, and when they are drawn (paper 3.1 to 3.3)."""

import math
from dataclasses import dataclass

import torch

from utils.errors import UserError
from utils.seeding import stream


@dataclass(frozen=True)
class Teachers:
    """Who guides a batch: the logit teacher phi, and the BN teachers (phi first if it is one of them)."""

    logit: str
    bn: tuple


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
            drawn.append(left.pop(_draw_index(left, generator)))
    return drawn


def draw_uniform(names, least, most, generator):
    """A subset of `names`, uniform over all those of `least` to `most` members (paper 3.2), in the order of `names`."""
    sizes = range(least, min(most, len(names)) + 1)
    place = int(torch.randint(sum(math.comb(len(names), s) for s in sizes), (), generator=generator))
    for size in sizes:  # as many places for a size as it has subsets
        if place < math.comb(len(names), size):
            break
        place -= math.comb(len(names), size)
    return draw_exact(names, size, generator)


def draw_exact(names, count, generator):
    """`count` of the names, every choice equally likely, in the order of `names`."""
    chosen = torch.randperm(len(names), generator=generator)[:count].tolist()
    return [names[i] for i in sorted(chosen)]


def _draw_index(names, generator):
    return int(torch.randint(len(names), (), generator=generator))


@dataclass(frozen=True)
class TeacherLaw:
    """The law that teachers follow; fields are recover's options of the same names.

    pool: extra nets, without the primary. Raises UserError for a law that the pool cannot fill.
    """

    primary: str
    pool: tuple
    decoupling: str = "multi"
    logit_teacher: str = "primary"
    selection: str = "pre"
    drawn_per: str = "slice"
    bn_law: str = "slots"
    bn_slots: int = 3
    bn_slot_prob: float = 0.5
    bn_count: int = 4
    theta1: str = "forced"
    seed: int = 0

    def __post_init__(self):
        if self.selection == "in-turn" and self.decoupling != "single":
            raise UserError("--selection in-turn takes one net at a step for both terms, found --decoupling "
                            f"{self.decoupling}. Give --decoupling single.")
        if self.drawn_per == "image" and self.selection == "intra":
            raise UserError("--drawn-per image: images of a batch must keep the same teachers, found --selection intra. Give "
                            "--selection pre.")
        if self.decoupling == "dual" and not self.pool:
            raise UserError(f"--decoupling dual needs another net than {self.primary} as BN teacher, --bn-teachers has none. Add "
                            "one.")
        if self.decoupling == "multi" and self.bn_law == "exact" and self.bn_count > len(self.everyone):
            raise UserError(f"--bn-count {self.bn_count}: the primary and the pool are {len(self.everyone)} nets "
                            f"({', '.join(self.everyone)}). Lower it, or add --bn-teachers.")

    @property
    def everyone(self):
        """The primary and the pool."""
        return [self.primary, *self.pool]

    @property
    def possible_logit(self):
        """Names of the nets that may be phi."""
        return set(self.everyone) if self.logit_teacher == "drawn" or self.selection == "in-turn" else {self.primary}

    def draw(self, generator):
        """One draw of Teachers."""
        phi = self.primary
        if self.logit_teacher == "drawn":
            phi = self.everyone[_draw_index(self.everyone, generator)]
        others = [name for name in self.everyone if name != phi]
        if self.decoupling == "single":
            return Teachers(phi, (phi,))
        if self.decoupling == "dual":
            return Teachers(phi, (others[_draw_index(others, generator)],))
        if self.bn_law == "slots":  # theta_1 = phi always (released code)
            drawn = draw_slots(others, self.bn_slots, self.bn_slot_prob, generator)
            return Teachers(phi, (phi, *sorted(drawn, key=others.index)))  # equal sets are equal, however they were drawn
        least = self.bn_count if self.bn_law == "exact" else 1
        if self.theta1 == "forced":
            return Teachers(phi, (phi, *draw_uniform(others, least - 1, self.bn_count - 1, generator)))
        return Teachers(phi, tuple(draw_uniform([phi, *others], least, self.bn_count, generator)))

    def at(self, *where, step=None):
        """The teachers of a place: (ipc_id,), (ipc_id, class) or ("batch", number); at a step if selection is intra or in-turn.

        Drawn from the stream (seed, "teachers", *where) before distillation, or with the step added at every step.
        """
        if self.selection == "in-turn":
            name = self.everyone[step % len(self.everyone)]
            return Teachers(name, (name,))
        key = where if self.selection == "pre" else (*where, step)
        return self.draw(stream(self.seed, "teachers", *key))

    @property
    def changes(self):
        """Whether teachers change from step to step."""
        return self.selection != "pre"
