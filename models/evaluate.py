"""Top-1 and top-5 of a network on real images."""

import contextlib

import torch

from data.augment import to_device
from data.images import normalise
from report.metrics import hits_in_top
from utils.progress import progress_bar


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
    """Accuracy on images that are already cropped to the network's size.

    pixels: uint8 [N, 3, S, S], on any device, or mapped from a file. labels: int64 [N], index into the head. progress: text of a
    bar, None for none.
    ranks: processes that share the batches out (rank, count, sum(tensor) over them), each of which gets the result of all.
    Returns {"top1": per cent, "top5": per cent, "count": N}. With fewer than five classes top-5 is 100.
    """
    labels = to_device(torch.as_tensor(labels), device)
    hits = torch.zeros(2, dtype=torch.int64, device=device)  # read at the end: no batch waits for the one before
    first, every = (0, 1) if ranks is None else (ranks.rank, ranks.count)
    bar = contextlib.nullcontext() if progress is None else progress_bar(len(pixels), progress, " images", leave=False)
    with eval_mode(network), bar:
        for start in range(first * batch_size, len(pixels), every * batch_size):
            part = pixels[start : start + batch_size]
            logits = network(normalise(part if part.is_cuda else to_device(part, device)))
            hits += hits_in_top(logits, labels[start : start + batch_size])
            if progress is not None:
                bar.update(every * len(logits))
    hits = hits if ranks is None else ranks.sum(hits)
    count, (top1, top5) = len(pixels), hits.tolist()
    return {"top1": 100 * top1 / count, "top5": 100 * top5 / count, "count": count}


def dataset_accuracy(network, images, device, workers=4, batch_size=250, progress=None, at_once=5000):
    """accuracy on a whole data.datasets.RealImages, decoded `at_once` images at a time so that memory stays flat."""
    top1 = top5 = 0.0
    for start in range(0, len(images), at_once):
        index = range(start, min(start + at_once, len(images)))
        part = accuracy(network, images.pixels(index, workers), torch.from_numpy(images.labels[start : index.stop]), device,
                        batch_size, progress)
        top1, top5 = top1 + part["top1"] * len(index), top5 + part["top5"] * len(index)
    return {"top1": top1 / len(images), "top5": top5 / len(images), "count": len(images)}
