"""Finished sets of images as reports and figures read them: the same classes in all, features batch by batch."""

import re
from concurrent.futures import ThreadPoolExecutor

import torch
from timm.data import ImageNetInfo

from data.datasets import is_wnids
from data.distilled import DistilledImages
from data.images import normalise
from utils.errors import UserError

BATCH = 250
_NUMBER = re.compile(r"_id(\d+)$")


def open_sets(runs, workers):
    """{name: DistilledImages} of {name: run folder, or a folder of class folders}. UserError unless classes and sizes agree."""
    sets = {}
    for name, folder in runs.items():
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder. It was given as the set {name}: run recover first, or give other --runs.")
        found = sets[name] = DistilledImages(folder / "images" if (folder / "images").is_dir() else folder, workers)
        first_name, first = next(iter(sets.items()))
        both_known = found.known_classes and first.known_classes
        if len(found.classes) != len(first.classes) or (both_known and found.classes != first.classes):
            raise UserError(f"{name} has {len(found.classes)} classes ({found.classes[0]}, ...), {first_name} has "
                            f"{len(first.classes)} ({first.classes[0]}, ...). Only sets of the same classes can stand together.")
        if found.image_size != first.image_size:
            raise UserError(f"{name} has images of {found.image_size} px, {first_name} of {first.image_size} px. Only sets of one "
                            "size can stand together.")
    return sets


def class_names(sets):
    """Class names in head order, of the first set that knows them; folder names otherwise."""
    known = [s.known_classes for s in sets.values() if s.known_classes]
    return known[0] if known else next(iter(sets.values())).classes


def choose_classes(wanted, classes, most):
    """Indices of the classes named, by default of the first ten. UserError for an unknown name or more than `most`."""
    unknown = [name for name in wanted or [] if name not in classes]
    if unknown:
        there = ", ".join([*classes[:10], *(["..."] if classes[10:] else [])])
        raise UserError(f"--classes {unknown[0]}: no such class. There are {there}.")
    if wanted and len(wanted) > most:
        raise UserError(f"--classes: found {len(wanted)} names, expected at most {most}.")
    return [classes.index(name) for name in wanted] if wanted else list(range(min(10, len(classes))))


def titles(names):
    """Class names as one reads them: the first English word of ImageNet-1K's wnids; other names as they are."""
    if not is_wnids(names):
        return list(names)
    info = ImageNetInfo()
    known = set(info.label_names())
    return [info.label_name_to_description(name).split(",")[0] if name in known else name for name in names]


def of_class(distilled, label):
    """{number: place in the set} of a class's images: the number in their file names (class000_id003.jpg), else their order."""
    places = (distilled.labels == label).nonzero()[:, 0].tolist()
    numbers = [_NUMBER.search(distilled.paths[place].stem) for place in places]
    if all(numbers):
        return {int(number[1]): place for number, place in zip(numbers, places, strict=True)}
    return dict(enumerate(places))


@torch.no_grad()
def penultimate(pixels, network, device):
    """Penultimate features float32 [n, D] on the CPU, of uint8 [n, 3, S, S]. network: in eval mode, on device."""
    return torch.cat([network.features(normalise(part.to(device))).cpu() for part in pixels.split(BATCH)])


def features(distilled, places, network, device, workers, bar):
    """Penultimate features float32 [n, D] of some images of a set, decoded a batch at a time."""
    def one(place):
        image = distilled.image(place)
        bar.update(1)
        return image

    parts = []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for start in range(0, len(places), BATCH):
            pixels = torch.stack(list(pool.map(one, places[start : start + BATCH])))
            parts.append(penultimate(pixels, network, device))
    return torch.cat(parts)
