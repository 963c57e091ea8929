"""Accuracy and diversity."""

import torch
import torch.nn.functional as F


def hits_in_top(logits, labels, ks=(1, 5)):
    """How many of the labels [n] are among the k largest logits [n, C], for each k (k above C counts as C): int64 [len(ks)] on the
    logits' device."""
    largest = min(max(ks), logits.shape[1])
    hits = logits.topk(largest, dim=1).indices.eq(labels.view(-1, 1))
    return torch.stack([hits[:, : min(k, largest)].any(1).sum() for k in ks])


def intra_class_cosine(features, labels):
    """Mean cosine similarity over all pairs within a class, averaged over classes (paper Fig. 4).

    features: [n, D], ResNet-18's penultimate layer in the paper; labels: int [n]. Returns {class: mean over its pairs}
    and the mean over classes. Classes with fewer than two images have no pairs and are left out; none at all gives nan.
    """
    features = F.normalize(features.double(), dim=1)
    per_class = {}
    for c in torch.unique(labels).tolist():
        own = features[labels == c]
        n = len(own)
        if n > 1:  # the sum over all ordered pairs is |sum of unit vectors|^2; n of them are an image with itself
            per_class[c] = float((own.sum(0).square().sum() - n) / (n * (n - 1)))
    mean = sum(per_class.values()) / len(per_class) if per_class else float("nan")
    return per_class, mean
