"""Alignment to statistics of BatchNorm layers and convolutions (G-VBSM), and of classes (EDC)."""

import torch

from recover.priors.layers import LayerTaps, convolution_layers, stacked


class ConvolutionAlignment:
    """Logits of a batch and the distance of its statistics from a teacher's targets.

        with ConvolutionAlignment(network, targets, matching, 10.0, arithmetic) as alignment:
            logits, distances = alignment(x, parts)

    targets: of recover.priors.measured.settle with kind "convolution". matching:
    recover.options.Matching, of which statistics_ema, class_statistics and class_patches are read.
    first_layer_weight: factor on all terms of the first layer, the stem convolution (G-VBSM: 10).
    arithmetic: how the network runs; statistics and distances are at least float32.
    layers: number of layers matched. logits(x): the answer of `network` alone.
    """

    def __init__(self, network, targets, matching, first_layer_weight, arithmetic):
        self.network, self._taps = network, LayerTaps(network, convolution_layers(network))
        self.layers = len(self._taps.layers)
        self.logits, self._run = arithmetic.of(network), arithmetic.of(self._measure)

        device = next(network.parameters()).device
        first_layer = targets.layout[0][0]
        weights = [first_layer_weight if name == first_layer else 1.0
                   for name, *_ in targets.layout]
        self._lengths, self._weights = targets.lengths(), torch.tensor(weights, device=device)
        self._overall = targets.overall.to(device)

        self._ema, self._class_share = matching.statistics_ema, matching.class_statistics
        if self._class_share:
            self._classes = targets.classes.to(device)
            if matching.class_patches == "swapped":
                self._classes = swap_patches(self._classes, targets.layout)

    def __enter__(self):
        self._taps.__enter__()
        return self

    def __exit__(self, *error):
        self._taps.__exit__(*error)

    def __call__(self, x, parts):
        """Logits [n, K] and distances [U], differentiable with respect to x.

        x: float [n, 3, S, S], images of U units one after the other. parts: per unit an object with
        its number of images (len), their labels (int64 tensor) and the memory of this teacher for
        the unit (a dict, empty at first, filled here where statistics are smoothed).

        G-VBSM keeps one memory from image batch to image batch. With one per unit, units depend
        neither on each other nor on the order of the work. What is forgotten weighs ema^t after t
        steps of this teacher: below 1e-4 after 11 steps for 0.4, after 42 steps for 0.8.
        """
        logits, values = self._run(x, tuple(len(part) for part in parts))
        if self._ema:
            values = torch.stack([smoothed(own, part.memory, self._ema)
                                  for own, part in zip(values, parts, strict=True)])

        distances = self._distance(values, self._overall)
        if self._class_share:
            target = torch.stack([class_target(self._classes, part.labels) for part in parts])
            to_classes = self._distance(values, target)
            distances = (1 - self._class_share) * distances + self._class_share * to_classes
        return logits, distances

    def _measure(self, x, sizes):
        logits, segments = self._taps(x, sizes)
        return logits, stacked(segments)

    def _distance(self, values, target):
        return weighted_norms(values - target, self._lengths, self._weights)


def weighted_norms(differences, lengths, weights):
    """Sum over terms of w (||mean difference||_2 + ||var difference||_2), not squared (G-VBSM).

    differences: [U, 2, M], means then variances. lengths: how M is divided into terms. weights: w,
    one per term. Returns [U].
    """
    norms = torch.stack([torch.linalg.vector_norm(term, dim=2)
                         for term in differences.split(lengths, 2)], 2)
    return (norms * weights).sum((1, 2))


def smoothed(values, memory, ema):
    """G-VBSM's statistics s_ema + (s - detach(s)), after s_ema = ema * s_ema + (1 - ema) * s.

    So the value is smoothed and the gradient is that of s. values: s. memory: a dict that keeps
    s_ema, which starts at 0.
    """
    now = values.detach()
    past = memory["statistics"] if "statistics" in memory else torch.zeros_like(now)
    memory["statistics"] = ema * past + (1 - ema) * now
    return memory["statistics"] + (values - now)


def class_target(classes, labels):
    """What a unit is compared with class-wise (EDC): the average of its images' class targets.

    classes [K, 2, M], labels int64 [n]. Returns [2, M]. A unit of several classes has one distance,
    of its statistics to this average, not one per class.
    """
    return classes[labels].mean(0)


def swap_patches(classes, layout):
    """Class targets [K, 2, M] with means and variances of patches exchanged, as EDC's code ran."""
    terms = classes.split([length for *_, length in layout], 2)
    return torch.cat([values.flip(1) if term == "patches" else values
                      for values, (_, term, _) in zip(terms, layout, strict=True)], 2)
