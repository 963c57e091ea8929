import numpy as np
import pytest
import tiny
import torch
from torch import nn

from data.opening import open_real
from models.networks import Network, build
from models.training_data import FolderBatches
from recover.options import Matching
from recover.priors import measured
from recover.priors.layers import calibrated_layers, convolution_layers
from utils.errors import UserError

CPU = torch.device("cpu")


class Small(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 4, 3, stride=2), norm
        self.head = nn.Conv2d(4, 3, 3)

    def forward(self, x):
        return self.head(self.norm(self.first(x)).relu()).mean((2, 3))


def network(norm, seed=0):
    torch.manual_seed(seed)
    net = Small(norm)
    for buffer in net.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return Network(net.eval().requires_grad_(False), "small", 3)


def calibrate(net, real, folder, images=0):
    matching = Matching(statistics_images=images)
    return measured.settle(net, "calibrated", real, folder, matching, CPU)


def convolve(net, real, folder, images=0, share=0.5):
    matching = Matching("convolution", class_statistics=share, statistics_images=images)
    return measured.settle(net, "convolution", real, folder, matching, CPU)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    root = tiny.image_folder(tmp_path_factory.mktemp("data"), per_class=5)
    return open_real("imagefolder", "train", root, 32, workers=1)


@pytest.fixture
def batches_of_6(monkeypatch):
    """15 images make two whole batches and one of three; forwards are cut into parts of four."""
    monkeypatch.setattr(measured, "BATCH", 6)
    monkeypatch.setattr(measured, "_FORWARD", 4)


def slow_views(real):
    """The same views in batches: [(images, labels), ...]."""
    indices = measured.choose_images(real.by_class, 0)
    return list(FolderBatches(real, 6, 0.5, CPU, 0, indices).epoch(measured._KEY))


def mean_and_variance(rows):
    return np.array([[np.mean(v) for v in rows], [np.mean((v - np.mean(v)) ** 2) for v in rows]])


@pytest.mark.usefixtures("batches_of_6")
def test_calibrated_statistics_against_a_slow_loop(real, tmp_path):
    net = network(nn.GroupNorm(1, 4))
    targets = calibrate(net, real, tmp_path)
    assert targets.layout == [("net.norm", "channels", 4)]
    assert targets.classes is None
    batches, total = slow_views(real), np.zeros((2, 4))
    assert [len(x) for x, _ in batches] == [6, 6, 3]
    for x, _ in batches:
        z = net.net.first(x).double().numpy()
        total += len(x) * mean_and_variance([z[:, c].ravel() for c in range(4)])
    np.testing.assert_allclose(targets.overall.numpy(), total / 15, rtol=1e-5)


@pytest.mark.usefixtures("batches_of_6")
def test_convolution_and_class_statistics_against_a_slow_loop(real, tmp_path):
    net = network(nn.BatchNorm2d(4))
    targets = convolve(net, real, tmp_path)
    assert targets.layout == [
        ("net.first", "channels", 3), ("net.first", "patches", 4), ("net.norm", "channels", 4),
        ("net.head", "channels", 4), ("net.head", "patches", 1)]
    assert targets.classes.shape == (3, 2, 16)

    def stem(x):
        patches = [x[:, :, r : r + 16, c : c + 16].ravel() for r in (0, 16) for c in (0, 16)]
        return mean_and_variance([x[:, c].ravel() for c in range(3)] + patches)

    whole, per_class, counts = np.zeros((2, 7)), np.zeros((3, 2, 11)), np.zeros(3)
    for x, labels in slow_views(real):
        norm = net.net.first(x).double().numpy()
        x = x.double().numpy()
        whole += len(x) * stem(x)
        for i, label in enumerate(labels.tolist()):
            channels = mean_and_variance([norm[i, c].ravel() for c in range(4)])
            per_class[label] += np.concatenate([stem(x[i : i + 1]), channels], 1)
            counts[label] += 1
    assert counts.tolist() == [5, 5, 5]
    close = {"rtol": 1e-4, "atol": 1e-6}
    np.testing.assert_allclose(targets.overall[:, :7].numpy(), whole / 15, **close)
    np.testing.assert_allclose(targets.classes[..., :11].numpy(), per_class / 5, **close)
    running = torch.stack([net.net.norm.running_mean, net.net.norm.running_var])
    assert torch.equal(targets.overall[:, 7:11], running)


def test_read_again_and_not_measured_twice(real, tmp_path, monkeypatch):
    first = convolve(network(nn.BatchNorm2d(4)), real, tmp_path)
    monkeypatch.setattr(measured, "measure", lambda *_: pytest.fail("measured twice"))
    again = convolve(network(nn.BatchNorm2d(4)), real, tmp_path, images=99, share=0.3)
    assert first.layout == again.layout
    assert torch.equal(first.overall, again.overall)
    assert torch.equal(first.classes, again.classes)
    assert len(list(tmp_path.iterdir())) == 1


def test_measured_again_gives_the_same_bytes(real, tmp_path):
    files = []
    for name in "ab":
        convolve(network(nn.BatchNorm2d(4)), real, tmp_path / name, images=7)
        files += (tmp_path / name).iterdir()
    assert files[0].name == files[1].name
    assert files[0].read_bytes() == files[1].read_bytes()


def test_another_network_other_images_and_other_options_have_other_files(real, tmp_path):
    root, out = tiny.image_folder(tmp_path / "other", per_class=4), tmp_path / "out"
    net = network(nn.GroupNorm(1, 4))
    calibrate(net, real, out)
    calibrate(network(nn.GroupNorm(1, 4), seed=1), real, out)
    for size in (32, 24):
        calibrate(net, open_real("imagefolder", "train", root, size, workers=1), out)
    calibrate(net, real, out, images=6)
    for share in (0.0, 0.5):
        convolve(net, real, out, share=share)
    assert len(list(out.iterdir())) == 7


def test_a_file_that_is_not_what_its_name_says_is_damaged(real, tmp_path):
    net = network(nn.GroupNorm(1, 4))
    calibrate(net, real, tmp_path / "a")
    calibrate(network(nn.GroupNorm(1, 4), seed=1), real, tmp_path / "b")
    (path,), (other,) = (list((tmp_path / name).iterdir()) for name in "ab")
    for content in (other.read_bytes(), path.read_bytes()[:200]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="damaged .* Remove it"):
            calibrate(net, real, tmp_path / "a")


def test_chosen_images_are_balanced_and_the_same_again():
    by_class = [torch.arange(0, 10), torch.arange(10, 12), torch.arange(12, 22)]
    for count in (1, 3, 6, 7, 10, 21):
        chosen = measured.choose_images(by_class, count).tolist()
        assert len(set(chosen)) == len(chosen) == count
        assert chosen == measured.choose_images(by_class, count).tolist()
        per_class = [sum(i in images for i in chosen) for images in by_class]
        assert abs(per_class[0] - per_class[2]) <= 1
        assert min(2, count // 3) <= per_class[1] <= 2
    every = measured.choose_images(by_class, 0).tolist()
    assert sorted(every) == list(range(22))
    assert every != list(range(22))
    assert sorted(measured.choose_images(by_class, 99).tolist()) == list(range(22))


def test_too_few_images_for_the_classes_and_no_layers(real, tmp_path):
    with pytest.raises(UserError, match="3 classes cannot be measured on 2 images"):
        convolve(network(nn.BatchNorm2d(4)), real, tmp_path, images=2)
    flat = Network(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3)), "flat", 3)
    with pytest.raises(UserError, match="no layer whose statistics could be matched"):
        calibrate(flat, real, tmp_path)
    assert not list(tmp_path.iterdir())


def test_digits_and_a_network_of_timm(tmp_path):
    net = build("timm/resnet10t", 10, seed=("measured",)).requires_grad_(False)
    targets = convolve(net, open_real("digits", "train", workers=1), tmp_path, images=20)
    assert len({name for name, *_ in targets.layout}) == len(convolution_layers(net))
    assert targets.classes.shape == (10, *targets.overall.shape)
    assert torch.isfinite(targets.classes).all()
    assert (targets.classes[:, 1] >= 0).all()
    assert net.training  # as before
    assert not calibrated_layers(net)[0].module._forward_hooks
