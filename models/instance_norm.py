"""The networks of the hard-label papers: ConvNet-3 ... 6, ResNetAP-10 and ResNet-18.

All normalise each image and channel alone: GroupNorm with as many groups as channels, and an affine
map, which starts as the identity. Convolutions of the ResNets start from He's normal law (fan-out),
those of the ConvNets from PyTorch's default.
"""

from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from utils.errors import UserError

WIDTH = 128  # channels of a ConvNet
_DEPTHS = {f"convnet{depth}": depth for depth in (3, 4, 5, 6)}
NAMES = (*_DEPTHS, "resnetap10", "resnet18_in")


class InstanceNorm(nn.GroupNorm):
    """GroupNorm with groups = channels. Raises ValueError for one pixel, which it would make 0."""

    def __init__(self, channels):
        super().__init__(channels, channels)

    def forward(self, x):
        if x.shape[2:].numel() == 1:
            raise ValueError("instance norm of a single pixel gives its bias, whatever the pixel")
        return super().forward(x)


def construct(name, num_classes, side=None):
    """The plain module of one of NAMES with random weights.

    side: pixels of its input, on which a ConvNet's linear layer depends (default: the one that
    leaves 4x4 features, 32 px for convnet3 and 256 for convnet6).
    """
    if name == "resnetap10":
        return resnet_ap((1, 1, 1, 1), num_classes)
    if name == "resnet18_in":
        return ResNet(BasicBlock, [2, 2, 2, 2], num_classes, norm_layer=InstanceNorm)
    return ConvNet(_DEPTHS[name], num_classes, side or 4 * 2 ** _DEPTHS[name])


class ConvNet(nn.Module):
    """depth x [3x3 convolution of width 128, norm, ReLU, 2x2 average pooling], then linear."""

    def __init__(self, depth, num_classes, side):
        super().__init__()
        if side < 2**depth:
            raise UserError(f"convnet{depth}: halves its images {depth} times, so they need "
                            f"{2**depth} px or more; found {side} px. Choose a ConvNet of less "
                            "depth, or larger images.")
        blocks, channels = [], 3
        for _ in range(depth):
            blocks += [nn.Conv2d(channels, WIDTH, 3, padding=1), InstanceNorm(WIDTH),
                       nn.ReLU(inplace=True), nn.AvgPool2d(2)]
            channels = WIDTH
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Linear(WIDTH * (side // 2**depth) ** 2, num_classes)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


def resnet_ap(layers, num_classes):
    """A ResNet of BasicBlocks in which average pooling takes the place of strides (ResNetAP).

    The stem is a 7x7 convolution with stride 1, norm, ReLU and 4x4 average pooling. layers: blocks
    in each of the four stages.
    """
    net = ResNet(PooledBlock, list(layers), num_classes, norm_layer=InstanceNorm)
    net.conv1.stride = (1, 1)
    net.maxpool = nn.AvgPool2d(4)
    return net


class PooledBlock(BasicBlock):
    """BasicBlock whose stride is an average pooling.

    It pools after the first ReLU, and in the shortcut between the 1x1 convolution and its norm.
    """

    def __init__(self, inplanes, planes, stride=1, downsample=None, *rest):
        super().__init__(inplanes, planes, 1, downsample, *rest)
        if stride > 1:
            self.conv2 = nn.Sequential(nn.AvgPool2d(stride), self.conv2)
            convolution, norm = downsample
            convolution.stride = (1, 1)
            self.downsample = nn.Sequential(convolution, nn.AvgPool2d(stride), norm)
