"""DD-Ranking's scores of a distilled set, from accuracies as fractions.

Both ask what the images themselves are worth, apart from soft labels and from augmentation.
"""

import math


def label_robust_score(real_hard, hard, soft, random_soft, weight=0.5):
    """LRS, from 0 to 1: how good a set is without and with its soft labels.

    HLR = real_hard - hard: what hard labels lose beside all real images.
    IOR = soft - random_soft: what the images gain over random real ones with the same soft labels.
    LRS = squashed(weight * IOR - (1 - weight) * HLR).
    real_hard, hard: accuracies of students with hard labels on all real images, and on the set.
    soft, random_soft: with soft labels on the set, and on a random real subset of its size.
    """
    _check(real_hard, hard, soft, random_soft)
    return squashed(weight * (soft - random_soft) - (1 - weight) * (real_hard - hard))


def augmentation_robust_score(augmented, random_augmented, plain, random_plain, weight=0.5):
    """ARS, from 0 to 1: how much better a set is than a random real subset of its size.

    ARS = squashed(weight * (augmented - random_augmented) + (1 - weight) * (plain - random_plain)).
    Accuracies of students that see augmented images, and images as they are.
    """
    _check(augmented, random_augmented, plain, random_plain)
    return squashed(weight * (augmented - random_augmented) + (1 - weight) * (plain - random_plain))


def squashed(x):
    """(e^x - e^-1) / (e - e^-1): -1 ... 1 as 0 ... 1."""
    return (math.exp(x) - math.exp(-1)) / (math.e - math.exp(-1))


def _check(*accuracies):
    """Raise ValueError for what is no fraction: with per cent the scores would leave [0, 1]."""
    for accuracy in accuracies:
        if not 0 <= accuracy <= 1:
            raise ValueError(f"accuracy {accuracy}, expected a fraction from 0 to 1")
