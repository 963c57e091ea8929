"""Finished sets of images as reports and figures read them: the same classes, their features."""

import torch

from data.class_folders import image_numbers
from data.images import normalise
from data.names import numbers_advice
from data.opening import check_order, open_distilled
from models.networks import check_name
from models.teachers import load_teachers
from utils import distributed
from utils.errors import UserError

BATCH = 250  # images in a forward


def open_sets(runs, workers):
    """Open sets of images of the same classes and size.

    runs: {name: run folder, or folder of class folders}. Returns {name: ImageSet}, all in the class
    order of the first set that names its classes. Raises UserError for a folder that is missing,
    and for sets that do not belong together.
    """
    sets = {}
    for name, folder in runs.items():
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder. It was given as the set {name}: run "
                            "recover first, or give other --runs.")
        images = folder / "images"
        sets[name] = open_distilled(images if images.is_dir() else folder, workers)
    known = [name for name, images in sets.items() if images.known_classes]
    first = known[0] if known else next(iter(sets))
    return {name: _alike(name, images, first, sets[first]) for name, images in sets.items()}


def _alike(name, images, first_name, first):
    """The ImageSet with the classes of the first one in their order."""
    same = sorted(images.classes) == sorted(first.classes)
    count = len(images.classes)
    if count != len(first.classes) or not (same or images.numbered):
        advice = numbers_advice(images.classes)
        if not advice and count == len(first.classes):
            advice = (" If these are the same under other names, give the folders the same names, "
                      "or import the set with --classes (docs/formats.md).")
        raise UserError(f"{name} has {count} classes ({images.classes[0]}, ...), {first_name} has "
                        f"{len(first.classes)} ({first.classes[0]}, ...). Only sets of the same "
                        f"classes can be compared.{advice}")
    if images.image_size != first.image_size:
        raise UserError(f"{name} has images of {images.image_size} px, {first_name} of "
                        f"{first.image_size} px. Only sets of one size can be compared.")
    if same:
        return images if images.classes == first.classes else images.ordered_as(first.classes)
    check_order(images, first)
    return images


def class_names(sets):
    """Class names in head order, of the first set that knows them; folder names otherwise."""
    known = [images.known_classes for images in sets.values() if images.known_classes]
    return known[0] if known else next(iter(sets.values())).classes


def choose_classes(wanted, names, most):
    """Indices of the classes wanted, by default of the first ten.

    Raises UserError for an unknown name and for more than `most` classes.
    """
    if not wanted:
        return list(range(min(10, len(names))))
    unknown = [name for name in wanted if name not in names]
    if unknown:
        listed = ", ".join([*names[:10], *(["..."] if names[10:] else [])])
        raise UserError(f"--classes {unknown[0]}: no such class. The classes are {listed}.")
    if len(wanted) > most:
        raise UserError(f"--classes: found {len(wanted)} names, expected at most {most}.")
    return [names.index(name) for name in wanted]


def of_class(images, label):
    """{number: index} of a class's images.

    The numbers are those in the files' names (class000_id003.jpg), or else places in the class.
    """
    indices = (images.labels == label).nonzero()[:, 0].tolist()
    numbers = image_numbers([images.paths[index] for index in indices])
    return dict(zip(numbers, indices, strict=True))


def open_with_network(options):
    """What figures of features start from: (sets, class names, network, device).

    options: a class of report.options with sets, features, weights and run.
    """
    distributed.set_threads(options.run.threads)
    device = distributed.choose_device(options.run.device)
    name = options.features.network
    check_name(name)

    sets = open_sets(dict(options.sets.runs), options.run.workers)
    size = next(iter(sets.values())).image_size
    teachers = load_teachers([name], options.weights.teacher_weights, None, device, size)
    return sets, class_names(sets), teachers[name], device


def features(images, indices, network, device, progress=None):
    """Penultimate features of some images of a set: float32 [n, D] on the CPU.

    The other arguments are those of outputs. network: in eval mode, on device.
    """
    return outputs(images, indices, network.features, device, progress)


@torch.no_grad()
def outputs(images, indices, function, device, progress=None):
    """What a network makes of some images of a set, decoded a batch at a time.

    function: float images [n, 3, S, S] in ImageNet's mean and std -> [n, ...], on device.
    progress: a bar to move. Returns a tensor on the CPU.
    """
    parts = []
    for part in torch.as_tensor(indices).split(BATCH):
        pixels = images.pixels(part, progress)
        parts.append(function(normalise(pixels.to(device))).cpu())
    return torch.cat(parts)
