"""Rules that make one soft label from several teachers' logits, and the ensemble that applies one.

Every rule takes Z [K, B, C], the raw logits of K teachers for a batch of B images, the primary
teacher first, and gives the labels [B, C]. The norms of equal_energy and primary_half run over the
whole batch, so an image's label depends on the batch it is in.
"""

import torch

from utils.errors import UserError
from utils.precision import Arithmetic


def equal_energy(Z):
    """mean_k Z_k (mean_j n_j) / n_k, with n_k = ||Z_k|| the Frobenius norm over the batch.

    Every teacher is scaled to the same energy before averaging (released code for ResNet-18).
    """
    n = torch.linalg.vector_norm(Z, dim=(1, 2), keepdim=True)
    return (Z * (n.mean() / n)).mean(0)


def primary_half(Z):
    """w_b (mean_b' ||w_b'||) / ||w_b||, with w = Z_0 / 2 + (Z_1 + ... + Z_{K-1}) / (2 (K - 1)).

    The primary counts half and the others share the rest; then every image's row gets the mean row
    norm of the batch (released code for ResNet-50 and ResNet-101). Needs K >= 2.
    """
    if len(Z) < 2:
        raise ValueError("primary_half needs at least two teachers")
    w = 0.5 * Z[0] + 0.5 * Z[1:].mean(0)
    n = torch.linalg.vector_norm(w, dim=1, keepdim=True)
    return w * (n.mean() / n)


def mean(Z):
    """mean_k Z_k (the paper's words)."""
    return Z.mean(0)


def single(Z):
    """Z_0, the primary teacher alone."""
    return Z[0]


RULES = {"equal_energy": equal_energy, "primary_half": primary_half, "mean": mean,
         "single": single}


class Ensemble:
    """Teachers and a rule. Calling it labels a batch with one forward of each teacher.

    teachers: networks in eval mode, the primary first; `single` runs the primary alone. rule: a
    name in RULES. arithmetic: how the teachers run.
    """

    def __init__(self, teachers, rule, arithmetic=Arithmetic()):  # noqa: B008 - frozen
        teachers = list(teachers)
        _check(teachers, rule)
        self.rule, self.teachers = rule, teachers[:1] if rule == "single" else teachers
        self._run = [arithmetic.of(teacher) for teacher in self.teachers]

    @torch.no_grad()
    def __call__(self, batch):
        """Labels, float32 [B, C], of images, float [B, 3, H, W] in ImageNet's mean and std."""
        return RULES[self.rule](torch.stack([run(batch).float() for run in self._run]))


def _check(teachers, rule):
    if rule not in RULES:
        raise UserError(f"ensemble rule {rule!r}: expected one of {', '.join(RULES)}.")
    if not teachers:
        raise UserError("an ensemble needs at least one teacher, found none.")
    if rule == "primary_half" and len(teachers) < 2:
        raise UserError("ensemble rule primary_half: found one teacher, expected at least two. Use "
                        "the rule single, or add a teacher.")
    if len({teacher.num_classes for teacher in teachers}) > 1:
        counts = ", ".join(f"{teacher.name} {teacher.num_classes}" for teacher in teachers)
        raise UserError(f"the teachers' class counts differ: {counts}.")
