import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models as torchvision_models

from data.images import MEAN, STD
from models.networks import build, check_image_size, fingerprint, load_network, save_network
from utils import checkpoint
from utils.errors import UserError

SMALL = "shufflenet_v2_x0_5"


def batch(count=2, side=32):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits(network, x):
    return network.eval()(x)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "efficientnet_b0", SMALL,
                                  "densenet121", "timm/resnet10t", "timm/mobilenetv3_small_050",
                                  "regnet_y_400mf"])
def test_both_stems_and_what_they_shrink(name):
    """The first convolution halves 64 px as published and keeps them in the small stem."""
    for stem, side in (("imagenet", 32), ("small", 64)):
        network = build(name, 7, stem, seed=("stem",))
        sides = []
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(
                    lambda _, __, out, sides=sides: sides.append(out.shape[-1]))
        assert logits(network, batch(1, 64)).shape == (1, 7)
        assert sides[0] == side


def test_a_resnets_small_stem_is_three_by_three_without_pool():
    net = build("resnet18", 10, "small").net
    assert (net.conv1.kernel_size, net.conv1.stride, net.conv1.padding) == ((3, 3), (1, 1), (1, 1))
    assert isinstance(net.maxpool, nn.Identity)


@pytest.mark.parametrize("name", ["alexnet", "vgg11", "convnext_tiny"])
def test_a_stem_that_is_not_defined(name):
    sentence = f"{name}: the stem 'small' is not defined"
    with pytest.raises(UserError, match=sentence), torch.device("meta"):
        build(name, 10, "small")


@pytest.mark.parametrize(("name", "near"), [
    ("resnet81", "resnet18"), ("timm/resnet81", "timm/resnet"),
    ("vit_tiny_patch16_224", "timm/vit_tiny_patch16_224"), ("zzz", "timm/NAME")])
def test_unknown_names_suggest_the_nearest(name, near):
    with pytest.raises(UserError, match=f"{name}: no such network.*{near}"):
        build(name, 10)


def test_weights_follow_the_seed_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = fingerprint(build(SMALL, 5, seed=("a", 0)))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert fingerprint(build(SMALL, 5, seed=("a", 0))) == first
    assert fingerprint(build(SMALL, 5, seed=("a", 1))) != first


def test_input_resize_is_bilinear_and_skipped_at_its_own_size():
    network = build(SMALL, 5, input_resize=48, seed=("r",)).eval()
    x = batch(2, 32)
    larger = F.interpolate(x, size=(48, 48), mode="bilinear", align_corners=False)
    expected = network.net(larger.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(logits(network, x), expected)
    torch.testing.assert_close(logits(network, larger), logits(network, x))


def test_other_preprocessing_is_converted():
    network = build("timm/mobilenetv3_small_050", 5, seed=("m",)).eval()
    other = build("timm/vit_tiny_patch16_224", 5, seed=("m",), image_size=32).eval()
    assert (network.mean, network.std) == (MEAN, STD)
    assert other.mean == other.std == (0.5, 0.5, 0.5)
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    given = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(logits(other, given), other.net((pixels - 0.5) / 0.5), rtol=1e-4,
                               atol=1e-5)


@pytest.mark.parametrize(("name", "width"), [("resnet18", 512), (SMALL, 1024),
                                             ("squeezenet1_1", 512), ("timm/resnet10t", 512)])
def test_penultimate_features(name, width):
    network = build(name, 6, seed=("f",)).eval()
    x = batch(2, 64)
    with torch.no_grad():
        features = network.features(x)
        assert features.shape == (2, width)
        if name == "resnet18":
            torch.testing.assert_close(network.net.fc(features), network(x))


def test_image_size_probe():
    with torch.device("meta"):
        alexnet = build("alexnet", 10)
        check_image_size(alexnet, 63)
        for side in (32, 62):
            advice = rf"alexnet: cannot take images of {side} px.*--input-resize alexnet=64"
            with pytest.raises(UserError, match=advice):
                check_image_size(alexnet, side)
        check_image_size(build("alexnet", 10, input_resize=64), 32)
        with pytest.raises(UserError, match="--input-resize timm/vit_tiny_patch16_224=224"):
            check_image_size(build("timm/vit_tiny_patch16_224", 10), 32)
        check_image_size(build("timm/vit_tiny_patch16_224", 10, image_size=32), 32)
        check_image_size(build("vit_b_32", 10, image_size=64), 64)
        with pytest.raises(UserError, match="vit_b_32: cannot be built.*for 40 px"):
            build("vit_b_32", 10, image_size=40)


@pytest.mark.parametrize("options", [{"stem": "small"}, {"input_resize": 48}, {}])
def test_saved_and_loaded_whole(tmp_path, options):
    network = build(SMALL, 4, seed=("s",), **options)
    network.classes = list("abcd")
    save_network(tmp_path / "net.safetensors", network, {"accuracy": 12.5})
    again, about = load_network(tmp_path / "net.safetensors", SMALL)
    assert about == {"accuracy": 12.5}
    assert again.spec() == network.spec()
    assert fingerprint(again) == fingerprint(network)
    assert torch.equal(logits(again, batch()), logits(network, batch()))


def test_mnasnet_can_be_loaded(tmp_path):
    """It reads its module's version while loading, which safetensors do not keep."""
    network = build("mnasnet0_5", 5, seed=("mnasnet",))
    save_network(tmp_path / "net.safetensors", network, {})
    loaded, _ = load_network(tmp_path / "net.safetensors", "mnasnet0_5")
    assert torch.equal(logits(loaded, batch()), logits(network, batch()))


def test_others_may_read_a_saved_file_as_any_other(tmp_path):
    (tmp_path / "plain").touch()
    save_network(tmp_path / "net.safetensors", build(SMALL, 4), {})
    assert (tmp_path / "net.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_stored_weights_are_the_plain_nets_in_the_ordinary_layout(tmp_path):
    from safetensors.torch import load_file

    network = build(SMALL, 4, seed=("s",))
    assert network.channels_last
    save_network(tmp_path / "net.safetensors", network, {})
    plain = torchvision_models.get_model(SMALL, num_classes=4)
    plain.load_state_dict(load_file(tmp_path / "net.safetensors"))
    torch.testing.assert_close(logits(plain, batch()), logits(network, batch()))


@pytest.mark.parametrize(("suffix", "wrap"), [
    (".pth", lambda s: s), (".pt", lambda s: {"state_dict": s, "epoch": 3}),
    (".pth", lambda s: {"model": {"module." + k: v for k, v in s.items()}})])
@pytest.mark.parametrize("stem", ["imagenet", "small"])
def test_anybodys_state_dict(tmp_path, suffix, wrap, stem):
    network = build("resnet18", 7, stem, seed=("p",))
    torch.save(wrap(network.net.state_dict()), tmp_path / f"net{suffix}")
    again, about = load_network(tmp_path / f"net{suffix}", "resnet18")
    assert (again.num_classes, again.stem, again.classes, about) == (7, stem, None, {})
    assert fingerprint(again) == fingerprint(network)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One good file and bad ones of every kind."""
    folder, network = tmp_path_factory.mktemp("files"), build(SMALL, 4, seed=("s",))
    save_network(folder / "net.safetensors", network, {})
    torch.save(network.net.state_dict(), folder / "plain.pth")
    torch.save(build("resnet18", 4).net.state_dict(), folder / "r18.pth")
    torch.save([1, 2], folder / "list.pth")
    for name in ("net.safetensors", "plain.pth"):
        (folder / f"cut_{name}").write_bytes((folder / name).read_bytes()[:5000])
    for key, value in {"name": "resnet81", "num_classes": "four", "mean": [0.5]}.items():
        spec = {**network.spec(), key: value}
        checkpoint.save_tensors(folder / f"forged_{key}.safetensors", network.net.state_dict(),
                                {"network": spec, "about": {}})
    return folder


@pytest.mark.parametrize(("file", "name", "sentence"), [
    ("none.safetensors", None, "no such file"), ("none.pth", SMALL, "no such file"),
    ("net.safetensors", "resnet18", f"holds {SMALL}, expected resnet18"),
    ("plain.pth", None, "does not say which network"),
    ("plain.pth", "mobilenet_v2", "is not a state dict of mobilenet_v2"),
    ("r18.pth", "resnet50", "is not a state dict of resnet50.*missing"),
    ("list.pth", SMALL, "no state dict"), ("cut_net.safetensors", SMALL, "damaged"),
    ("cut_plain.pth", SMALL, "damaged"), ("forged_name.safetensors", None, "damaged .*resnet81"),
    ("forged_num_classes.safetensors", None, "damaged"),
    ("forged_mean.safetensors", None, "damaged")])
def test_files_that_are_refused(files, file, name, sentence):
    with pytest.raises(UserError, match=sentence):
        load_network(files / file, name)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match=r"evil.pth: holds \S*print, expected tensors"):
        load_network(tmp_path / "evil.pth", SMALL)


@pytest.mark.parametrize(("key", "value", "sentence"), [
    (7, torch.ones(4), "a key of its state dict is 7, expected names of parameters"),
    ("fc.bias", torch.tensor(4.0), "fc.bias is a single number, expected one per class"),
    ("fc.bias", torch.empty(4, device="meta"), "fc.bias is a sparse, quantised, nested"),
    ("fc.bias", torch.ones(4).to_sparse(), "fc.bias is a sparse, quantised, nested"),
    ("fc.bias", torch.ones(4, dtype=torch.complex64), "fc.bias is a sparse, quantised, nested"),
    ("fc.bias", torch.ones(1).expand(10**12), "fc.bias has shape .1000000000000., more numbers"),
    ("fc.bias", torch.ones(100_000), r"fc.weight has shape .4, 1024., .* needs .100000, 1024."),
])
def test_state_dicts_of_a_hostile_author(tmp_path, key, value, sentence):
    state = {**build(SMALL, 4, seed=("s",)).net.state_dict(), key: value}
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(UserError, match=f"x.pth: .*{sentence}"):
        load_network(tmp_path / "x.pth", SMALL)


@pytest.mark.filterwarnings("ignore")  # PyTorch's, about what it will no longer support
def test_quantised_and_nested_tensors_are_no_weights(tmp_path):
    for value in (torch.quantize_per_tensor(torch.ones(4), 1.0, 0, torch.quint8),
                  torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])):
        torch.save({"fc.bias": value}, tmp_path / "x.pth")
        with pytest.raises(UserError, match="fc.bias is a sparse, quantised, nested"):
            load_network(tmp_path / "x.pth", SMALL)


def test_a_forged_class_count_takes_no_memory(tmp_path):
    """A head of 10^12 classes is refused before it is made."""
    network = build(SMALL, 4, seed=("s",))
    spec = {**network.spec(), "num_classes": 10**12}
    path = tmp_path / "x.safetensors"
    checkpoint.save_tensors(path, network.net.state_dict(), {"network": spec, "about": {}})
    with pytest.raises(UserError, match=r"fc.bias has shape .4., .* needs .1000000000000."):
        load_network(path)


def test_a_small_stem_and_an_input_resize_can_be_said_for_plain_files(tmp_path):
    network = build("mobilenet_v2", 3, "small", 64, seed=("plain",)).eval()
    torch.save(network.net.state_dict(), tmp_path / "plain.pth")
    x = batch(2, 32)
    again, _ = load_network(tmp_path / "plain.pth", "mobilenet_v2", stem="small", input_resize=64)
    assert torch.equal(logits(again, x), logits(network, x))
    other, _ = load_network(tmp_path / "plain.pth", "mobilenet_v2")
    assert not torch.equal(logits(other, x), logits(network, x))
