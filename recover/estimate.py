"""How long a step takes and how much memory, measured before the work starts."""

import time

import torch

CPU_PIXELS = 16 * 224 * 224  # on the CPU time is in proportion to the images from here on
_FULL = 512  # images in a forward that should fill any GPU; an assumption, not measured
_USABLE = 0.8  # of a GPU's memory: the allocator needs some room


def seconds_per_image_step(alignments, sizes, size, device, compiled=False):
    """{teacher: seconds} for one image and step: forward, distance and gradient to the input, best of three runs.

    alignments: {teacher: NormAlignment or its like}. sizes: images of the units that share a forward (on the CPU so many are
    enough as make CPU_PIXELS, unless the nets are compiled, which is done for every shape). size: side in pixels.
    """
    if device.type != "cuda" and not compiled:
        sizes = [min(sum(sizes), max(1, CPU_PIXELS // size**2))]
    count = sum(sizes)
    x, labels = torch.zeros(count, 3, size, size, device=device), torch.zeros(count, dtype=torch.int64, device=device)
    labels = labels.split(list(sizes))
    seconds = {}
    for name, alignment in alignments.items():
        with alignment:
            times = []
            for _ in range(3):
                _wait(device)
                begin = time.perf_counter()
                leaf = x.clone().requires_grad_(True)
                logits, distances = alignment(leaf, sizes, labels, [{} for _ in sizes])
                (logits.square().mean() + (0.0 if distances is None else distances.sum())).backward()
                _wait(device)
                times.append(time.perf_counter() - begin)
        seconds[name] = min(times) / count
    return seconds


def propose_units(unit_images, unit_bytes, all_bytes, alike):
    """Units that should share a forward on a GPU, instead of one.

    unit_images: images of a unit. unit_bytes: what one takes in a step. all_bytes: of the GPU's memory. alike: consecutive units
    with as many steps; the number divides it, so that a forward always holds as many images (and is compiled once).
    """
    room = min(int(_USABLE * all_bytes // unit_bytes), -(-_FULL // unit_images))
    return max(count for count in range(1, max(1, min(room, alike)) + 1) if alike % count == 0)


def _wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)
