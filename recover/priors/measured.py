"""Statistics of a teacher's layers, measured on training images once and kept in a file."""

import hashlib
import json
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from data.names import flip_probability
from models.evaluate import eval_mode
from models.networks import file_stem, fingerprint
from models.training_data import FolderBatches
from recover.priors.layers import LayerTaps, calibrated_layers, convolution_layers, stacked
from utils import checkpoint
from utils.errors import UserError
from utils.files import check_writable, damaged
from utils.progress import progress_bar
from utils.seeding import stream

LAYERS = {"calibrated": calibrated_layers, "convolution": convolution_layers}
BATCH = 256  # G-VBSM averages statistics of batches of 256
_FORWARD = 64  # images in a forward; a batch's statistics follow from those of its images
_KEY = ("statistics",)


@dataclass(frozen=True)
class Targets:
    """What a network's statistics are aligned to.

    layout: (layer name, "channels" or "patches", length) of each term; lengths sum to M.
    overall: float32 [2, M], all means, then all variances, in the order of the layout.
    classes: float32 [K, 2, M], the same of each class, or None.
    """

    layout: list
    overall: torch.Tensor
    classes: torch.Tensor | None = None

    def lengths(self):
        return [length for *_, length in self.layout]


def settle(network, kind, real, folder, matching, device):
    """Targets of a network: read from `folder`, or measured on training images and kept there.

    network: models.networks.Network, on `device`. kind: "calibrated" (networks without BatchNorm)
    or "convolution" (G-VBSM). real: ImageSet of the training images. matching:
    recover.options.Matching. The file's name carries a hash of weights, images and options, so
    another network or other images have another file. Raises UserError for a damaged file, a
    network without layers to match, fewer images than classes, a folder that cannot be written.
    """
    by_class = kind == "convolution" and matching.class_statistics > 0
    count = matching.statistics_images if matching.statistics_images < len(real) else 0
    identity = {
        "network": fingerprint(network), "images": real.contents_hash(),
        "image_size": real.image_size, "flips": real.flips, "kind": kind, "count": count,
        "class_statistics": by_class, "batch": BATCH, "key": list(_KEY)}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    path = folder / f"{file_stem(network.name)}.{kind}.{digest[:12]}.safetensors"

    if not path.exists():
        check_images(real, matching)
        check_writable(folder)  # a pass over all images may take an hour
        targets = _measure_images(network, kind, real, count, by_class, device)
        tensors = {"overall": targets.overall}
        if by_class:
            tensors["classes"] = targets.classes
        checkpoint.save_tensors(path, tensors, {"identity": identity, "layout": targets.layout})
    return _read(path, identity)


def check_images(real, matching):
    """Raise UserError where statistics of classes are wanted and not all would have an image."""
    by_class = matching.match == "convolution" and matching.class_statistics > 0
    if by_class and 0 < matching.statistics_images < len(real.classes):
        raise UserError(f"--statistics-images {matching.statistics_images}: statistics of "
                        f"{len(real.classes)} classes cannot be measured on "
                        f"{matching.statistics_images} images. Give at least one image per class, "
                        "or 0 for all.")


def _read(path, identity):
    tensors, about = checkpoint.load_tensors(path)
    if about.get("identity") != identity:
        raise damaged(path, "recover", "it does not hold the statistics that its name says")
    return Targets([tuple(term) for term in about["layout"]], tensors["overall"],
                   tensors.get("classes"))


def _measure_images(network, kind, real, count, by_class, device):
    """Targets measured on `count` images (0: all), with those of classes where by_class is set."""
    layers = LAYERS[kind](network)
    if not layers:
        raise UserError(f"{network.name}: has no layer whose statistics could be matched ({kind}). "
                        "Leave it out of the BN teachers.")

    indices = choose_images(real.by_class, count)
    flip_prob = flip_probability(real.dataset)
    batches = FolderBatches(real, BATCH, flip_prob, torch.device(device), real.workers, indices)
    classes = len(real.classes) if by_class else 0
    with progress_bar(len(indices), f"{network.name}: {kind} statistics", " images") as bar:
        targets = measure(network, layers, batches.epoch(_KEY), classes, bar)
    if not torch.isfinite(targets.overall).all():
        raise UserError(f"{network.name}: its {kind} statistics are not finite. Are its weights "
                        "damaged?")
    return targets


def choose_images(by_class, count):
    """Indices of `count` training images (0: all) in the order in which they are seen: int64.

    by_class: indices of each class, int64 tensors. Classes give equal numbers of images, and a
    class that runs short gives all it has. Which images these are, which classes give one more and
    the order are drawn once for all.
    """
    generator = stream(*_KEY, "images")
    shuffled = [images[torch.randperm(len(images), generator=generator)] for images in by_class]
    turn = torch.cat([torch.arange(len(images)) for images in shuffled])  # place within its class
    chosen = torch.cat(shuffled)

    if 0 < count < len(chosen):
        order = torch.randperm(len(chosen), generator=generator)
        chosen = chosen[order[turn[order].argsort(stable=True)[:count]]]
    return chosen[torch.randperm(len(chosen), generator=generator)]


@torch.no_grad()
def measure(network, layers, batches, class_count=0, progress=None):
    """Targets from batches of (normalised images, labels).

    Their overall statistics are within-batch means and biased variances, averaged over batches with
    the batches' sizes as weights (G-VBSM). BatchNorm layers have their running statistics instead.
    With class_count > 0, the statistics of a class are means and biased variances of single images,
    averaged over the images of the class (EDC). Memory does not grow with the number of batches.
    """
    total = 0
    with eval_mode(network), LayerTaps(network, layers) as taps:
        for x, labels in batches:
            parts = [taps(part, [1] * len(part))[1] for part in x.split(_FORWARD)]
            values = torch.cat([stacked(segments) for segments in parts])  # of each image
            if not total:
                layout = [(s.name, s.term, s.mean.shape[1]) for s in parts[0]]
                overall = torch.zeros_like(values[0], dtype=torch.float64)
                classes = values.new_zeros(class_count, *overall.shape)
                counts = values.new_zeros(class_count, 1, 1)

            total += len(x)
            overall += len(x) * batch_statistics(values.double())
            if class_count:
                _add_to_classes(classes, counts, values, labels)
            if progress is not None:
                progress.update(len(x))

    overall = _with_running_statistics((overall / total).float(), layers, layout)
    return Targets(layout, overall.cpu(), (classes / counts).cpu() if class_count else None)


def batch_statistics(values):
    """Mean and biased variance of a batch, [2, M], from those of its images, [n, 2, M].

    The images have equal numbers of values.
    """
    mean, var = values.unbind(1)
    return torch.stack([mean.mean(0), var.mean(0) + mean.var(0, correction=0)])


def _add_to_classes(classes, counts, values, labels):
    """Add statistics of images [n, 2, M] to the sums of their classes [K, 2, M], in place."""
    present, row = labels.unique(return_inverse=True)
    # A product of matrices, since adding by index has no fixed order on a GPU.
    member = F.one_hot(row).t().to(values)
    classes[present] += (member @ values.flatten(1)).view(-1, *values.shape[1:])
    counts[present] += member.sum(1).view(-1, 1, 1)


def _with_running_statistics(overall, layers, layout):
    """Measured statistics [2, M] with the running ones in the place of BatchNorm layers'."""
    modules = {layer.name: layer.module for layer in layers}
    lengths, terms = [length for *_, length in layout], []
    for (name, *_), term in zip(layout, overall.split(lengths, 1), strict=True):
        module = modules[name]
        if getattr(module, "running_mean", None) is not None:
            term = torch.stack([module.running_mean, module.running_var])
        terms.append(term)
    return torch.cat(terms, 1)
