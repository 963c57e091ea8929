import pytest

from models.pretrain_options import make_plans, parse
from utils.errors import UserError

BOTH = ("--dataset", "digits", "--teachers", "resnet50", "alexnet", "alexnet")


def plans(*words):
    return make_plans(parse(["--output-dir", "x", *words]), 32, lambda name: name != "alexnet")


def test_recipes_of_a_dataset_and_of_a_network():
    resnet, alexnet = plans(*BOTH)
    assert (resnet.lr, resnet.epochs, resnet.pad, resnet.input_resize) == (0.05, 10, 2, None)
    assert (resnet.init, resnet.dropout, resnet.warmup) == ("own", None, 0.2)
    assert (alexnet.lr, alexnet.input_resize, alexnet.init) == (0.06, 64, "he")
    assert (alexnet.dropout, alexnet.clip_norm) == (0.0, 1.0)


def test_networks_without_batch_norm_get_a_tenth_of_the_learning_rate():
    resnet, alexnet = plans("--teachers", "resnet50", "alexnet")
    assert (resnet.lr, alexnet.lr, resnet.batch_size, resnet.pad) == (0.1, 0.01, 256, None)


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
    (("--epochs-for", "alexnet"), "expected NAME=VALUE"),
    (("--epochs-for", "alexnet=0"), "for alexnet: found 0, expected at least 1"),
    (("--init-for", "alexnet=x"), "expected own or he"), (("--lr", "-1"), "more than 0")])
def test_refused(words, sentence):
    with pytest.raises(UserError, match=sentence):
        plans(*BOTH, *words)
