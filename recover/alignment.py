"""What a teacher says about units of images: its logits, and how far their statistics are off.

An alignment is a context manager:

    with alignment:
        logits, distances = alignment(x, parts)

x: float [n, 3, S, S], the images of U units one after the other. parts: the U units, each with its
length, labels and memory (recover.gradient.Part). logits [n, C]; distances [U], None for a network
without matched layers. `layers` is their number, logits(x) the network's answer alone, and
`network` the network.
"""

from pathlib import Path

import torch

from models.bn_statistics import BatchNormStatistics, has_batch_norm
from models.teachers import weights_folder
from recover.losses import bn_distance
from recover.priors.convolution import ConvolutionAlignment
from recover.priors.layers import CalibratedStatistics
from recover.priors.measured import settle
from utils import distributed
from utils.precision import Arithmetic


class NormAlignment:
    """Alignment to a network's BatchNorm statistics (paper Eq. 3).

    taps: what gathers the statistics, by default those of BatchNorm2d layers; CalibratedStatistics
    for networks that have none. arithmetic: how the network runs; statistics and distances are at
    least float32.
    """

    def __init__(self, network, first_layer_weight=10.0, taps=None, arithmetic=None):
        self.network, self.taps = network, taps or BatchNormStatistics(network)
        self.layers, self.first_layer_weight = len(self.taps.layers), first_layer_weight
        arithmetic = arithmetic or Arithmetic()
        self.logits, self._run = arithmetic.of(network), arithmetic.of(self._measure)

    def __enter__(self):
        self.taps.__enter__()
        return self

    def __exit__(self, *error):
        self.taps.__exit__(*error)

    def __call__(self, x, parts):
        return self._run(x, tuple(len(part) for part in parts))

    def _measure(self, x, sizes):
        logits, statistics = self.taps(x, sizes)
        return logits, bn_distance(statistics, self.first_layer_weight) if statistics else None


def has_layers(name, options):
    """Whether a network of this name has layers to align to; looked up without loading it."""
    return (options.matching.match == "convolution" or options.losses.without_bn == "calibrated"
            or has_batch_norm(name))


def measured_kind(name, options):
    """Which measured statistics a BN teacher needs: "convolution", "calibrated", or None."""
    if options.matching.match == "convolution":
        return "convolution"
    calibrated = options.losses.without_bn == "calibrated" and not has_batch_norm(name)
    return "calibrated" if calibrated else None


def build_alignments(networks, bn_teachers, options, real, device):
    """{name: alignment} of all networks that guide.

    bn_teachers: names of those that may be BN teachers. real: ImageSet of the training images, on
    which statistics that are not stored yet are measured now, in fp32. Under torchrun every rank
    must call this: networks are shared out.
    """
    folder = options.matching.statistics_dir or weights_folder(options.run.teacher_weights)
    folder = folder or Path(torch.hub.get_dir(), "checkpoints")
    kinds = {name: measured_kind(name, options) for name in networks if name in bn_teachers}
    measured = [name for name, kind in kinds.items() if kind]

    def targets(name):
        return settle(networks[name], kinds[name], real, folder, options.matching, device)

    for name in distributed.my_share(measured):
        targets(name)
    if measured:
        # A rank of another machine that does not see this folder measures for itself below.
        distributed.barrier()

    weight, arithmetic, alignments = (options.losses.first_bn_multiplier, options.arithmetic, {})
    for name, network in networks.items():
        kind = kinds.get(name)
        if kind == "convolution":
            alignments[name] = ConvolutionAlignment(network, targets(name), options.matching,
                                                    weight, arithmetic)
        else:
            taps = CalibratedStatistics(network, targets(name)) if kind else None
            alignments[name] = NormAlignment(network, weight, taps, arithmetic)
    return alignments
