"""The small-image stem: first convolution with stride 1 and no max-pool, so that 32 px are not shrunk to 8 at once."""

from torch import nn

from utils.errors import UserError


def make_small(net, name):
    """Change the stem of a torchvision or timm net in place, before its weights are loaded or trained.

    ResNets get a new 3x3 convolution (the CIFAR variant of He et al. 2016). MobileNet, EfficientNet, ShuffleNet, RegNet,
    DenseNet keep the size of their first convolution, which only loses its stride. Raises UserError for nets without such a stem.
    """
    if isinstance(getattr(net, "features", None), nn.Sequential) and hasattr(net.features, "conv0"):  # torchvision's DenseNet
        net.features.conv0 = _three_by_three(net.features.conv0)
        net.features.pool0 = nn.Identity()
        return
    first, pooled = _first_convolution(net), isinstance(getattr(net, "maxpool", None), nn.MaxPool2d)
    if first is None:
        raise UserError(f"{name}: the stem 'small' is not defined for this network. Use --stem imagenet, with --input-resize "
                        f"{name}=64 or more if the images are small.")
    if first is getattr(net, "conv1", None) and first.kernel_size == (7, 7):
        net.conv1 = _three_by_three(first)
    else:
        first.stride = (1, 1)
    if pooled:
        net.maxpool = nn.Identity()


def _first_convolution(net):
    """The convolution that shrinks the image first, for the families whose stem is known; else None."""
    if hasattr(net, "conv1") and hasattr(net, "maxpool"):  # ResNet and ShuffleNetV2; timm's deep stems are Sequential
        stem = net.conv1
    elif hasattr(net, "conv_stem"):  # timm's MobileNet and EfficientNet
        stem = net.conv_stem
    elif isinstance(getattr(net, "stem", None), nn.Sequential) and hasattr(net, "trunk_output"):  # torchvision's RegNet
        stem = net.stem
    elif isinstance(getattr(net, "features", None), nn.Sequential) and isinstance(net.features[0], nn.Sequential):
        stem = net.features[0]  # torchvision's MobileNet and EfficientNet
    else:
        return None
    first = next((m for m in stem.modules() if isinstance(m, nn.Conv2d)), None)
    # ConvNeXt's patchifying 4x4 stem is another kind: without its stride the windows would overlap
    return first if first is not None and first.stride == (2, 2) and first.kernel_size[0] % 2 else None


def _three_by_three(old):
    new = nn.Conv2d(old.in_channels, old.out_channels, 3, stride=1, padding=1, bias=old.bias is not None)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    return new.to(old.weight)
