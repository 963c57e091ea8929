"""Statistics of a teacher's layers, measured on training images once, stored, found again."""

import hashlib
import json
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from models.evaluate import eval_mode
from models.networks import file_stem, fingerprint
from models.training_data import FolderBatches
from recover.priors.layers import LayerTaps, calibrated_layers, convolution_layers, stacked
from utils import checkpoint
from utils.errors import UserError
from utils.files import check_writable
from utils.progress import progress_bar
from utils.seeding import stream

KINDS = {"calibrated": calibrated_layers, "convolution": convolution_layers}
BATCH = 256  # G-VBSM: statistics are of batches of 256 and then averaged
_AT_ONCE = 64  # images per forward; a batch's statistics follow from its images', so this only saves memory
_KEY = ("statistics",)


@dataclass(frozen=True)
class Targets:
    """What a net's statistics are aligned to.

    layout: (layer name, "channels" or "patches", length) in the order in which the numbers lie; lengths sum to M.
    overall: float32 [2, M], all means, then all variances. classes: float32 [K, 2, M] per class, or None.
    """

    layout: list
    overall: torch.Tensor
    classes: torch.Tensor | None = None

    def lengths(self):
        return [length for *_, length in self.layout]


def settle(network, kind, real, folder, images=0, device="cpu", workers=0, class_statistics=False):
    """Targets of a network on training images: read from `folder`, or measured and stored there.

    network: models.networks.Network, on `device`. kind: "calibrated" (nets without BatchNorm) or "convolution" (G-VBSM).
    real: data.datasets.RealImages, the training images. images: so many of them, all classes alike, or 0 for all.
    class_statistics: with those of each class (EDC). BatchNorm layers have their running statistics as targets.
    The file's name carries a hash of weights, images and options, so another net or other images have another file.
    Raises UserError for a damaged file, a net without layers to match, fewer images than classes, a folder not to be written.
    """
    identity = {"network": fingerprint(network), "images": real.fingerprint(), "image_size": real.image_size, "flips": real.flips,
                "kind": kind, "count": images if 0 < images < len(real) else 0, "class_statistics": class_statistics,
                "batch": BATCH, "key": _KEY}
    identity = json.loads(json.dumps(identity))  # as in the file
    short = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    path = folder / f"{file_stem(network.name)}.{kind}.{short}.safetensors"
    if path.exists():
        return _read(path, identity)
    layers = KINDS[kind](network)
    if not layers:
        raise UserError(f"{network.name}: has no layer whose statistics could be matched ({kind}). Leave it out of the BN "
                        "teachers.")
    check_images(real, images, class_statistics)
    check_writable(folder)  # a pass over all images may take an hour
    indices = choose_images(real.by_class, images)
    batches = FolderBatches(real, BATCH, real.flips, torch.device(device), workers, indices).epoch(_KEY)
    with progress_bar(len(indices), f"{network.name}: {kind} statistics", " images") as bar:
        targets = measure(network, layers, batches, len(real.classes) if class_statistics else 0, bar)
    if not torch.isfinite(targets.overall).all():
        raise UserError(f"{network.name}: its {kind} statistics are not finite. Are its weights damaged?")
    tensors = {"overall": targets.overall} | ({"classes": targets.classes} if class_statistics else {})
    checkpoint.save_tensors(path, tensors, {"identity": identity, "layout": targets.layout})
    return _read(path, identity)


def check_images(real, images, class_statistics):
    """Raise UserError when statistics of classes are asked for and not every class would have an image."""
    if class_statistics and 0 < images < len(real.classes):
        raise UserError(f"--statistics-images {images}: statistics of {len(real.classes)} classes cannot be measured on {images} "
                        "images. Give at least one image per class, or 0 for all.")


def _read(path, identity):
    tensors, about = checkpoint.load_tensors(path)
    layout = [tuple(part) for part in about.get("layout", [])]
    shape = (2, sum(length for *_, length in layout))
    overall, classes = tensors.get("overall"), tensors.get("classes")
    whole = overall is not None and overall.shape == shape and (classes is not None) == identity["class_statistics"]
    if about.get("identity") != identity or not whole or (classes is not None and classes.shape[1:] != shape):
        raise UserError(f"{path}: does not hold the statistics that its name says. Remove it; they are measured again.")
    return Targets(layout, overall, classes)


def choose_images(by_class, count):
    """Indices of `count` training images (0: all) in the order in which they are seen: int64.

    by_class: indices of each class. Of each class equally many, a class that runs short giving all it has; which ones, which
    classes give one more, and the order are drawn once for all.
    """
    generator = stream(*_KEY, "images")
    orders = [torch.as_tensor(own)[torch.randperm(len(own), generator=generator)] for own in by_class]
    turn = torch.cat([torch.arange(len(own)) for own in orders])  # an image's place within its class
    chosen = torch.cat(orders)
    if 0 < count < len(chosen):
        shuffled = torch.randperm(len(chosen), generator=generator)
        chosen = chosen[shuffled[turn[shuffled].argsort(stable=True)[:count]]]
    return chosen[torch.randperm(len(chosen), generator=generator)]


@torch.no_grad()
def measure(network, layers, batches, class_count=0, bar=None):
    """Targets from (normalised images, labels) batches; memory does not grow with their number.

    overall: average over batches, weighted by their size, of within-batch means and biased variances (G-VBSM), but running
    statistics for BatchNorm layers. classes, if class_count > 0: average over a class's images of the image's own mean and
    biased variance (EDC).
    """
    overall = classes = counts = layout = None
    total = 0
    with eval_mode(network), LayerTaps(network, layers) as taps:
        for x, labels in batches:
            parts = [taps(part, [1] * len(part))[1] for part in x.split(_AT_ONCE)]
            layout = layout or [(s.name, s.term, s.mean.shape[1]) for s in parts[0]]
            values = torch.cat([stacked(part) for part in parts])
            if overall is None:
                overall = torch.zeros_like(values[0], dtype=torch.float64)
                if class_count:
                    classes, counts = values.new_zeros(class_count, *values.shape[1:]), values.new_zeros(class_count, 1, 1)
            overall += len(x) * of_batch(values.double())
            if class_count:
                present, row = labels.unique(return_inverse=True)
                member = F.one_hot(row).t().to(values)  # a product of matrices: adding by index has no fixed order on a GPU
                classes[present] += (member @ values.flatten(1)).view(-1, *values.shape[1:])
                counts[present] += member.sum(1).view(-1, 1, 1)
            total += len(x)
            if bar is not None:
                bar.update(len(x))
    overall = _with_running((overall / total).float(), layers, layout).cpu()
    return Targets(layout, overall, None if classes is None else (classes / counts).cpu())


def of_batch(values):
    """Mean and biased variance of a batch [2, M] from those of its images [n, 2, M], which have equally many values each."""
    mean, var = values.unbind(1)
    return torch.stack([mean.mean(0), var.mean(0) + mean.var(0, correction=0)])


def _with_running(overall, layers, layout):
    """Measured statistics with the running ones in the place of BatchNorm layers'."""
    modules = {layer.name: layer.module for layer in layers}
    parts = []
    for (name, *_), part in zip(layout, overall.split([length for *_, length in layout], 1), strict=True):
        running = getattr(modules[name], "running_mean", None)
        parts.append(part if running is None else torch.stack([running, modules[name].running_var]))
    return torch.cat(parts, 1)
