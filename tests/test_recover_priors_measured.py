import numpy as np
import pytest
import tiny
import torch
from torch import nn

from data.datasets import open_images
from models.networks import Network, build
from models.training_data import FolderBatches
from recover.priors import measured
from recover.priors.layers import calibrated_layers, convolution_layers
from utils.errors import UserError

CPU = torch.device("cpu")


class Small(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.first, self.norm, self.head = nn.Conv2d(3, 4, 3, stride=2), norm, nn.Conv2d(4, 3, 3)

    def forward(self, x):
        return self.head(self.norm(self.first(x)).relu()).mean((2, 3))


def network(norm, seed=0):
    torch.manual_seed(seed)
    net = Small(norm)
    for buffer in net.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return Network(net.eval().requires_grad_(False), "small", 3)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    return open_images("imagefolder", "train", tiny.image_folder(tmp_path_factory.mktemp("data"), per_class=5), 32)


@pytest.fixture
def batches_of_6(monkeypatch):
    """15 images make two whole batches and one of three; forwards are cut into parts of four."""
    monkeypatch.setattr(measured, "BATCH", 6)
    monkeypatch.setattr(measured, "_AT_ONCE", 4)


def slow_views(real, indices):
    """The same views in batches: [(float64 images, labels), ...]."""
    return [(x, y) for x, y in FolderBatches(real, 6, True, CPU, 0, indices).epoch(measured._KEY)]


def mean_and_variance(rows):
    return [[np.mean(v) for v in rows], [np.mean((v - np.mean(v)) ** 2) for v in rows]]


@pytest.mark.usefixtures("batches_of_6")
def test_calibrated_statistics_against_a_slow_loop(real, tmp_path):
    net = network(nn.GroupNorm(1, 4))
    targets = measured.settle(net, "calibrated", real, tmp_path)
    assert targets.layout == [("net.norm", "channels", 4)]
    assert targets.classes is None
    batches = slow_views(real, measured.choose_images(real.by_class, 0))
    assert [len(x) for x, _ in batches] == [6, 6, 3]
    total = np.zeros((2, 4))
    for x, _ in batches:
        z = net.net.first(x).double().numpy()
        total += len(x) * np.array(mean_and_variance([z[:, c].ravel() for c in range(4)]))
    np.testing.assert_allclose(targets.overall.numpy(), total / 15, rtol=1e-5)


@pytest.mark.usefixtures("batches_of_6")
def test_convolution_and_class_statistics_against_a_slow_loop(real, tmp_path):
    net = network(nn.BatchNorm2d(4))
    targets = measured.settle(net, "convolution", real, tmp_path, class_statistics=True)
    assert targets.layout == [("net.first", "channels", 3), ("net.first", "patches", 4), ("net.norm", "channels", 4),
                              ("net.head", "channels", 4), ("net.head", "patches", 1)]
    whole, per_class, counts = np.zeros((2, 7)), np.zeros((3, 2, 11)), np.zeros(3)

    def stem(x):
        patches = [x[:, :, r : r + 16, c : c + 16].ravel() for r in (0, 16) for c in (0, 16)]
        return np.array(mean_and_variance([x[:, c].ravel() for c in range(3)] + patches))

    for x, labels in slow_views(real, measured.choose_images(real.by_class, 0)):
        norm = net.net.first(x).double().numpy()
        x = x.double().numpy()
        whole += len(x) * stem(x)
        for i, label in enumerate(labels.tolist()):
            own = np.array(mean_and_variance([norm[i, c].ravel() for c in range(4)]))
            per_class[label] += np.concatenate([stem(x[i : i + 1]), own], 1)
            counts[label] += 1
    np.testing.assert_allclose(targets.overall[:, :7].numpy(), whole / 15, rtol=1e-4, atol=1e-6)
    assert torch.equal(targets.overall[:, 7:11], torch.stack([net.net.norm.running_mean, net.net.norm.running_var]))
    assert counts.tolist() == [5, 5, 5]
    assert targets.classes.shape == (3, 2, 16)
    np.testing.assert_allclose(targets.classes[..., :11].numpy(), per_class / 5, rtol=1e-4, atol=1e-6)


def test_found_again_and_not_measured_twice(real, tmp_path, monkeypatch):
    net = network(nn.BatchNorm2d(4))
    first = measured.settle(net, "convolution", real, tmp_path, class_statistics=True)
    monkeypatch.setattr(measured, "measure", lambda *_: pytest.fail("measured twice"))
    again = measured.settle(network(nn.BatchNorm2d(4)), "convolution", real, tmp_path, images=99, class_statistics=True)
    assert first.layout == again.layout
    assert torch.equal(first.overall, again.overall)
    assert torch.equal(first.classes, again.classes)
    assert len(list(tmp_path.iterdir())) == 1


def test_measured_again_gives_the_same_bytes(real, tmp_path):
    files = []
    for name in "ab":
        measured.settle(network(nn.BatchNorm2d(4)), "convolution", real, tmp_path / name, images=7, class_statistics=True)
        files += (tmp_path / name).iterdir()
    assert files[0].name == files[1].name
    assert files[0].read_bytes() == files[1].read_bytes()


def test_another_net_other_images_and_other_options_have_other_files(real, tmp_path):
    more = open_images("imagefolder", "train", tiny.image_folder(tmp_path / "more", per_class=4), 32)
    out = tmp_path / "out"
    measured.settle(network(nn.GroupNorm(1, 4)), "calibrated", real, out)
    measured.settle(network(nn.GroupNorm(1, 4), seed=1), "calibrated", real, out)
    measured.settle(network(nn.GroupNorm(1, 4)), "calibrated", more, out)
    measured.settle(network(nn.GroupNorm(1, 4)), "calibrated", open_images("imagefolder", "train", tmp_path / "more", 24), out)
    measured.settle(network(nn.GroupNorm(1, 4)), "calibrated", real, out, images=6)
    measured.settle(network(nn.GroupNorm(1, 4)), "convolution", real, out)
    measured.settle(network(nn.GroupNorm(1, 4)), "convolution", real, out, class_statistics=True)
    assert len(list(out.iterdir())) == 7


def test_damaged_and_foreign_files_are_refused(real, tmp_path):
    net = network(nn.GroupNorm(1, 4))
    measured.settle(net, "calibrated", real, tmp_path / "a")
    measured.settle(network(nn.GroupNorm(1, 4), seed=1), "calibrated", real, tmp_path / "b")
    (path,), (other,) = (list((tmp_path / name).iterdir()) for name in "ab")
    whole = path.read_bytes()
    path.write_bytes(other.read_bytes())
    with pytest.raises(UserError, match="does not hold the statistics that its name says. Remove it"):
        measured.settle(net, "calibrated", real, tmp_path / "a")
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged"):
        measured.settle(net, "calibrated", real, tmp_path / "a")


def test_chosen_images_are_balanced_and_the_same_again():
    by_class = [np.arange(0, 10), np.arange(10, 12), np.arange(12, 22)]
    for count in (1, 3, 6, 7, 10, 21):
        chosen = measured.choose_images(by_class, count).tolist()
        assert len(set(chosen)) == len(chosen) == count
        assert chosen == measured.choose_images(by_class, count).tolist()
        per_class = [sum(i in own for i in chosen) for own in by_class]
        assert per_class[1] == min(2, per_class[1])
        assert abs(per_class[0] - per_class[2]) <= 1
        assert per_class[1] >= min(2, count // 3)
    assert sorted(measured.choose_images(by_class, 0).tolist()) == list(range(22))
    assert sorted(measured.choose_images(by_class, 99).tolist()) == list(range(22))
    assert measured.choose_images(by_class, 0).tolist() != list(range(22))


def test_too_few_images_for_the_classes_and_no_layers(real, tmp_path):
    with pytest.raises(UserError, match="3 classes cannot be measured on 2 images"):
        measured.settle(network(nn.BatchNorm2d(4)), "convolution", real, tmp_path, images=2, class_statistics=True)
    flat = Network(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3)), "flat", 3)
    with pytest.raises(UserError, match="no layer whose statistics could be matched"):
        measured.settle(flat, "calibrated", real, tmp_path)
    assert not list(tmp_path.iterdir())


def test_digits_and_a_real_net(tmp_path):
    digits = open_images("digits", "train")
    net = build("timm/resnet10t", 10, seed=("measured",)).requires_grad_(False)
    targets = measured.settle(net, "convolution", digits, tmp_path, images=20, class_statistics=True)
    assert len({name for name, *_ in targets.layout}) == len(convolution_layers(net))
    assert targets.classes.shape == (10, *targets.overall.shape)
    assert torch.isfinite(targets.classes).all()
    assert (targets.classes[:, 1] >= 0).all()
    assert net.training  # as before
    assert not calibrated_layers(net)[0].module._forward_hooks
