"""What a teacher has to say about a batch: its logits, and how far the batch's statistics are from natural ones."""

from pathlib import Path

import torch

from models.bn_statistics import BatchNormStatistics, has_batch_norm
from models.teachers import weights_folder
from recover.losses import bn_alignment
from recover.priors.convolution import ConvolutionAlignment
from recover.priors.layers import CalibratedStatistics
from recover.priors.measured import settle
from utils import distributed
from utils.precision import Arithmetic

PLAIN = Arithmetic()


class NormAlignment:
    """Alignment to a net's BatchNorm statistics (paper Eq. 3), or to measured ones where it has no BatchNorm.

        with NormAlignment(network, first_layer_weight) as alignment:
            logits, distances = alignment(x, sizes, labels, memories)

    x: float [n, 3, S, S], images of U units one after the other; sizes: images of each. labels and memories are for other
    kinds of alignment, which share this protocol. distances [U] are None for a net without matched layers. `layers`: their
    number. logits(x): the net's answer alone. taps: what gathers the statistics (default: of BatchNorm2d). arithmetic: how the
    net runs; statistics and distances are at least float32.
    """

    def __init__(self, network, first_layer_weight=10.0, taps=None, arithmetic=PLAIN):
        self.taps, self.first_layer_weight = taps or BatchNormStatistics(network), first_layer_weight
        self.layers = len(self.taps.layers)
        self.logits, self._run = arithmetic.of(network), arithmetic.of(self._measure)

    def __enter__(self):
        self.taps.__enter__()
        return self

    def __exit__(self, *error):
        self.taps.__exit__(*error)

    def __call__(self, x, sizes, labels=None, memories=None):  # noqa: ARG002 - the protocol
        return self._run(x, tuple(sizes))

    def _measure(self, x, sizes):
        logits, statistics = self.taps(x, sizes)
        return logits, bn_alignment(statistics, self.first_layer_weight) if statistics else None


def has_layers(name, settings):
    """Whether a net of this name has layers to align to; looked up without loading it."""
    return settings["match"] == "convolution" or settings["without_bn"] == "calibrated" or has_batch_norm(name)


def statistics_kind(name, settings):
    """Which measured statistics a BN teacher needs: "convolution", "calibrated", or None for its own running ones."""
    if settings["match"] == "convolution":
        return "convolution"
    return "calibrated" if settings["without_bn"] == "calibrated" and not has_batch_norm(name) else None


def statistics_folder(teacher_weights, statistics_dir=None):
    """Where measured statistics are kept: the folder given, the weights' folder, or where torchvision keeps its weights."""
    return statistics_dir or weights_folder(teacher_weights) or Path(torch.hub.get_dir(), "checkpoints")


def build_alignments(networks, bn_teachers, settings, real, folder, device, workers, arithmetic=PLAIN):
    """{name: NormAlignment or ConvolutionAlignment} for all nets that guide.

    bn_teachers: names of those that may be BN teachers. real: the training images. folder: of measured statistics, which are
    measured now where they are not there yet (in fp32). Under torchrun every rank must call this: nets are shared out.
    arithmetic: how the nets run while they guide.
    """
    kinds = {name: statistics_kind(name, settings) for name in networks if name in bn_teachers}
    measured = [name for name, kind in kinds.items() if kind]
    by_class = settings["match"] == "convolution" and settings["class_statistics"] > 0

    def targets(name):
        return settle(networks[name], kinds[name], real, folder, settings["statistics_images"], device, workers, by_class)

    for name in distributed.my_share(measured):
        targets(name)
    if measured:
        distributed.barrier()  # a rank of another machine that does not see this folder measures for itself
    first, found = settings["first_bn_multiplier"], {}
    for name, network in networks.items():
        if kinds.get(name) == "convolution":
            found[name] = ConvolutionAlignment(network, targets(name), first, settings["statistics_ema"],
                                               settings["class_statistics"], settings["class_patches"] or "straight", arithmetic)
        elif kinds.get(name) == "calibrated":
            found[name] = NormAlignment(network, first, CalibratedStatistics(network, targets(name)), arithmetic)
        else:
            found[name] = NormAlignment(network, first, arithmetic=arithmetic)
    return found
