"""Alignment to statistics of BatchNorm layers and convolutions, smoothed over steps (G-VBSM), and to those of classes (EDC)."""

import torch

from recover.priors.layers import LayerTaps, convolution_layers, stacked
from utils.precision import Arithmetic

CLASS_PATCHES = ("straight", "swapped")


class ConvolutionAlignment:
    """Distance of a batch's statistics from a net's targets, gathered in the forward that gives the logits.

        with ConvolutionAlignment(network, targets) as alignment:
            logits, distances = alignment(x, sizes, labels, memories)

    targets: of recover.priors.measured.settle(..., kind="convolution"), with class statistics if class_weight > 0.
    first_layer_weight: factor on all terms of the first layer, which is the stem convolution (G-VBSM: 10).
    ema: weight of the past in the batch's statistics (G-VBSM 0.4, EDC 0.8; 0: no memory).
    class_weight: w in (1 - w) * distance to global statistics + w * distance to class statistics (EDC: 0.5).
    class_patches: "swapped" compares patch means with the classes' patch variances and back, as EDC's code ran.
    arithmetic: how the net runs; statistics and distances are at least float32.
    layers: number of layers matched. logits(x): the net's answer alone.
    """

    def __init__(self, network, targets, first_layer_weight=10.0, ema=0.0, class_weight=0.0, class_patches="straight",
                 arithmetic=Arithmetic()):  # noqa: B008 - frozen
        if class_patches not in CLASS_PATCHES:
            raise ValueError(f"class_patches {class_patches!r}: expected one of {', '.join(CLASS_PATCHES)}")
        if class_weight and targets.classes is None:
            raise ValueError("class_weight needs targets with class statistics")
        device = next(network.parameters()).device
        self._taps = LayerTaps(network, convolution_layers(network))
        self.logits, self._run = arithmetic.of(network), arithmetic.of(self._measure)
        self.layers = len(self._taps.layers)
        self._lengths, self._ema, self._class_weight = targets.lengths(), ema, class_weight
        self._overall = targets.overall.to(device)
        self._weights = torch.tensor([first_layer_weight if name == targets.layout[0][0] else 1.0 for name, *_ in targets.layout],
                                     device=device)
        if class_weight:
            self._classes = targets.classes.to(device)
            if class_patches == "swapped":
                self._classes = swap_patches(self._classes, targets.layout)

    def __enter__(self):
        self._taps.__enter__()
        return self

    def __exit__(self, *error):
        self._taps.__exit__(*error)

    def __call__(self, x, sizes, labels, memories):
        """x: float [n, 3, S, S], images of U units one after the other. sizes: U ints. labels: U int64 tensors.

        memories: U dicts {str: tensor}, a unit's own for this net, empty at its start; filled here when ema > 0. (The source
        keeps one memory from image batch to image batch; with one per unit, units stay independent of each other and of the
        order of the work. What is forgotten weighs ema^t after t steps of this net: below 1e-4 after 11 with
        0.4, after 42 with 0.8.)
        Returns logits [n, K] and distances [U], differentiable with respect to x.
        """
        logits, values = self._run(x, tuple(sizes))
        if self._ema:
            values = torch.stack([smoothed(own, memory, self._ema) for own, memory in zip(values, memories, strict=True)])
        distances = self._distance(values, self._overall)
        if self._class_weight:
            own = torch.stack([class_target(self._classes, found) for found in labels])
            distances = (1 - self._class_weight) * distances + self._class_weight * self._distance(values, own)
        return logits, distances

    def _measure(self, x, sizes):
        logits, segments = self._taps(x, sizes)
        return logits, stacked(segments)

    def _distance(self, values, target):
        return weighted_norms(values - target, self._lengths, self._weights)


def weighted_norms(differences, lengths, weights):
    """Sum over layers of w_l (||mean difference||_2 + ||var difference||_2), norms not squared (G-VBSM).

    differences [U, 2, M]; lengths: of the parts of M; weights: one per part. Returns [U].
    """
    norms = torch.stack([torch.linalg.vector_norm(part, dim=2) for part in differences.split(lengths, 2)], 2)
    return (norms * weights).sum((1, 2))


def smoothed(values, memory, ema):
    """G-VBSM's statistics: s_ema = ema * s_ema + (1 - ema) * s, updated first; used is s_ema + (s - detach(s)).

    So the value is smoothed and the gradient is that of s. memory: dict that holds s_ema, which starts at 0.
    """
    now = values.detach()
    past = memory["statistics"].to(now.device) if "statistics" in memory else torch.zeros_like(now)
    memory["statistics"] = ema * past + (1 - ema) * now
    return memory["statistics"] + (values - now)


def class_target(classes, labels):
    """What a batch is compared with class-wise (EDC): the average of its images' class targets.

    classes [K, 2, M], labels int64 [n]. Returns [2, M]. With several classes in a batch there is one distance, of the batch's
    statistics to this average, not one per class.
    """
    return classes[labels.to(classes.device)].mean(0)


def swap_patches(classes, layout):
    """Class targets [K, 2, M] with means and variances of patches exchanged, as EDC's code ran."""
    parts = classes.split([length for *_, length in layout], 2)
    return torch.cat([part.flip(1) if term == "patches" else part
                      for part, (_, term, _) in zip(parts, layout, strict=True)], 2)
