from dataclasses import replace

import pytest

from models.pretrain_options import make_plans, parse
from utils.errors import UserError

BOTH = ("--dataset", "digits", "--teachers", "resnet50", "alexnet", "alexnet")


def plans(*words, size=32):
    return make_plans(parse(["--output-dir", "x", *words]), size, lambda name: name != "alexnet")


def test_recipes_of_a_dataset_and_of_a_network():
    resnet, alexnet = plans(*BOTH)
    assert (resnet.lr, resnet.epochs, resnet.pad, resnet.input_resize) == (0.05, 10, 2, None)
    assert (resnet.init, resnet.dropout, resnet.warmup) == ("own", None, 0.2)
    assert (alexnet.lr, alexnet.input_resize, alexnet.init) == (0.06, 64, "he")
    assert (alexnet.dropout, alexnet.clip_norm) == (0.0, 1.0)


def test_networks_without_batch_norm_get_a_tenth_of_the_learning_rate():
    resnet, alexnet = plans("--teachers", "resnet50", "alexnet", size=224)
    assert (resnet.lr, alexnet.lr, resnet.batch_size, resnet.pad) == (0.1, 0.01, 256, None)


@pytest.mark.parametrize("size", [28, 63, 64])
def test_folders_of_small_images_have_the_recipe_of_cifar(size):
    cifar, fashion, folder = (plans("--dataset", dataset, "--teachers", "resnet18", size=size)[0]
                              for dataset in ("cifar10", "fashion_mnist", "imagefolder"))
    assert fashion == replace(cifar, epochs=5)
    assert (cifar.epochs, cifar.augment, cifar.flip_prob) == (30, "shift", 0.5)
    assert cifar.pad == {28: 4, 63: 8, 64: 8}[size]
    assert (folder == cifar) == (size < 64)
    if size == 64:
        assert (folder.epochs, folder.augment, folder.pad) == (90, "crop", None)
    assert (cifar.clip_norm, folder.clip_norm) == (1.0, 1.0 if size < 64 else None)


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "fashion_mnist"])
def test_alexnet_enlarges_small_images_and_starts_as_he_et_al(dataset):
    alexnet, resnet = plans("--dataset", dataset, "--teachers", "alexnet", "resnet18")
    assert (alexnet.input_resize, alexnet.init, alexnet.lr) == (64, "he", 0.01)
    assert (resnet.input_resize, resnet.init) == (None, "own")
    given = plans("--dataset", dataset, "--teachers", "alexnet", "--init", "own")[0]
    assert given.init == "own"


def test_augmentation_that_is_given():
    crop = plans(*BOTH, "--augment", "crop", "--flip-prob", "0.25")[0]
    assert (crop.augment, crop.pad, crop.flip_prob) == ("crop", None, 0.25)
    assert plans(*BOTH)[0].flip_prob == 0
    whole = plans("--teachers", "resnet18", "--augment", "none", "--flip-prob", "0", size=224)[0]
    assert (whole.augment, whole.pad, whole.flip_prob, whole.epochs) == ("none", None, 0, 90)
    shifted = plans("--teachers", "resnet18", "--augment", "shift", size=224)[0]
    assert shifted.pad == 28


def test_a_value_for_one_network_wins_over_one_for_all_and_that_over_recipes():
    resnet, alexnet = plans(*BOTH, "--epochs", "1", "--lr-for", "alexnet=0.5", "--lr-for",
                            "alexnet=0.25", "--input-resize", "alexnet=96", "--dropout", "0.5",
                            "--dropout-for", "resnet50=0")
    assert (resnet.epochs, alexnet.epochs) == (1, 1)
    assert (resnet.lr, alexnet.lr) == (0.05, 0.25)
    assert (resnet.dropout, alexnet.dropout) == (0, 0.5)
    assert alexnet.input_resize == 96


@pytest.mark.parametrize(("words", "sentence"), [
    (("--input-resize", "resnet18=64"), "--input-resize resnet18=...: resnet18 is not among"),
    (("--lr-for", "resnet18=0.1"), "--lr-for resnet18=...: resnet18 is not among"),
    (("--input-resize", "alexnet=20000"), "for alexnet: found 20000, .* at most 4096"),
    (("--epochs-for", "alexnet"), "expected NAME=VALUE"),
    (("--epochs-for", "alexnet=0"), "for alexnet: found 0, expected at least 1"),
    (("--init-for", "alexnet=x"), "expected own or he"), (("--lr", "-1"), "more than 0")])
def test_refused(words, sentence):
    with pytest.raises(UserError, match=sentence):
        plans(*BOTH, *words)
