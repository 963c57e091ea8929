import gzip
import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torchvision.datasets import FashionMNIST

from data.library_datasets import load
from data.opening import open_distilled, open_real
from models import pretrain, pretrain_diffusion
from recover import dap_synthesis, data_synthesis
from relabel import generate_soft_label
from report.start_grid import StartImages
from utils.errors import UserError
from validate import train_fkd, train_hard

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker",
           "Bag", "Ankle boot"]
NET = "shufflenet_v2_x0_5"


def test_digits_are_real_stratified_and_fixed():
    train, test = (open_real("digits", split) for split in ("train", "test"))
    assert (len(train), len(test), train.image_size, train.flips) == (1297, 500, 32, False)
    assert np.bincount(test.labels).tolist() == [50, 51, 49, 51, 50, 51, 50, 50, 48, 50]
    # The split must stay the same for results to be comparable.
    pixels, held_out = train.source.arrays, test.source.arrays
    digest = hashlib.sha256(held_out.tobytes() + test.labels.numpy().tobytes()).hexdigest()
    assert digest.startswith("5b38d16a1f01028b"), digest
    assert pixels.max() == 255
    assert len(np.unique(pixels)) == 17  # grey levels
    assert not {a.tobytes() for a in pixels} & {a.tobytes() for a in held_out}


def test_cifar_folder_through_torchvision(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    random = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        pixels = random.integers(0, 256, (4, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [0, 3, 9, 3]}))
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship",
             "truck"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda _: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)

    train = open_real("cifar10", "train", tmp_path)
    assert (len(train), train.classes, train.image_size) == (20, names, 32)
    assert train.by_class[3].tolist() == [1, 3, 5, 7, 9, 11, 13, 15, 17, 19]
    first = pickle.loads((folder / "data_batch_1").read_bytes())["data"][0]
    assert torch.equal(train.image(0), torch.from_numpy(first.reshape(3, 32, 32)))


@pytest.mark.parametrize("folder", [".", "FashionMNIST/raw"])
@pytest.mark.parametrize("packed", [False, True])
def test_fashion_mnist_packed_or_not_in_either_folder(tmp_path, folder, packed):
    pixels, labels = tiny.fashion_files(tmp_path / folder, packed=packed)
    before = sorted(tmp_path.rglob("*"))
    for split in ("train", "test"):
        images = open_real("fashion_mnist", split, tmp_path)
        assert (images.classes, images.image_size, images.flips) == (CLASSES, 32, True)
        assert images.labels.tolist() == labels[split].tolist()
        assert images.origin(3) == f"fashion_mnist {split} image 3"

        exact = open_real("fashion_mnist", split, tmp_path, 28)
        grey = torch.from_numpy(pixels[split])
        assert torch.equal(exact.all_pixels, grey[:, None].expand(-1, 3, -1, -1))
        assert torch.equal(images.image(3)[0], images.image(3)[2])
    assert sorted(tmp_path.rglob("*")) == before


def test_fashion_mnist_is_what_torchvision_reads(tmp_path):
    tiny.fashion_files(tmp_path / "FashionMNIST/raw")
    for split in ("train", "test"):
        theirs = FashionMNIST(tmp_path, train=split == "train")
        classes, arrays, labels = load("fashion_mnist", split, tmp_path)
        assert classes == theirs.classes == CLASSES
        assert np.array_equal(arrays[..., 1], theirs.data.numpy())
        assert labels.tolist() == theirs.targets.tolist()


def test_grey_images_take_the_memory_of_one_channel(tmp_path):
    tiny.fashion_files(tmp_path)
    _, arrays, _ = load("fashion_mnist", "train", tmp_path)
    assert (arrays.shape, arrays.dtype, arrays.strides[3]) == ((20, 28, 28, 3), np.uint8, 0)


def test_fashion_mnist_is_downloaded_where_a_file_is_missing(tmp_path, monkeypatch):
    tiny.fashion_files(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    asked = []

    def download(self):
        asked.append(self.root)
        tiny.fashion_files(Path(self.raw_folder), packed=False)

    monkeypatch.setattr(FashionMNIST, "download", download)
    assert len(open_real("fashion_mnist", "train", tmp_path)) == 20
    assert not asked
    assert len(open_real("fashion_mnist", "test", tmp_path)) == 10
    assert [Path(root) for root in asked] == [tmp_path]


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="the package dataset-fashion-mnist is not there")
def test_the_package_of_debian():
    train, test = (open_real("fashion_mnist", split, DEBIAN, 28) for split in ("train", "test"))
    assert torch.bincount(train.labels).tolist() == [6000] * 10
    assert torch.bincount(test.labels).tolist() == [1000] * 10
    assert test.classes[test.labels[0]] == "Ankle boot"
    grey = train.source.arrays[..., 0] / np.float32(255)  # mean and deviation that many papers give
    assert (grey.mean(), grey.std()) == pytest.approx((0.2860, 0.3530), abs=1e-4)


# What is not there, or not whole

@pytest.mark.parametrize(("dataset", "expected"), [
    ("cifar10", "torchvision's cifar-10-batches-py folder there."),
    ("cifar100", "torchvision's cifar-100-python folder there."),
    ("fashion_mnist", "torchvision's FashionMNIST folder or its four .*-ubyte.gz files there, or "
     "give /usr/share/datasets/fashion-mnist")])
def test_without_data_or_folder(tmp_path, monkeypatch, dataset, expected):
    def no_network(*_, **__):
        raise RuntimeError("no network")

    monkeypatch.setattr("torchvision.datasets.cifar.CIFAR10.download", no_network)
    monkeypatch.setattr("torchvision.datasets.mnist.MNIST.download", no_network)
    with pytest.raises(UserError, match=f"--dataset {dataset}: a folder is needed: give --train"):
        open_real(dataset, "train")
    with pytest.raises(UserError, match=f"{dataset} is not there and could not be downloaded .no "
                       f"network.. Put {expected}"):
        open_real(dataset, "train", tmp_path)


def test_cifar_folder_without_its_files(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(UserError, match="cifar10 is not there"):
        open_real("cifar10", "train", tmp_path)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("content", [b"", b"\0\0\x08\x03\0", None])
def test_idx_files_that_are_not_whole(tmp_path, packed, content):
    tiny.fashion_files(tmp_path, packed=packed)
    path = next(tmp_path.glob("train-images*"))
    if content is None:  # a stopped copy
        path.write_bytes(path.read_bytes()[:-100])
    else:
        path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(UserError, match=f"{path}: not a whole idx file .*. Remove it and get it"):
        open_real("fashion_mnist", "train", tmp_path)


def test_labels_of_another_split(tmp_path):
    tiny.fashion_files(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").rename(tmp_path / "train-labels-idx1-ubyte")
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte: found an array of shape "
                       r"\[20, 28, 28\], and \[10\] in train-labels-idx1-ubyte; expected images"):
        open_real("fashion_mnist", "train", tmp_path)


# The stages

def start(stage, out, *more):
    """Call a stage's main on one thread."""
    words = ("--threads", 1, "--device", "cpu", "--workers", 1, "--output-dir", out, *more)
    stage.main([str(word) for word in words])


def read(path):
    return json.loads(path.read_text())


def test_the_stages_distil_fashion_mnist(tmp_path):
    """Teacher, images, labels, and students of soft and hard labels, from packed files of 28 px."""
    real, weights, run = tmp_path / "real", tmp_path / "teachers", tmp_path / "run"
    tiny.fashion_files(real, packed=True)
    start(pretrain, weights, "--dataset", "fashion_mnist", "--train-dir", real, "--teachers", NET,
          "--epochs", 1, "--batch-size", 10)
    start(data_synthesis, run, "--dataset", "fashion_mnist", "--train-dir", real,
          "--teacher-weights", weights, "--primary-teacher", NET, "--bn-slots", 0, "--ipc-end", 1,
          "--iteration", 2, "--min-teacher-accuracy", 0)
    made, content = open_distilled(run / "images"), read(run / "images.json")
    assert (made.dataset, made.classes, made.image_size) == ("fashion_mnist", CLASSES, 32)
    assert content["options"]["flip_prob"] == 0.5
    assert sorted(path.name for path in (run / "images").iterdir()) == [
        f"new{label:03d}" for label in range(10)]
    assert StartImages(run, 32, real).image(f"images/{made.names[3]}").shape == (3, 32, 32)

    start(generate_soft_label, run, "--val-dir", real, "--teacher-weights", weights, "--teachers",
          NET, "--epochs", 1, "--batch-size", 10)
    labels = read(run / "labels/labels.json")["options"]
    assert (labels["flip_prob"], labels["image_size"]) == (0.5, 32)
    start(train_fkd, run, "--val-dir", real, "--student", NET, "--student-name", "soft",
          "--epochs", 1)
    start(train_hard, run, "--val-dir", real, "--protocol", "dc", "--augment", "dc", "--epochs", 1,
          "--seeds", 0, "--student-name", "hard")
    for name in ("soft", "hard_seed0"):
        result = read(run / f"students/{name}/result.json")
        assert (result["images"], result["test_images"]) == (10, 10)


def test_dap_distils_fashion_mnist(tmp_path):
    pytest.importorskip("diffusers")
    real, weights, run = tmp_path / "real", tmp_path / "dit", tmp_path / "run"
    tiny.fashion_files(real, packed=True)
    start(pretrain_diffusion, weights, "--dataset", "fashion_mnist", "--train-dir", real,
          "--width", 16, "--layers", 2, "--heads", 2, "--steps", 2, "--batch-size", 4)
    plan = read(weights / "pixel_dit.json")["options"]
    assert (plan["sample_size"], plan["flip_prob"]) == (28, 0.5)
    start(dap_synthesis, run, "--dataset", "fashion_mnist", "--train-dir", real, "--backbone",
          "pixel-dit", "--weights", weights, "--reals", 2, "--steps", 2, "--ipc-end", 1)
    made = open_distilled(run / "images")
    assert (made.dataset, made.classes, made.image_size) == ("fashion_mnist", CLASSES, 32)
