import shutil
import urllib.error

import pytest
import tiny
import torch
from timm.data import ImageNetInfo
from torchvision import models as torchvision_models

from models import teachers
from models.networks import build, fingerprint, head_labels, save_network
from models.teachers import fit_head, load_teachers, stated_accuracy, trained_size
from utils.errors import UserError

SMALL = "shufflenet_v2_x0_5"
CPU = torch.device("cpu")
WNIDS = list(ImageNetInfo().label_names())


@pytest.fixture(scope="module")
def x():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def no_network(monkeypatch):
    """Downloads fail, whether or not this machine has a network; nothing is in torch's cache."""
    def fail(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    monkeypatch.setattr("timm.create_model", lambda *_, **__: fail())


@torch.no_grad()
def logits(network, x):
    return network.eval()(x)


def test_frozen_in_eval_mode_and_loaded_once(tmp_path, x):
    tiny.teacher_folder(tmp_path, [SMALL, "timm/resnet10t"], ["a", "b"])
    found = load_teachers([SMALL, "timm/resnet10t", SMALL], tmp_path, ["a", "b"], CPU, 32)
    assert list(found) == [SMALL, "timm/resnet10t"]
    for name, network in found.items():
        assert not any(m.training for m in network.modules())
        assert not any(p.requires_grad for p in network.parameters())
        assert torch.equal(logits(network, x), logits(build(name, 2, seed=("tiny", name)), x))


def test_a_folder_named_relative_to_the_caller(tmp_path, monkeypatch):
    tiny.teacher_folder(tmp_path / "mine", [SMALL], ["a", "b"])
    monkeypatch.setenv("CALLER_DIR", str(tmp_path))
    for text in ("mine", "./mine", str(tmp_path / "mine")):
        assert SMALL in load_teachers([SMALL], text, ["a", "b"], CPU)


def test_a_folder_of_state_dicts(tmp_path, x):
    network = build(SMALL, 3, seed=("pth",))
    torch.save(network.net.state_dict(), tmp_path / f"{SMALL}.pth")
    found = load_teachers([SMALL], tmp_path, ["cat", "dog", "cow"], CPU)[SMALL]
    assert torch.equal(logits(found, x), logits(network, x))


def test_columns_of_an_imagenet_head_are_picked_by_wnid(tmp_path, x):
    network = build(SMALL, 1000, seed=("in1k",))
    torch.save(network.net.state_dict(), tmp_path / f"{SMALL}.pth")
    classes = [WNIDS[900], WNIDS[3], WNIDS[500]]
    found = load_teachers([SMALL], tmp_path, classes, CPU)[SMALL]
    assert (found.num_classes, found.classes) == (3, classes)
    torch.testing.assert_close(logits(found, x), logits(network, x)[:, [900, 3, 500]])
    whole = load_teachers([SMALL], tmp_path, WNIDS, CPU)[SMALL]
    assert torch.equal(logits(whole, x), logits(network, x))


@pytest.mark.parametrize("name", [SMALL, "squeezenet1_1", "timm/resnet10t"])
def test_a_head_in_another_order_follows_the_data(name):
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    network = build(name, 4, seed=("order",))
    network.classes = list("abcd")
    before = logits(network, x)
    found = fit_head(network, ["c", "a", "d"])
    torch.testing.assert_close(logits(found, x), before[:, [2, 0, 3]])
    assert found.classes == ["c", "a", "d"]


def test_a_full_head_keeps_all_outputs_and_says_which_are_the_datas(tmp_path, x):
    network = build(SMALL, 1000, seed=("in1k",))
    torch.save(network.net.state_dict(), tmp_path / f"{SMALL}.pth")
    classes = [WNIDS[900], WNIDS[3]]
    full = load_teachers([SMALL], tmp_path, classes, CPU, head="full")[SMALL]
    assert torch.equal(logits(full, x), logits(network, x))
    assert full.columns.tolist() == [900, 3]
    assert head_labels(full, torch.tensor([1, 1, 0])).tolist() == [3, 3, 900]
    cut = load_teachers([SMALL], tmp_path, classes, CPU)[SMALL]
    assert fingerprint(full) == fingerprint(cut) != fingerprint(network)


def test_a_head_of_the_datas_classes_is_the_same_full_or_not():
    network = build(SMALL, 3, seed=("order",))
    network.classes = list("abc")
    for classes in (list("abc"), list("cab")):
        full, cut = (fit_head(network, classes, head) for head in ("full", "classes"))
        assert full.columns is None
        assert fingerprint(full) == fingerprint(cut)
        network.classes = list("abc")


def test_other_class_counts_and_other_classes(tmp_path):
    tiny.teacher_folder(tmp_path, [SMALL], ["a", "b"])
    with pytest.raises(UserError, match=f"{SMALL}: the teacher has 2 classes, the data has 3"):
        load_teachers([SMALL], tmp_path, ["a", "b", "c"], CPU)
    with pytest.raises(UserError, match="trained on other classes: it does not know 'x'"):
        load_teachers([SMALL], tmp_path, ["a", "x"], CPU)
    assert load_teachers([SMALL], tmp_path, ["new000", "new001"], CPU)[SMALL].classes == ["a", "b"]
    numbers = [SMALL], tmp_path, ["class0", "class1"], CPU
    assert load_teachers(*numbers, numbered=True)[SMALL].classes == ["a", "b"]
    with pytest.raises(UserError, match="trained on other classes: it does not know 'class0'"):
        load_teachers(*numbers)
    network = build(SMALL, 2, seed=("x",))
    network.classes = ["1", "0"]  # by name, where the head has such names
    assert fit_head(network, ["0", "1"], numbered=True).classes == ["0", "1"]


def test_wrong_folders(tmp_path):
    with pytest.raises(UserError, match="no such folder of teacher weights"):
        load_teachers([SMALL], tmp_path / "none", ["a"], CPU)
    with pytest.raises(UserError, match="no such folder of teacher weights"):
        load_teachers([SMALL], "./none", ["a"], CPU)
    with pytest.raises(UserError, match="it holds no weights"):
        load_teachers([SMALL], tmp_path, ["a"], CPU)
    tiny.teacher_folder(tmp_path, [SMALL], ["a", "b"])
    listing = f"no timm_resnet10t.safetensors .*found {SMALL}.safetensors"
    with pytest.raises(UserError, match=listing):
        load_teachers(["timm/resnet10t"], tmp_path, ["a", "b"], CPU)
    shutil.copy(tmp_path / f"{SMALL}.safetensors", tmp_path / "resnet18.safetensors")
    with pytest.raises(UserError, match=f"holds {SMALL}, expected resnet18"):
        load_teachers(["resnet18"], tmp_path, ["a", "b"], CPU)
    (tmp_path / "resnet18.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"resnet18.safetensors: damaged"):
        load_teachers(["resnet18"], tmp_path, ["a", "b"], CPU)


def test_a_folder_that_cannot_be_meant():
    with pytest.raises(UserError, match="--teacher-weights '': .*Give a folder of"):
        load_teachers([SMALL], "", ["a"], CPU)
    with pytest.raises(UserError, match="~nobody-of-this-name/weights: there is no home folder"):
        load_teachers([SMALL], "~nobody-of-this-name/weights", ["a"], CPU)


def sized(folder, name, size):
    save_network(folder / f"{name}.safetensors", build(name, 2, image_size=size), {})


def test_the_size_that_teachers_were_trained_at(tmp_path):
    names = [SMALL, "resnet18", "mobilenet_v2", "alexnet"]
    sized(tmp_path, SMALL, 48)
    sized(tmp_path, "mobilenet_v2", None)
    torch.save(build("resnet18", 2).net.state_dict(), tmp_path / "resnet18.pth")
    assert trained_size(names, tmp_path) == 48
    assert trained_size(names[1:], tmp_path) is None
    assert trained_size(names, "IMAGENET1K_V1") is None
    sized(tmp_path, "alexnet", 64)
    with pytest.raises(UserError, match=f"alexnet.safetensors was trained on images of 64 px, "
                                        f".*{SMALL}.safetensors on images of 48 px. Choose"):
        trained_size(names, tmp_path)


def test_images_of_another_size_than_the_teacher_was_trained_at(tmp_path):
    sized(tmp_path, SMALL, 48)
    assert SMALL in load_teachers([SMALL], tmp_path, ["a", "b"], CPU, 48)
    with pytest.raises(UserError, match=f"{SMALL}: was trained on images of 48 px, found 32 px. "
                                        ".*--image-size 48"):
        load_teachers([SMALL], tmp_path, ["a", "b"], CPU, 32)


def test_a_size_the_teacher_cannot_take(tmp_path):
    network = build("alexnet", 2, seed=("a",))
    save_network(tmp_path / "alexnet.safetensors", network, {})
    with pytest.raises(UserError, match="alexnet: cannot take images of 32 px.*=64"):
        load_teachers(["alexnet"], tmp_path, ["a", "b"], CPU, 32)


@pytest.mark.usefixtures("no_network")
def test_names_of_published_weights():
    with pytest.raises(UserError, match="no weights 'IMAGENET1K_V7'; it has IMAGENET1K_V1, IMAG"):
        load_teachers(["resnet50"], "IMAGENET1K_V7", WNIDS, CPU)
    with pytest.raises(UserError, match="resnet81: no such network"):
        load_teachers(["resnet81"], "IMAGENET1K_V1", WNIDS, CPU)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(("name", "file"), [("resnet18", "resnet18-f37072fd.pth"),
                                            ("resnet50", "resnet50-11ad3fa6.pth"),
                                            ("resnet101", "resnet101-cd907fc2.pth")])
def test_default_is_torchvisions_best(name, file):
    """DELT's "DEFAULT": V1 of ResNet-18, V2 of ResNet-50 and ResNet-101."""
    with pytest.raises(UserError, match=file):
        load_teachers([name], "DEFAULT", WNIDS, CPU)


@pytest.mark.usefixtures("no_network")
def test_no_network():
    fetch = r"resnet18: https://.*could not be fetched .*put it at .*/resnet18-f37072fd.pth"
    with pytest.raises(UserError, match=fetch):
        load_teachers(["resnet18"], "IMAGENET1K_V1", WNIDS, CPU)
    fetch = r"timm/resnet10t: .*could not be fetched .*timm_resnet10t.safetensors"
    with pytest.raises(UserError, match=fetch):
        load_teachers(["timm/resnet10t"], "IMAGENET1K_V1", WNIDS, CPU)


@pytest.mark.parametrize("name", [SMALL, "googlenet"])
def test_published_weights_are_those_of_torchvision(monkeypatch, name, x):
    """googlenet's published file holds auxiliary heads, and its weights expect another input."""
    options = {}
    if name == "googlenet":
        options = {"aux_logits": True, "init_weights": False, "transform_input": True}
    published = torchvision_models.get_model(name, num_classes=1000, **options).eval()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url",
                        lambda *_, **__: published.state_dict())
    found = load_teachers([name], "IMAGENET1K_V1", WNIDS, CPU)[name]
    torch.testing.assert_close(logits(found, x), logits(published, x), rtol=1e-4, atol=1e-5)
    some = load_teachers([name], "IMAGENET1K_V1", WNIDS[5:8], CPU)[name]
    torch.testing.assert_close(logits(some, x), logits(published, x)[:, 5:8], rtol=1e-4,
                               atol=1e-5)


def test_published_timm_weights_keep_their_mean_and_std(monkeypatch, x):
    import timm

    name = "timm/vit_tiny_patch16_224"
    published = timm.create_model("vit_tiny_patch16_224", img_size=32)
    monkeypatch.setattr(teachers.timm, "create_model", lambda *_, **__: published)
    found = load_teachers([name], "IMAGENET1K_V1", WNIDS, CPU, 32)[name]
    assert found.mean == (0.5, 0.5, 0.5)
    assert logits(found, x).shape == (2, 1000)


@pytest.mark.parametrize(("about", "expected"), [
    ({"accuracy": {"top1": 97.4, "top5": 100.0, "count": 500}}, 97.4), ({}, None),
    ({"accuracy": "good"}, None), ([1], None)])
def test_the_accuracy_that_a_file_states(tmp_path, about, expected):
    save_network(tmp_path / f"{SMALL}.safetensors", build(SMALL, 3), about)
    assert stated_accuracy(SMALL, tmp_path) == expected


def test_the_accuracy_that_published_weights_state(tmp_path):
    assert stated_accuracy("resnet18", "IMAGENET1K_V1") == 69.758
    assert stated_accuracy("resnet50", "DEFAULT") == 80.858
    assert stated_accuracy("timm/resnet18", "DEFAULT") is None
    torch.save(build(SMALL, 3).net.state_dict(), tmp_path / f"{SMALL}.pth")
    assert stated_accuracy(SMALL, tmp_path) is None
