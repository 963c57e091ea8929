import pytest
import torch
from torch import nn

from models import instance_norm
from models.networks import build, check_image_size, head, load_network, save_network
from utils.errors import UserError


def parameters(net):
    return sum(p.numel() for p in net.parameters())


def images(count, side):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "side", "count"), [
    # 3x3x3x128 + 128; per block a norm of 2 x 128; 3x3x128x128 + 128; linear
    ("convnet3", 32, 3584 + 3 * 256 + 2 * 147584 + 2048 * 10 + 10),
    ("convnet6", 256, 3584 + 6 * 256 + 5 * 147584 + 2048 * 10 + 10),
    ("convnet6", 224, 3584 + 6 * 256 + 5 * 147584 + 1152 * 10 + 10),
    # stem; a block of 64; blocks that double the width from w: 9 w 2w + 9 (2w)^2 + w 2w and three
    # norms of 2 x 2w; linear
    ("resnetap10", 64, 9408 + 128 + 2 * 36864 + 256
     + sum(9 * w * 2 * w + 9 * 4 * w * w + 2 * w * w + 12 * w for w in (64, 128, 256))
     + 512 * 10 + 10),
    ("resnet18_in", 64, 11181642),  # torchvision's ResNet-18 with 10 classes: norms count alike
])
def test_numbers_of_parameters(name, side, count):
    assert parameters(build(name, 10, image_size=side).net) == count


def test_the_classical_convnet_has_320010_parameters():
    assert parameters(build("convnet3", 10, image_size=32).net) == 320010


@pytest.mark.parametrize(("name", "side", "sides"), [
    ("convnet3", 32, [32, 16, 8]), ("convnet5", 40, [40, 20, 10, 5, 2]),
    ("resnetap10", 64, [64, 16, 16, 16, 8, 16, 8, 4, 8, 4, 2, 4]),
    ("resnet18_in", 64, [32, *[16] * 4, 8, 8, 8, 8, 8, 4, 4, 4, 4, 4, 2, 2, 2, 2, 2])])
def test_sides_of_the_convolutions_outputs(name, side, sides):
    """A block that pools: the first convolution, the second after the pooling, the shortcut."""
    network, seen = build(name, 7, image_size=side), []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, __, out: seen.append(out.shape[-1]))
    assert network(images(2, side)).shape == (2, 7)
    assert sorted(seen) == sorted(sides)


@torch.no_grad()
def test_a_pooled_block_written_out():
    torch.manual_seed(0)
    network = instance_norm.resnet_ap((1, 1, 1, 1), 5)
    block, x = network.layer2[0], torch.randn(2, 64, 8, 8)

    def norm(x, layer):
        mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, correction=0)
        weight, bias = layer.weight.view(1, -1, 1, 1), layer.bias.view(1, -1, 1, 1)
        return (x - mean) / (variance + 1e-5).sqrt() * weight + bias

    def average(x):
        n, c, h, w = x.shape
        return x.view(n, c, h // 2, 2, w // 2, 2).mean((3, 5))

    def convolve(x, weight, padding):
        return nn.functional.conv2d(x, weight, padding=padding)

    inner = average(norm(convolve(x, block.conv1.weight, 1), block.bn1).relu())
    inner = norm(convolve(inner, block.conv2[1].weight, 1), block.bn2)
    convolution, _, layer = block.downsample
    shortcut = norm(average(convolve(x, convolution.weight, 0)), layer)
    torch.testing.assert_close(block(x), (inner + shortcut).relu())


@pytest.mark.parametrize("name", ["convnet4", "resnetap10", "resnet18_in"])
def test_first_weights(name):
    network = build(name, 10, image_size=64, seed=("first",))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            area = module.kernel_size[0] ** 2
            variance = 2 / (module.out_channels * area)  # He, fan-out
            if name.startswith("convnet"):  # PyTorch: uniform on +- 1 / sqrt(fan-in)
                variance = 1 / (3 * module.in_channels * area)
            assert module.weight.std().item() == pytest.approx(variance**0.5, rel=0.05)
        elif isinstance(module, nn.GroupNorm):
            assert module.num_groups == module.num_channels
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
        assert not isinstance(module, nn.BatchNorm2d)
    assert head(network).out_features == 10


def test_images_do_not_see_one_another():
    network = build("convnet3", 4, image_size=16, seed=("alone",)).train()
    x = images(3, 16)
    torch.testing.assert_close(network(x)[1:2], network(x[1:2]))


@pytest.mark.parametrize(("name", "stem"), [("convnet3", "imagenet"), ("resnet18_in", "small")])
def test_networks_for_digits(name, stem):
    network = build(name, 10, stem, image_size=32)
    check_image_size(network, 32)
    assert network(images(2, 32)).shape == (2, 10)


@pytest.mark.parametrize(("name", "side", "sentence"), [
    ("convnet6", 32, "halves its images 6 times, so they need 64 px or more; found 32 px"),
    # Their last norms would see one pixel.
    ("resnetap10", 32, "cannot take images of 32 px. .*--input-resize resnetap10=64"),
    ("resnet18_in", 32, "cannot take images of 32 px. .*--input-resize resnet18_in=64")])
def test_images_that_are_too_small(name, side, sentence):
    with pytest.raises(UserError, match=sentence):
        check_image_size(build(name, 10, image_size=side), side)


def test_weights_are_saved_and_read(tmp_path):
    network = build("convnet3", 4, image_size=24, seed=("saved",))
    save_network(tmp_path / "net.safetensors", network, {})
    again, _ = load_network(tmp_path / "net.safetensors")
    assert torch.equal(again(images(2, 24)), network(images(2, 24)))

    torch.save(network.net.state_dict(), tmp_path / "plain.pth")
    plain, _ = load_network(tmp_path / "plain.pth", "convnet3", image_size=24)
    assert torch.equal(plain(images(2, 24)), network(images(2, 24)))


def test_a_name_that_is_nearly_right():
    with pytest.raises(UserError, match="Did you mean convnet"):
        build("convnet33", 10)
