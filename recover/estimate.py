"""How long a step takes and how much memory, measured before the work starts."""

import torch

from models.timing import CPU_PIXELS, best_time
from recover.gradient import Part

_FULL = 512  # images in a forward that should fill any GPU; an assumption, not measured
_USABLE = 0.8  # of a GPU's memory: the allocator needs some room


def seconds_per_image_step(alignments, sizes, size, device, compiled=False):
    """{teacher: seconds} of one image and step: forward, distance, gradient; best of three runs.

    sizes: images of the units that share the forward. On a CPU only as many as make CPU_PIXELS are
    run, unless networks are compiled, which happens for every shape. size: side in pixels.
    """
    if device.type != "cuda" and not compiled:
        sizes = [min(sum(sizes), max(1, CPU_PIXELS // size**2))]
    x = torch.zeros(sum(sizes), 3, size, size, device=device)

    seconds = {}
    for name, alignment in alignments.items():
        with alignment:
            seconds[name] = best_time(lambda a=alignment: _step(a, x, sizes), device) / len(x)
    return seconds


def _step(alignment, x, sizes):
    parts = [Part(torch.zeros(n, dtype=torch.int64, device=x.device), {}) for n in sizes]
    logits, distances = alignment(x.clone().requires_grad_(True), parts)
    loss = logits.square().mean() + (0.0 if distances is None else distances.sum())
    loss.backward()


def unit_seconds(unit, seconds):
    """Seconds that a unit takes, from seconds_per_image_step.

    Where its teachers change from step to step they are averaged over some steps.
    """
    steps = [0] if unit.fixed else range(0, unit.steps, max(1, unit.steps // 20))
    guides = [unit.teachers(step) for step in steps]
    each = [sum(seconds.get(name, 0.0) for name in {guide.logit, *guide.bn}) for guide in guides]
    return unit.image_steps() * sum(each) / max(1, len(each))


def propose_units(unit_images, unit_bytes, all_bytes, alike):
    """Units that should share a forward on a GPU, instead of one.

    unit_images: images of a unit. unit_bytes: what one takes in a step. all_bytes: of the GPU's
    memory. alike: consecutive units with as many steps; the number divides it, so that a forward
    always holds as many images and is compiled once.
    """
    room = min(int(_USABLE * all_bytes // unit_bytes), -(-_FULL // unit_images))
    return max(n for n in range(1, max(1, min(room, alike)) + 1) if alike % n == 0)
