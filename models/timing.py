"""How long a piece of work takes on a device, for estimates before it starts."""

import time

import torch

CPU_PIXELS = 16 * 224 * 224  # on a CPU, time is in proportion to the images from here on


def best_time(function, device, runs=3):
    """Seconds that a function takes on a device, the best of some runs."""
    return min(_seconds(function, device) for _ in range(runs))


def _seconds(function, device):
    _wait(device)
    begin = time.perf_counter()
    function()
    _wait(device)
    return time.perf_counter() - begin


def _wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)
