"""What the student minimises, and how a batch is cut into micro-batches. Tensors and plain numbers in, tensors out.

logits, soft_labels: float [n, C], raw logits of student and teachers for the same mixed images. classes: int64 [n], class of
each un-mixed image. partner_classes: int64 [n], class of the image that was mixed into it. Every loss is a mean over the n.
"""

import torch
import torch.nn.functional as F

SOFT_LOSSES = ("mse_gt", "mae_gt", "kl", "dist")  # need soft labels
LOSSES = (*SOFT_LOSSES, "ce")
WITH_GROUND_TRUTH = ("mse_gt", "mae_gt")  # read ce_weight
WITH_TEMPERATURE = ("kl", "dist")  # read temperature


def ground_truth(logits, classes, partner_classes=None, lam=1.0):
    """Cross-entropy with the class of the un-mixed image (released code; the paper is silent: EXPERIMENTS.md, choice 11).

    With partner_classes both classes count, by lam and 1 - lam: `--gt-target mixed`. lam is the one drawn, not corrected to
    the area of a clipped CutMix box.
    """
    own = F.cross_entropy(logits, classes)
    if partner_classes is None:
        return own
    return lam * own + (1 - lam) * F.cross_entropy(logits, partner_classes)


def kl(logits, soft_labels, temperature=20.0):
    """KL(softmax(soft_labels / T) || softmax(logits / T)), mean over images, without the factor T^2 (SRe2L)."""
    student, teacher = F.log_softmax(logits / temperature, 1), F.log_softmax(soft_labels / temperature, 1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def dist(logits, soft_labels, temperature=20.0):
    """T^2 [2 (1 - mean correlation of rows) + 2 (1 - mean correlation of class columns)] of the softmaxes at T (DIST).

    Columns run over the images given: the value depends on how a batch is cut into micro-batches.
    """
    student, teacher = F.softmax(logits / temperature, 1), F.softmax(soft_labels / temperature, 1)
    between_classes = correlation(student, teacher).mean()
    within_class = correlation(student.t(), teacher.t()).mean()
    return temperature**2 * (2 * (1 - between_classes) + 2 * (1 - within_class))


def correlation(a, b, eps=1e-5):
    """Pearson correlation of each row of a with the same row of b [n, d]: <a - mean, b - mean> / (norm * norm + eps)."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    # A constant row (a batch of one has constant columns) has norm 0, whose plain gradient would be infinite times 0;
    # linalg.vector_norm takes the zero subgradient there.
    norms = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    return (a * b).sum(1) / (norms + eps)


def student_loss(kind, logits, soft_labels, classes, partner_classes=None, lam=1.0, ce_weight=0.1, temperature=20.0):
    """The loss of one micro-batch by name (paper Table 3a).

    mse_gt, mae_gt: mean over n * C of the squared (absolute) difference of raw logits + ce_weight * ground_truth.
    kl, dist: at this temperature, without ground truth. ce: ground_truth alone, plain hard labels; soft_labels is not read.
    partner_classes None: the class of the un-mixed image alone.
    """
    if kind == "kl":
        return kl(logits, soft_labels, temperature)
    if kind == "dist":
        return dist(logits, soft_labels, temperature)
    hard = ground_truth(logits, classes, partner_classes, lam)
    if kind == "ce":
        return hard
    distance = {"mse_gt": F.mse_loss, "mae_gt": F.l1_loss}[kind]
    return distance(logits, soft_labels) + ce_weight * hard


def micro_batches(count, batch_size, accumulation_steps):
    """Sizes of the groups that a batch of `count` images is cut into, in order; each weighs size / count in the loss.

    A full batch gives groups of ceil(batch_size / accumulation_steps): 50 in 2 steps is 25 + 25 (released code). A shorter
    last batch gives as many groups of at most that size as it needs, sizes differing by at most one, larger first:
    26 is 13 + 13, 13 is 13. No group holds one image, which has no batch statistics, unless the batch itself does.
    """
    nominal = -(-batch_size // accumulation_steps)
    groups = min(-(-count // nominal), max(1, count // 2))
    small, larger = divmod(count, groups)
    return [small + 1] * larger + [small] * (groups - larger)
