"""How fast this machine trains a network and runs it: a few steps, timed before a plan is made."""

import functools

import torch
import torch.nn.functional as F

from models.networks import build
from recover.estimate import best_time

_CPU_PIXELS = 32 * 64 * 64  # of a timed batch: with more, an image takes as long on a CPU


@functools.cache
def image_seconds(name, image_size, stem, classes, device):
    """(seconds in training, seconds in a forward) of one image.

    name: of the network. image_size: side in pixels. classes: how many. device: a torch.device.
    """
    count = 128 if device.type == "cuda" else max(4, min(32, _CPU_PIXELS // image_size**2))
    network = build(name, classes, stem, None, ("speed", name), image_size).to(device)
    images = torch.zeros(count, 3, image_size, image_size, device=device)
    labels = torch.zeros(count, dtype=torch.int64, device=device)

    def training():
        F.cross_entropy(network.train()(images), labels).backward()

    @torch.no_grad()
    def forward():
        network.eval()(images)

    return tuple(best_time(function, device) / count for function in (training, forward))
