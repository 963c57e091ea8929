"""The Mercer-kernel distance to the real data and its gradient (DAP, Theorem 3.1, Eq. 6 and 7).

Features are rows: u [D], z [B, D] of B images, and z_1 ... z_N of the real images of their class.

    K(u, v) = u . v                           linear
    K(u, v) = exp(-||u - v||^2 / (2 s^2))     rbf
    D_K(u, v) = sqrt(K(u, u) + K(v, v) - 2 K(u, v))

Both distances are functions of ||u - v|| alone: it is ||u - v|| itself with the linear kernel, and
sqrt(2 - 2 K) with the other one.
"""

from dataclasses import dataclass

import torch

KERNELS = ("linear", "rbf")
_TINY = 1e-12  # inside each root, whose slope would be infinite at distance 0


@dataclass(frozen=True)
class Reals:
    """Features of the real images of a class at one step, ready to be compared with.

    mean: [D]. centred: [N, D], z_i - mean. squares: [N], ||z_i - mean||^2. bandwidth: s of the rbf
    kernel, a scalar tensor; None with the linear kernel.
    """

    mean: torch.Tensor
    centred: torch.Tensor
    squares: torch.Tensor
    bandwidth: torch.Tensor | None


def gather_reals(z, kernel="linear"):
    """Reals of features z [N, D], in float32 or better.

    The bandwidth of the rbf kernel is the median distance of two of the real images. With the mean
    of the features as the only row, (1/N) sum_i D_K(z, z_i) becomes D_K(z, (1/N) sum_i z_i).
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel {kernel!r}, expected one of {', '.join(KERNELS)}")
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    mean = z.mean(0)
    centred = z - mean
    squares = centred.square().sum(1)
    bandwidth = median_distance(centred, squares) if kernel == "rbf" else None
    return Reals(mean, centred, squares, bandwidth)


def median_distance(z, squares):
    """Median of ||z_i - z_j|| over pairs i < j of rows of z [N, D], N > 1.

    squares: [N], ||z_i||^2. Raises ValueError where it is 0: more than half of the pairs are equal.
    """
    pairs = torch.triu_indices(len(z), len(z), 1, device=z.device)
    median = squared_distances(z, squares, z, squares)[pairs[0], pairs[1]].median().sqrt()
    if not median > 0:
        raise ValueError("the real images are equal, so the rbf kernel has no bandwidth")
    return median


def squared_distances(a, a_squares, b, b_squares):
    """||a_i - b_j||^2 of rows of a [B, D] and b [N, D], given their squared norms: [B, N].

    The expanded form needs no [B, N, D]. Its rounding is relative to the norms, so a and b should
    be centred.
    """
    return (a_squares[:, None] + b_squares - 2 * a @ b.t()).clamp_min(0)


def mean_distance(z, reals):
    """(1/N) sum_i D_K(z, z_i) of every row of z [B, D], and its gradient: [B], [B, D].

    reals: of gather_reals, with the kernel that was given there. With the squared distances
    q_i = ||z - z_i||^2 the gradient is sum_i w_i (z - z_i), where
    w_i = 1 / (N D_i) with the linear kernel, and K_i / (N s^2 D_i) with the rbf kernel.
    """
    centred = z.to(reals.mean.dtype) - reals.mean
    q = squared_distances(centred, centred.square().sum(1), reals.centred, reals.squares)
    if reals.bandwidth is None:
        distances = (q + _TINY).sqrt()
        weights = 1 / distances
    else:
        s_squared = reals.bandwidth.square()
        K = torch.exp(-q / (2 * s_squared))
        distances = (2 - 2 * K + _TINY).sqrt()
        weights = K / (s_squared * distances)

    weights = weights / q.shape[1]
    gradient = weights.sum(1, keepdim=True) * centred - weights @ reals.centred
    return distances.mean(1), gradient


def guidance(features, x, reals):
    """g_t = -grad_x (1/N) sum_i D_K(phi(x), z_i) (Eq. 7 without gamma), and the mean distance.

    features: phi, a function of x that gives [B, D]. x: [B, ...], the noised images of a step.
    Returns g_t like x, and the distances [B]. An image's gradient does not depend on the others.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        z = features(x)
    distance, slope = mean_distance(z.detach(), reals)
    (gradient,) = torch.autograd.grad(z, x, slope.to(z.dtype))
    return -gradient, distance


def rms(x):
    """Root mean square of every row of x [B, ...], with its dimensions kept: [B, 1, ...]."""
    return x.square().mean(tuple(range(1, x.dim())), keepdim=True).sqrt()
