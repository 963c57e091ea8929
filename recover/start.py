"""What a unit starts from, and whether the primary teacher knows these images at all."""

import torch

from models.evaluate import accuracy
from utils import distributed, images
from utils.errors import UserError
from utils.seeding import stream

ACCURACY_IMAGES = 1000  # the primary teacher is measured on about so many starting images


def start_images(unit, real, settings, workers):
    """The start of a unit: uint8 and normalised float32 [n, 3, S, S], and words that say where each image comes from."""
    size = real.image_size
    if settings["start"] == "noise":
        generator = stream(settings["seed"], "noise", unit.ipc_id, unit.chunk)
        x = torch.randn(len(unit.classes), 3, size, size, generator=generator)
        return images.to_uint8(x), x, ["noise"] * len(unit.classes)
    indices = [start_index(real, c, unit.ipc_id, settings) for c in unit.classes]
    pixels = real.pixels(indices, workers)
    return pixels, images.normalise(pixels), [real.where(i) for i in indices]


def start_index(real, label, ipc_id, settings):
    """Which real image slice ipc_id of a class starts from: the ipc_id-th file, or the ipc_id-th of a seeded permutation."""
    own = real.by_class[label]
    if settings["start"] == "random":
        order = torch.randperm(len(own), generator=stream(settings["seed"], "start", label))
        return int(own[order[ipc_id]])
    return int(own[ipc_id])


def check_teacher(network, real, units, settings, least, device, workers):
    """Measure the primary teacher on real starting images; near chance nothing good can come, so stop.

    least: per cent, or None for a tenth of the way from chance to 100.
    """
    indices = []
    for unit in units:
        if len(indices) >= ACCURACY_IMAGES:
            break
        indices += [start_index(real, c, unit.ipc_id % len(real.by_class[c]), settings) for c in unit.classes]  # noise: no end
    labels = torch.from_numpy(real.labels[indices])
    top1 = accuracy(network, real.pixels(indices, workers), labels, device)["top1"]
    chance = 100 / len(real.classes)
    least = chance + (100 - chance) / 10 if least is None else least
    name = settings["primary_teacher"]
    distributed.print0(f"{name} classifies {top1:.1f} % of {len(indices)} real starting images right (chance {chance:.1f} %)")
    if top1 < least:
        raise UserError(f"{name} classifies {top1:.1f} % of the real starting images right (chance {chance:.1f} %), expected at "
                        f"least {least:.1f} %. Probably the class folders are in another order than the teacher's head, or "
                        "these weights belong to another dataset or image size. --min-teacher-accuracy sets the limit; 0 switches "
                        "this off.")
