"""Top-1 and top-5 of a network on real images."""

import contextlib

import torch

from data.augment import to_device
from data.images import normalise
from utils.progress import progress_bar

_AT_ONCE = 5000  # decoded images of a dataset that lie in memory
_ACCURACY_IMAGES = 1000  # on which a quick look measures a network, about


def first_of_each_class(images):
    """Indices of the first image of every class of an ImageSet, then the second, up to about 1000.

    Whole rounds over the classes are taken, so no class counts more than another that has as many.
    """
    indices, depth = [], 0
    while len(indices) < _ACCURACY_IMAGES and depth < max(map(len, images.by_class)):
        indices += [int(numbers[depth]) for numbers in images.by_class if len(numbers) > depth]
        depth += 1
    return indices


def least_accuracy(classes):
    """Top-1 in per cent below which a network is near chance: a tenth of the way up to 100."""
    chance = 100 / classes
    return chance + (100 - chance) / 10


@contextlib.contextmanager
def eval_mode(network):
    """Eval mode inside the block; afterwards every module is in the mode it was in."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield network
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def accuracy(network, pixels, labels, device, batch_size=250, progress=None, ranks=None):
    """Accuracy on images that have the network's size.

    pixels: uint8 [N, 3, S, S] on any device. labels: int64 [N], index into the head. progress:
    text of a bar, None for none. ranks: processes that share the batches (rank, count, sum(tensor)
    over them), each of which gets the result of all.
    Returns {"top1": per cent, "top5": per cent, "count": N}. With fewer than five classes top-5 is
    100.
    """
    labels = to_device(labels, device)
    hits = torch.zeros(2, dtype=torch.int64, device=device)  # read once, so no batch is waited for
    rank, count = (0, 1) if ranks is None else (ranks.rank, ranks.count)
    bar = (contextlib.nullcontext() if progress is None
           else progress_bar(len(pixels), progress, " images", leave=False))

    with eval_mode(network), bar:
        for start in range(rank * batch_size, len(pixels), count * batch_size):
            part = pixels[start : start + batch_size]
            logits = network(normalise(part if part.is_cuda else to_device(part, device)))
            hits += _hits(logits, labels[start : start + batch_size])
            if progress is not None:
                bar.update(count * len(logits))

    top1, top5 = (hits if ranks is None else ranks.sum(hits)).tolist()
    images = len(pixels)
    return {"top1": 100 * top1 / images, "top5": 100 * top5 / images, "count": images}


def _hits(logits, labels):
    """How many labels [n] are the largest logit [n, C], and among the five largest: int64 [2]."""
    hits = logits.topk(min(5, logits.shape[1])).indices.eq(labels.view(-1, 1))
    return torch.stack([hits[:, 0].sum(), hits.sum()])


def dataset_accuracy(network, images, device, progress=None):
    """accuracy on a whole ImageSet, decoded in parts so that memory stays flat."""
    parts = []
    for start in range(0, len(images), _AT_ONCE):
        index = range(start, min(start + _AT_ONCE, len(images)))
        labels = images.labels[index.start : index.stop]
        parts.append(accuracy(network, images.pixels(index), labels, device, progress=progress))

    count = len(images)
    top1, top5 = (sum(part[k] * part["count"] for part in parts) / count for k in ("top1", "top5"))
    return {"top1": top1, "top5": top5, "count": count}
