"""The small-image stem: stride 1 in the first convolution and no max-pool.

As published, networks for 224 px shrink an image of 32 px to 8 before their first block.
"""

from torch import nn

from utils.errors import UserError


def make_small(net, name):
    """Change the stem of a torchvision or timm module in place.

    ResNets get a new 3x3 convolution (the CIFAR variant of He et al. 2016). In MobileNet,
    EfficientNet, ShuffleNet, RegNet and DenseNet the first convolution loses its stride.
    Raises UserError for networks without such a stem.
    """
    features = getattr(net, "features", None)
    if isinstance(features, nn.Sequential) and hasattr(features, "conv0"):  # torchvision's DenseNet
        features.conv0 = _three_by_three(features.conv0)
        features.pool0 = nn.Identity()
        return

    first = _first_convolution(net)
    if first is None:
        raise UserError(f"{name}: the stem 'small' is not defined for this network. Use --stem "
                        f"imagenet, with --input-resize {name}=64 or more if the images are small.")
    if first is getattr(net, "conv1", None) and first.kernel_size == (7, 7):
        net.conv1 = _three_by_three(first)
    else:
        first.stride = (1, 1)
    if isinstance(getattr(net, "maxpool", None), nn.MaxPool2d):
        net.maxpool = nn.Identity()


def _first_convolution(net):
    """The convolution that shrinks the image first, for families whose stem is known; else None."""
    features = getattr(net, "features", None)
    if hasattr(net, "conv1") and hasattr(net, "maxpool"):
        stem = net.conv1  # ResNet and ShuffleNetV2; timm's deep stems are Sequential
    elif hasattr(net, "conv_stem"):
        stem = net.conv_stem  # timm's MobileNet and EfficientNet
    elif isinstance(getattr(net, "stem", None), nn.Sequential) and hasattr(net, "trunk_output"):
        stem = net.stem  # torchvision's RegNet
    elif isinstance(features, nn.Sequential) and isinstance(features[0], nn.Sequential):
        stem = features[0]  # torchvision's MobileNet and EfficientNet
    else:
        return None

    first = next((m for m in stem.modules() if isinstance(m, nn.Conv2d)), None)
    # In ConvNeXt's 4x4 stem, which cuts the image into patches, the windows would overlap.
    shrinks = first is not None and first.stride == (2, 2) and first.kernel_size[0] % 2
    return first if shrinks else None


def _three_by_three(old):
    new = nn.Conv2d(old.in_channels, old.out_channels, 3, stride=1, padding=1,
                    bias=old.bias is not None)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    return new.to(old.weight)
