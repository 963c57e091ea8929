import pytest

from models.diffusion_options import make_plan, parse
from utils.errors import UserError


def plan(*words):
    return make_plan(parse(["--output-dir", "x", *words]))


def test_recipes():
    digits, cifar, fashion = (plan("--dataset", dataset)
                              for dataset in ("digits", "cifar10", "fashion_mnist"))
    assert (digits.sample_size, digits.flip_prob) == (8, 0)
    assert (cifar.sample_size, cifar.flip_prob, cifar.steps) == (32, 0.5, 100_000)
    assert plan() == plan("--dataset", "cifar100") == cifar
    assert (fashion.sample_size, fashion.patch_size, fashion.flip_prob) == (28, 4, 0.5)


def test_what_is_given_wins_over_the_recipe():
    given = plan("--dataset", "digits", "--steps", "7", "--flip-prob", "0.5", "--lr", "1", "--ema",
                 "0", "--weight-decay", "0.25", "--seed", "3")
    assert (given.steps, given.flip_prob, given.lr, given.ema) == (7, 0.5, 1, 0)
    assert (given.weight_decay, given.seed) == (0.25, 3)


@pytest.mark.parametrize(("words", "sentence"), [
    (("--sample-size", "9"), "--sample-size 9 is not a multiple of --patch-size 2"),
    (("--width", "64"), "--width 64 is not a multiple of --heads 6 and of 4"),
    (("--width", "18"), "--width 18 is not a multiple of --heads 6 and of 4"),
    (("--dataset", "digits", "--classes", "imagenette"), "--classes imagenette: is for --dataset"),
    (("--channels", "green"), "invalid choice: 'green'"), (("--ema", "2"), "at most 1"),
    (("--steps", "0"), "found 0, expected at least 1")])
def test_refused(words, sentence):
    with pytest.raises(UserError, match=sentence):
        plan(*words)
