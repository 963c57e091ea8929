"""What a student minimises. Tensors and plain numbers in, tensors out."""

import torch
import torch.nn.functional as F


def student_loss(objective, logits, soft_labels, classes, partner_classes=None, lam=1.0):
    """The loss of one micro-batch of n mixed images with C classes, a scalar:

        mse_gt   mean_ij (z_ij - y_ij)^2 + w CE(z, c)    the paper's, w = 0.1 (Table 3a)
        mae_gt   mean_ij |z_ij - y_ij| + w CE(z, c)
        kl       KL(softmax(y / T) || softmax(z / T))
        dist     T^2 (2 - 2 rho_images + 2 - 2 rho_classes)
        ce       CE(z, c)                                hard labels alone

    logits z and soft_labels y: float [n, C], raw logits of student and teachers; ce reads no y.
    classes c: int64 [n], of the un-mixed images. partner_classes: int64 [n], of the images mixed
    into them with weight 1 - lam; None when the un-mixed classes count alone.
    objective: validate.options.Objective, whose loss_type is one of these names, ce_weight is w and
    temperature is T.
    """
    kind, T = objective.loss_type, objective.temperature
    if kind == "kl":
        return kl(logits, soft_labels, T)
    if kind == "dist":
        return dist(logits, soft_labels, T)

    cross_entropy = ground_truth(logits, classes, partner_classes, lam)
    if kind == "ce":
        return cross_entropy
    distance = F.mse_loss if kind == "mse_gt" else F.l1_loss
    return distance(logits, soft_labels) + objective.ce_weight * cross_entropy


def ground_truth(logits, classes, partner_classes=None, lam=1.0):
    """CE(z, c) with the classes of the un-mixed images (released code; the paper is silent).

    With partner_classes p it is lam CE(z, c) + (1 - lam) CE(z, p). In train_fkd lam is the one that
    was drawn, not corrected to the area of a clipped CutMix box; in train_hard it is corrected.
    """
    cross_entropy = F.cross_entropy(logits, classes)
    if partner_classes is None:
        return cross_entropy
    return lam * cross_entropy + (1 - lam) * F.cross_entropy(logits, partner_classes)


def kl(logits, soft_labels, T):
    """KL(softmax(y / T) || softmax(z / T)), mean over images, without the factor T^2 (SRe2L)."""
    student, teacher = F.log_softmax(logits / T, 1), F.log_softmax(soft_labels / T, 1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def dist(logits, soft_labels, T):
    """T^2 (2 (1 - rho_images) + 2 (1 - rho_classes)) of the softmaxes at temperature T (DIST).

    rho_images is the mean correlation of student and teacher over the rows, rho_classes over the
    columns. A column holds the images given, so the value depends on the cut into micro-batches.
    """
    student, teacher = F.softmax(logits / T, 1), F.softmax(soft_labels / T, 1)
    rho_images = correlation(student, teacher).mean()
    rho_classes = correlation(student.t(), teacher.t()).mean()
    return T**2 * (2 * (1 - rho_images) + 2 * (1 - rho_classes))


def correlation(a, b, eps=1e-5):
    """<a - mean a, b - mean b> / (||a - mean a|| ||b - mean b|| + eps) of each row: [n, d] -> [n].

    This is Pearson's correlation of each row of a with the same row of b.
    """
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    # A batch of one has constant columns, whose norm is 0. linalg.vector_norm has subgradient 0
    # there, where a plain square root would give infinity times 0.
    norms = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    return (a * b).sum(1) / (norms + eps)
