"""Whether the addends of the loss are in proportion, judged over the last steps of a unit.

The images follow the largest addend. At the first steps the BN term of noise is large whatever
comes later, and the crop of a single step may show anything.
"""

from recover.gradient import counted
from recover.losses import bn_weight

# An addend that is larger than another by this factor outweighs it. The BN term is up to 9 times
# the cross-entropy where digits come out well, and 17 to 100 times where objects become others.
TIMES = 15
LEAST_CE = 1.0  # smaller cross-entropies count as this: that of recognised images falls to 0


def note(state, alignments, weights):
    """A sentence for a unit in which an addend of the loss outweighs the others, or None.

    state: recover.synthesize.UnitState after its last step. alignments: {teacher: alignment}.
    weights: recover.options.Losses.
    """
    bn = mean_addends([
        bn_addends(terms, weights, counted(state.unit.teachers(step), alignments,
                                           weights.without_bn))
        for step, terms in state.log.latest])
    ce = mean_addends([{"ce": terms.get("ce", 0.0)} for _, terms in state.log.latest]).get("ce", 0)
    total, largest = sum(bn.values()), dominant(bn)
    layers = ("" if weights.bn_normalise == "layers" else "--bn-normalise layers divides each "
              "teacher's by its number of layers. ")

    if bn_outweighs(ce, total):
        return (f"in the loss of its last steps the BN term is {total:.1f} and the cross-entropy "
                f"{ce:.1f}, so the images follow the statistics rather than their classes. "
                f"{layers}A smaller --r-bn (found {weights.r_bn:g}) weakens it.")
    if largest is not None:
        return (f"in the loss of its last steps the BN term of {largest} is {bn[largest]:.2g} and "
                f"that of all other teachers {total - bn[largest]:.2g}, so they hardly count. "
                f"{layers}Or leave it out of --bn-teachers.")
    return None


def bn_addends(terms, weights, m):
    """{BN teacher: what it adds to the loss} of a step's terms. m: teachers that are counted."""
    factor = bn_weight(weights.r_bn, m, weights.bn_terms)
    return {name.removeprefix("bn "): factor * value for name, value in terms.items()
            if name.startswith("bn ")}


def mean_addends(rows):
    """Mean over steps of {name: number}; an addend that a step lacks is 0 there."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: sum(row.get(name, 0.0) for row in rows) / len(rows) for name in names}


def bn_outweighs(ce, bn):
    """Whether the BN term outweighs the cross-entropy."""
    return bn > TIMES * max(ce, LEAST_CE)


def dominant(bn):
    """The teacher whose BN addend outweighs the sum of all others', or None.

    bn: {teacher: its addend}.
    """
    if len(bn) < 2:
        return None
    largest = max(bn, key=bn.get)
    others = sum(bn.values()) - bn[largest]
    return largest if bn[largest] > TIMES * others else None
