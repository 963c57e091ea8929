"""Rules that make one soft label from several teachers' logits, and the ensemble that applies one.

Every rule takes Z [K, B, C]: raw logits of K teachers for a batch of B images, the primary teacher first, and gives [B, C].
The norm rules see the whole batch, so the same images in other batches get other labels.
"""

import torch

from utils.errors import UserError
from utils.precision import Arithmetic


def equal_energy(Z):
    """mean_k Z_k (mean_j n_j) / n_k, n_k the Frobenius norm of Z_k over the batch (released code for ResNet-18).

    Every teacher is scaled to the same energy over the batch before averaging.
    """
    norms = torch.linalg.vector_norm(Z, dim=(1, 2), keepdim=True)
    return (Z * (norms.mean() / norms)).mean(0)


def primary_half(Z):
    """The primary counts half, the others share the rest; then every image's row gets the mean row norm of the batch.

    w = Z_0 / 2 + (Z_1 + ... + Z_{K-1}) / (2 (K - 1)); w_b <- w_b (mean_b' ||w_b'||_2) / ||w_b||_2
    (released code for ResNet-50 and ResNet-101). Needs K >= 2.
    """
    if len(Z) < 2:
        raise ValueError("primary_half needs at least two teachers")
    w = 0.5 * Z[0] + 0.5 * Z[1:].mean(0)
    norms = torch.linalg.vector_norm(w, dim=1, keepdim=True)
    return w * (norms.mean() / norms)


def mean(Z):
    """The plain average (the paper's words)."""
    return Z.mean(0)


def single(Z):
    """The primary teacher alone."""
    return Z[0]


RULES = {"equal_energy": equal_energy, "primary_half": primary_half, "mean": mean, "single": single}


class Ensemble:
    """Teachers and a rule. Calling it labels a batch with one forward per teacher (`single`: the primary's only).

    teachers: networks in eval mode, the primary first. rule: a name in RULES. arithmetic: how the teachers run.
    """

    def __init__(self, teachers, rule, arithmetic=Arithmetic()):  # noqa: B008 - frozen
        if rule not in RULES:
            raise UserError(f"ensemble rule {rule!r}: expected one of {', '.join(RULES)}.")
        teachers = list(teachers)
        if not teachers:
            raise UserError("an ensemble needs at least one teacher, found none.")
        if rule == "primary_half" and len(teachers) < 2:
            raise UserError("ensemble rule primary_half: found one teacher, expected at least two. Use the rule single, or add "
                            "a teacher.")
        counts = {t.num_classes for t in teachers}
        if len(counts) > 1:
            raise UserError("the teachers' class counts differ: " + ", ".join(f"{t.name} {t.num_classes}" for t in teachers) + ".")
        self.teachers, self.rule = teachers[:1] if rule == "single" else teachers, rule
        self._run = [arithmetic.of(teacher) for teacher in self.teachers]

    @torch.no_grad()
    def __call__(self, batch):
        """batch: float [B, 3, H, W] normalised with ImageNet's mean and std. Returns float32 logits [B, C]."""
        return RULES[self.rule](torch.stack([run(batch).float() for run in self._run]))
