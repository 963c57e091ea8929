"""Which layers of a network are matched, and hooks that gather their statistics in the forward."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from timm.layers import RmsNorm
from torch import nn

from models.bn_statistics import grouped_mean_var
from recover.priors.patches import convolution_statistics
from utils.errors import UserError
from utils.precision import full_precision

# timm's LayerNorm2d, GroupNorm1 and others are subclasses of these.
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, RmsNorm)


class Layer(NamedTuple):
    """A module whose statistics are matched.

    name: in network.named_modules(). end: "input" or "output", which of the two is measured.
    measure(module, z, sizes): [(term, mean [U, D], var [U, D]), ...].
    """

    name: str
    module: nn.Module
    end: str
    measure: Callable


class Segment(NamedTuple):
    """Statistics of one term at one layer.

    term: "channels" or "patches". mean, var: [U, D], per unit, the variance biased.
    """

    name: str
    term: str
    mean: torch.Tensor
    var: torch.Tensor


def calibrated_layers(network):
    """Layers that stand in for BatchNorm where a network has none (beyond the paper).

    These are the inputs of its LayerNorm, GroupNorm and RMSNorm layers (ConvNeXt, ViT, Swin), or
    the outputs of its convolutions where it has no such layers (AlexNet, VGG): both are what a
    BatchNorm layer would see. Returns a list of Layer in module order.
    """
    modules = list(network.named_modules())
    norms = [Layer(name, module, "input", _channels)
             for name, module in modules if isinstance(module, _NORMS)]
    return norms or [Layer(name, module, "output", _channels)
                     for name, module in modules if isinstance(module, nn.Conv2d)]


def convolution_layers(network):
    """G-VBSM's layers, a list of Layer in module order.

    These are the inputs of BatchNorm2d (channels) and of convolutions (channels and patches).
    """
    measures = ((nn.BatchNorm2d, _channels), (nn.Conv2d, _channels_and_patches))
    return [Layer(name, module, "input", measure) for name, module in network.named_modules()
            for kind, measure in measures if isinstance(module, kind)]


def _channels_and_patches(_, z, sizes):
    mean, var, patch_mean, patch_var = convolution_statistics(z, sizes)
    return [("channels", mean, var), ("patches", patch_mean, patch_var)]


def _channels(module, z, sizes):
    z = channels_second(z, module)
    rows_per_image, rest = divmod(len(z), sum(sizes))
    if rest:
        raise UserError(f"{type(module).__name__}: its input {list(z.shape)} is not one row or "
                        "more per image, so its statistics cannot be calibrated. Leave this "
                        "teacher out.")
    # Some transformers cut an image into windows, which follow one another as the images do.
    return [("channels", *grouped_mean_var(z, [rows_per_image * size for size in sizes]))]


def channels_second(z, module):
    """A view of z as [N, C, H, W]: the channels are a convolution's, or what a norm layer scales.

    Convolution, BatchNorm, GroupNorm and LayerNorms called ...2d (torchvision's, timm's) have
    z [N, C, ...]. Other LayerNorms have their channels last: [N, H, W, C] (Swin, ConvNeXt's
    blocks), [N, T, C] (ViT) or [N, C].
    """
    channels_are_second = isinstance(module, (nn.Conv2d, nn.BatchNorm2d, nn.GroupNorm))
    if not channels_are_second and "2d" not in type(module).__name__:
        z = z.movedim(-1, 1)
    if z.dim() == 4:
        return z
    return z[:, :, None, None] if z.dim() == 2 else z.flatten(2).unsqueeze(2)


class LayerTaps:
    """Hooks on a frozen network that gather statistics of some layers while it runs.

        with LayerTaps(network, layers) as taps:
            logits, segments = taps(x, sizes)

    sizes: numbers of images of the units that share the forward, one after the other in x.
    segments: a list of Segment in the order of `layers`. Calling the network itself gathers
    nothing.
    """

    def __init__(self, network, layers):
        self.network, self.layers = network, layers
        self._sizes, self._gathered, self._hooks = None, [], []
        # Made once: compiled code is thrown away with a function that it has called.
        self._functions = [
            functools.partial(self._before if layer.end == "input" else self._after, place, layer)
            for place, layer in enumerate(self.layers)]

    def __enter__(self):
        for layer, function in zip(self.layers, self._functions, strict=True):
            register = (layer.module.register_forward_pre_hook if layer.end == "input"
                        else layer.module.register_forward_hook)
            self._hooks.append(register(function))
        return self

    def __exit__(self, *_):
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def __call__(self, x, sizes):
        self._sizes, self._gathered = list(sizes), []
        try:
            logits = self.network(x)
        finally:
            gathered, self._gathered, self._sizes = self._gathered, [], None
        # Layers may be called in another order than that of the modules.
        return logits, [segment for _, segment in sorted(gathered, key=lambda item: item[0])]

    def _before(self, place, layer, module, inputs):
        if self._sizes is not None:
            self._gather(place, layer, module, inputs[0])

    def _after(self, place, layer, module, _, output):
        if self._sizes is None:
            return output
        self._gather(place, layer, module, output)
        # An in-place ReLU (AlexNet's, VGG's) would change what the statistics' gradient needs.
        return output.clone() if output.requires_grad else output

    def _gather(self, place, layer, module, z):
        with full_precision(z.device):
            z = z.to(torch.promote_types(z.dtype, torch.float32))
            terms = layer.measure(module, z, self._sizes)
        self._gathered += [(place, Segment(layer.name, *term)) for term in terms]


def stacked(segments):
    """Segments as one tensor [U, 2, M]: all means, then all variances, layer by layer."""
    means = torch.cat([segment.mean for segment in segments], 1)
    variances = torch.cat([segment.var for segment in segments], 1)
    return torch.stack([means, variances], 1)


class CalibratedStatistics(LayerTaps):
    """BatchNormStatistics (models/bn_statistics.py) for a network without BatchNorm.

        with CalibratedStatistics(network, targets) as taps:
            logits, statistics = taps(x, sizes)

    targets: of recover.priors.measured.settle with kind "calibrated". statistics: a list of
    (mean [U, C], biased var [U, C], target mean [C], target var [C]), one entry per layer of
    calibrated_layers.
    """

    def __init__(self, network, targets):
        super().__init__(network, calibrated_layers(network))
        device = next(network.parameters()).device
        self._targets = targets.overall.to(device).split(targets.lengths(), 1)

    def __call__(self, x, sizes):
        logits, segments = super().__call__(x, sizes)
        return logits, [(segment.mean, segment.var, *target)
                        for segment, target in zip(segments, self._targets, strict=True)]
