from types import SimpleNamespace

import pytest

from utils import options as room_options
from utils.errors import UserError
from validate import hard_options
from validate.hard_protocols import epochs_by_ipc


def of(*words):
    return hard_options.parse(["--output-dir", "run", *words])


def images(count=100, classes=10, side=32):
    """What options read of an ImageSet."""
    class Images(SimpleNamespace):
        def __len__(self):
            return count

    return Images(dataset="imagefolder", image_size=side, classes=list(range(classes)))


def recipe(*words, **of_images):
    return hard_options.recipe_of(of(*words), images(**of_images))


@pytest.mark.parametrize(("ipc", "classes", "epochs"), [
    (1, 10, 3000), (2, 10, 2000), (10, 10, 2000), (11, 10, 1500), (50, 10, 1500), (51, 10, 1000),
    (100, 10, 1000), (200, 10, 1000), (201, 10, 500), (500, 10, 500), (501, 10, 300),
    (10, 100, 1333), (50, 100, 1000), (50, 99, 1500)])
def test_epochs_by_images_per_class(ipc, classes, epochs):
    assert epochs_by_ipc(ipc, classes) == epochs
    for protocol in ("igd", "minimax"):
        found = recipe("--protocol", protocol, count=ipc * classes, classes=classes)
        assert found.epochs == epochs


@pytest.mark.parametrize(("protocol", "lrs"), [
    # 2000 epochs: milestones 1333 and 1666
    ("igd", {0: 1e-3, 1332: 1e-3, 1333: 2e-4, 1665: 2e-4, 1666: 4e-5, 1999: 4e-5}),
    ("minimax", {0: 0.01, 1332: 0.01, 1333: 0.002, 1666: 4e-4}),
    ("dc", {0: 0.01, 149: 0.01, 150: 0.001, 299: 0.001})])
def test_learning_rate_at_given_epochs(protocol, lrs):
    found = recipe("--protocol", protocol)
    for epoch, lr in lrs.items():
        assert found.lr_at(epoch) == pytest.approx(lr)


def test_the_protocols_as_published():
    igd, minimax, dc = (recipe("--protocol", name) for name in ("igd", "minimax", "dc"))
    assert (igd.image_size, minimax.image_size, dc.image_size) == (256, 224, 32)
    assert (igd.optimizer, minimax.optimizer, dc.optimizer) == ("adamw", "sgd", "sgd")
    assert (igd.weight_decay, minimax.weight_decay, dc.weight_decay) == (0.01, 5e-4, 5e-4)
    assert (igd.batch_size, minimax.batch_size, dc.batch_size) == (64, 64, 256)
    assert (igd.augment, minimax.augment, dc.augment) == ("imagenet", "imagenet", "none")
    assert (igd.mix_type, minimax.mix_type, dc.mix_type) == ("cutmix", "cutmix", "none")
    assert (igd.seeds, minimax.seeds) == ((0, 1, 2, 3, 4), (0, 1, 2))
    assert (minimax.momentum, dc.momentum, dc.student) == (0.9, 0.9, "convnet3")


@pytest.mark.parametrize(("epochs", "tests", "tested"), [
    (3, 100, [0, 1, 2]), (199, 100, list(range(199))), (250, 100, list(range(1, 250, 2))),
    (1333, 100, [*range(12, 1333, 13), 1332]), (300, 1, [299]), (300, 2, [149, 299])])
def test_epochs_that_are_tested(epochs, tests, tested):
    given = () if tests == 100 else ("--tests", str(tests))
    found = recipe("--epochs", str(epochs), *given)
    assert [epoch for epoch in range(epochs) if found.tests_after(epoch)] == tested


def test_what_is_given_wins_and_is_noted():
    o = of("--protocol", "minimax", "--student", "convnet6", "--seeds", "3", "4", "--epochs", "7",
           "--lr", "0.01", "--image-size", "128", "--mix-type", "none")
    found = hard_options.recipe_of(o, images(side=128))
    assert (found.student, found.seeds, found.epochs, found.image_size) == (
        "convnet6", (3, 4), 7, 128)
    # A given value that is the protocol's changes nothing.
    assert hard_options.departures(o, images()) == ["epochs", "image_size", "mix_type"]
    stored = hard_options.result_options(o, found, images())
    assert "seeds" not in stored
    assert (stored["student"], stored["dataset"], stored["lr"]) == ("convnet6", "imagefolder", 0.01)


def test_seeds_and_folders_make_no_difference():
    values = [hard_options.result_options(o, hard_options.recipe_of(o, images()), images())
              for o in (of(), of("--seeds", "9", "--student-name", "x", "--workers", "1"))]
    assert values[0] == values[1]


@pytest.mark.parametrize(("words", "sentence"), [
    ([], "--output-dir is needed"),
    (["--output-dir", "run", "--seeds", "1", "2", "1"], "--seeds 1 2 1: a seed is named twice"),
    (["--output-dir", "run", "--val-dir", "/data/val", "--val-cache", "/data/val/cache"],
     "--val-cache: found /data/val/cache, expected a folder outside the images in /data/val,"),
    (["--output-dir", "run", "--protocol", "idc"], "invalid choice: 'idc'"),
    (["--output-dir", "run", "--epochs", "0"], "found 0, expected at least 1"),
    (["--output-dir", "run", "--student-name", "a/b"], "expected a plain name")])
def test_bad_options(words, sentence):
    with pytest.raises(UserError, match=sentence):
        hard_options.parse(words)


def test_options_are_few():
    assert len(room_options.option_fields(hard_options.Options)) <= 24
