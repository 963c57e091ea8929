import hashlib
import pickle

import numpy as np
import pytest
import tiny
import torch

from data import datasets
from utils.errors import UserError


def test_folder_order_labels_and_pixels(tmp_path):
    root = tiny.image_folder(tmp_path / "train", ("b", "a"), per_class=3)
    real = datasets.open_images("imagefolder", "train", root, 32)
    assert real.classes == ["a", "b"]
    assert [p.name for p in real.paths[:3]] == ["img_000.JPEG", "img_001.JPEG", "img_002.JPEG"]
    assert real.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert [own.tolist() for own in real.by_class] == [[0, 1, 2], [3, 4, 5]]
    threaded, single = real.pixels([4, 0, 2], workers=3), real.pixels([4, 0, 2], workers=0)
    assert threaded.shape == (3, 3, 32, 32)
    assert torch.equal(threaded, single)
    assert torch.equal(threaded[1], real.centre(0))


def test_class_order_may_be_given(tmp_path):
    root = tiny.image_folder(tmp_path, ("a", "b"), per_class=2)
    real = datasets.open_images("imagefolder", "test", root, 32, classes=["b", "a"])
    assert real.paths[0].parent.name == "b"
    assert real.labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(("make", "message"), [
    (lambda _: None, "no such folder. Expected one sub-folder of images per class"),
    (lambda r: r.mkdir(), "found 0 images and no sub-folders"),
    (lambda r: (r / "a").mkdir(parents=True), "no images in 1 of 1 class folders, the first is a"),
])
def test_wrong_folders(tmp_path, make, message):
    make(tmp_path / "data")
    with pytest.raises(UserError, match=message):
        datasets.open_images("imagefolder", "train", tmp_path / "data")


def test_flat_ilsvrc_validation_folder_is_explained(tmp_path):
    (tmp_path / "ILSVRC2012_val_00000001.JPEG").write_bytes(b"x")
    with pytest.raises(UserError, match="1 validation images of ILSVRC2012 lie flat.*one folder per wnid"):
        datasets.open_images("imagefolder", "test", tmp_path)


def test_other_classes_than_distilled(tmp_path):
    root = tiny.image_folder(tmp_path, ("a", "b"), per_class=1)
    with pytest.raises(UserError, match="has 2 class folders, expected the 3 that were distilled: 2 missing .the first is c"):
        datasets.open_images("imagefolder", "test", root, classes=["a", "c", "d"])


def test_subset_of_wnids_is_found_in_the_whole_folder(tmp_path):
    root = tiny.image_folder(tmp_path, ("n00000001", "n00000002", "n00000003"), per_class=2)
    real = datasets.open_images("imagefolder", "test", root, 32, classes=["n00000001", "n00000003"])
    assert real.classes == ["n00000001", "n00000003"]
    assert [p.parent.name for p in real.paths] == ["n00000001"] * 2 + ["n00000003"] * 2


def test_digits_are_real_stratified_and_fixed():
    train, test = (datasets.open_images("digits", split) for split in ("train", "test"))
    assert (len(train), len(test)) == (1297, 500)
    assert np.bincount(test.labels).tolist() == [50, 51, 49, 51, 50, 51, 50, 50, 48, 50]
    assert not train.flips
    digest = hashlib.sha256(test.arrays.tobytes() + test.labels.tobytes()).hexdigest()
    assert digest.startswith("5b38d16a1f01028b"), digest  # the split must stay the same for results to be comparable
    assert train.centre(0).shape == (3, 32, 32)
    assert train.arrays.max() == 255
    assert len(np.unique(train.arrays)) == 17  # grey levels
    both = {a.tobytes() for a in train.arrays} & {a.tobytes() for a in test.arrays}
    assert not both


def test_cifar_folder_through_torchvision(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    random = np.random.default_rng(0)
    batches = [(f"data_batch_{i}", 4) for i in range(1, 6)] + [("test_batch", 4)]
    for name, n in batches:
        content = {"data": random.integers(0, 256, (n, 3072), dtype=np.uint8), "labels": [0, 3, 9, 3]}
        (folder / name).write_bytes(pickle.dumps(content))
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda _: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    train = datasets.open_images("cifar10", "train", tmp_path)
    assert (len(train), train.classes, train.image_size) == (20, names, 32)
    assert train.by_class[3].tolist() == [1, 3, 5, 7, 9, 11, 13, 15, 17, 19]
    first = pickle.loads((folder / "data_batch_1").read_bytes())["data"][0]
    assert torch.equal(train.centre(0), torch.from_numpy(first.reshape(3, 32, 32)))


def test_cifar_without_data_or_folder(tmp_path):
    with pytest.raises(UserError, match="--dataset cifar10: a folder is needed"):
        datasets.open_images("cifar10", "train")
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(UserError, match="cifar10 is not there"):
        datasets.open_images("cifar10", "train", tmp_path)
