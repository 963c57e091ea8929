"""Which layers of a net are matched, and hooks that gather their statistics in the forward that gives the logits."""

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

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, RmsNorm)  # timm's LayerNorm2d, GroupNorm1 ... are subclasses


class Layer(NamedTuple):
    """A module whose statistics are matched.

    name: in net.named_modules(). of: "input" or "output". gather(module, z, sizes): [(term, mean [U, D], var [U, D]), ...].
    """

    name: str
    module: nn.Module
    of: str
    gather: Callable


class Segment(NamedTuple):
    """Statistics of one kind at one layer. term: "channels" or "patches". mean, var [U, D]: biased, per unit."""

    name: str
    term: str
    mean: torch.Tensor
    var: torch.Tensor


def calibrated_layers(net):
    """Layers of a net without BatchNorm2d that stand in for its BatchNorm layers (beyond the paper), in module order.

    The inputs of its LayerNorm, GroupNorm and RMSNorm layers (ConvNeXt, ViT, Swin); the outputs of its convolutions where it
    has none (AlexNet, VGG): both are what a BatchNorm layer would see.
    """
    norms = [Layer(name, m, "input", _channels) for name, m in net.named_modules() if isinstance(m, _NORMS)]
    return norms or [Layer(name, m, "output", _channels) for name, m in net.named_modules() if isinstance(m, nn.Conv2d)]


def convolution_layers(net):
    """G-VBSM's layers in module order: inputs of BatchNorm2d (channels) and of convolutions (channels and patches)."""
    kinds = [(nn.BatchNorm2d, _channels), (nn.Conv2d, _convolution)]
    return [Layer(name, m, "input", gather) for name, m in net.named_modules() for kind, gather in kinds if isinstance(m, kind)]


def _convolution(_, z, sizes):
    mean, var, patch_mean, patch_var = convolution_statistics(z, sizes)
    return [("channels", mean, var), ("patches", patch_mean, patch_var)]


def _channels(module, z, sizes):
    z = channels_second(z, module)
    times, rest = divmod(len(z), sum(sizes))
    if rest:
        raise UserError(f"{type(module).__name__}: its input {list(z.shape)} is not one row or more per image, so its statistics "
                        "cannot be calibrated. Leave this teacher out.")
    # Windows of an image (some transformers) lie one after the other where images do
    return [("channels", *grouped_mean_var(z, [times * size for size in sizes]))]


def channels_second(z, module):
    """A view of z as [N, C, H, W]: the channels are what a norm layer scales, or the convolution's.

    Convolution, BatchNorm, GroupNorm, and LayerNorms called ...2d (torchvision's, timm's): z [N, C, ...]. Other LayerNorms:
    channels last, [N, H, W, C] (Swin, ConvNeXt's blocks), [N, T, C] (ViT) or [N, C].
    """
    last = not isinstance(module, (nn.Conv2d, nn.BatchNorm2d, nn.GroupNorm)) and "2d" not in type(module).__name__
    z = z.movedim(-1, 1) if last else z
    if z.dim() == 4:
        return z
    return z[:, :, None, None] if z.dim() == 2 else z.flatten(2).unsqueeze(2)


class LayerTaps:
    """Hooks on a frozen net that gather statistics of some layers while it runs.

        with LayerTaps(net, layers) as taps:
            logits, segments = taps(x, sizes)

    sizes: numbers of images of the units that share the forward (they lie one after the other in x). segments: a list of
    Segment in the order of layers.
    """

    def __init__(self, net, layers):
        self.net, self.layers = net, layers
        self._sizes, self._found = None, []

    def __enter__(self):
        self._hooks = []
        for place, layer in enumerate(self.layers):
            if layer.of == "input":
                hook = layer.module.register_forward_pre_hook(functools.partial(self._before, place, layer))
            else:
                hook = layer.module.register_forward_hook(functools.partial(self._after, place, layer))
            self._hooks.append(hook)
        return self

    def __exit__(self, *_):
        for hook in self._hooks:
            hook.remove()

    def _before(self, place, layer, module, inputs):
        if self._sizes is not None:
            self._gather(place, layer, module, inputs[0])

    def _after(self, place, layer, module, _, output):
        if self._sizes is None:
            return output
        self._gather(place, layer, module, output)
        # An in-place ReLU (AlexNet's, VGG's) would change what the gradient of the statistics needs
        return output.clone() if output.requires_grad else output

    def _gather(self, place, layer, module, z):
        with full_precision(z.device):
            found = layer.gather(module, z.to(torch.promote_types(z.dtype, torch.float32)), self._sizes)
        self._found += [(place, Segment(layer.name, *statistics)) for statistics in found]

    def __call__(self, x, sizes):
        self._sizes, self._found = list(sizes), []
        try:
            logits = self.net(x)
        finally:
            found, self._found, self._sizes = self._found, [], None  # a forward of somebody else's is left alone
        return logits, [segment for _, segment in sorted(found, key=lambda item: item[0])]  # called in another order


def stacked(segments):
    """Segments as one tensor [U, 2, M]: all means, all variances, layer by layer."""
    return torch.stack([torch.cat([s.mean for s in segments], 1), torch.cat([s.var for s in segments], 1)], 1)


class CalibratedStatistics(LayerTaps):
    """models.bn_statistics.BatchNormStatistics for a net without BatchNorm: the same protocol, targets measured before.

        with CalibratedStatistics(net, targets) as taps:
            logits, statistics = taps(x, sizes)

    targets: of recover.priors.measured.settle(..., kind="calibrated"). statistics: per layer of calibrated_layers, in module order,
    (mean [U, C], biased var [U, C], target_mean [C], target_var [C]).
    """

    def __init__(self, net, targets):
        super().__init__(net, calibrated_layers(net))
        device = next(net.parameters()).device
        self._targets = targets.overall.to(device).split(targets.lengths(), 1)

    def __call__(self, x, sizes):
        logits, segments = super().__call__(x, sizes)
        return logits, [(s.mean, s.var, *target) for s, target in zip(segments, self._targets, strict=True)]
