"""How long a step takes, measured before the work starts."""

import time

import torch

from models.bn_statistics import BatchNormStatistics
from recover import losses

CPU_PIXELS = 16 * 224 * 224  # on the CPU time is in proportion to the images from here on


def seconds_per_image_step(networks, count, size, recipe, device):
    """{teacher: seconds} for one image and step: forward, BN term and gradient to the input, best of three runs.

    count: images that share a forward (on the CPU so many are enough as make CPU_PIXELS).
    """
    if device.type != "cuda":
        count = min(count, max(1, CPU_PIXELS // size**2))
    x = torch.zeros(count, 3, size, size, device=device)
    seconds = {}
    for name, network in networks.items():
        with BatchNormStatistics(network) as tap:
            times = []
            for _ in range(3):
                _wait(device)
                begin = time.perf_counter()
                leaf = x.clone().requires_grad_(True)
                logits, statistics = tap(leaf, [count])
                alignment = losses.bn_alignment(statistics, recipe.first_bn_multiplier).sum() if statistics else 0.0
                (logits.square().mean() + alignment).backward()
                _wait(device)
                times.append(time.perf_counter() - begin)
        seconds[name] = min(times) / count
    return seconds


def _wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)
