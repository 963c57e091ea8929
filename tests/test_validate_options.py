import argparse
from types import SimpleNamespace

import pytest

from utils.errors import UserError
from validate import options
from validate.options import parse


def of(*words):
    return parse(["--output-dir", "run", *words])


def images(count=100, classes=10):
    """What options read of an ImageSet."""
    class Images(SimpleNamespace):
        def __len__(self):
            return count

    return Images(dataset="imagefolder", image_size=224, classes=list(range(classes)))


@pytest.mark.parametrize(("preset", "factors"), [
    ("prism", {0: 1, 125: 0.9330127, 250: 0.75, 251: 0.1225, 299: 0.0025}),
    ("delt", {0: 1, 100: 0.9330127, 150: 0.8535534, 200: 0.75, 299: 0.5026180}),
    ("rded", {0: 1, 150: 0.8535534, 200: 0.75}),
    ("sre2l", {0: 1, 75: 0.8535534, 150: 0.5, 200: 0.25}),
    ("cda", {0: 1, 150: 0.5, 200: 0.25}),
    ("gvbsm", {0: 1, 150: 0.5, 200: 0.25}),
    ("edc", {0: 1, 75: 0.875, 150: 0.75, 299: 1 - 299 / 600}),
    ("hard-label", {0: 1, 29: 1, 30: 0.1, 59: 0.1, 60: 0.01, 89: 0.01}),
])
def test_learning_rate_at_given_epochs(preset, factors):
    optimisation = options.resolve(of("--preset", preset), images()).optimisation
    assert optimisation.epochs == (90 if preset == "hard-label" else 300)
    assert optimisation.lr == (0.1 if preset == "hard-label" else 1e-3)
    for epoch, factor in factors.items():
        assert optimisation.lr_at(epoch) / optimisation.lr == pytest.approx(factor, abs=1e-7)


def test_zeta_shapes_ssrs_alone():
    given = options.resolve(of("--zeta", "5"), images())
    assert given.optimisation.lr_at(250) < 1e-3
    assert given.optimisation.lr_at(250) > options.resolve(of(), images()).optimisation.lr_at(250)
    cosine = options.resolve(of("--zeta", "5", "--lr-schedule", "cosine"), images())
    assert cosine.optimisation.lr_at(150) == pytest.approx(5e-4)


def epochs_with_a_test(testing, epochs):
    return [epoch for epoch in range(epochs) if testing.tests_after(epoch, epochs)]


@pytest.mark.parametrize(("preset", "expected"), [
    ("prism", list(range(9, 300, 10))), ("delt", list(range(9, 300, 10))),
    ("rded", [249, 259, 269, 279, 289, 299]), ("edc", list(range(29, 300, 30))),
    ("hard-label", list(range(9, 90, 10)))])
def test_epochs_that_are_tested(preset, expected):
    o = of("--preset", preset)
    assert epochs_with_a_test(o.testing, o.optimisation.epochs) == expected


def test_the_last_epoch_is_always_tested():
    assert epochs_with_a_test(options.Testing(eval_every=3), 7) == [2, 5, 6]
    assert epochs_with_a_test(options.Testing(eval_every=3, eval_from=1.0), 7) == [6]
    late = options.Testing(eval_every=1, eval_from=0.7)
    assert epochs_with_a_test(late, 30) == list(range(21, 30))


def test_a_given_option_wins_even_when_it_equals_a_default():
    default = of()
    o = of("--preset", "delt", "--lr-schedule", default.optimisation.lr_schedule, "--labels",
           "stored", "--randaugment", "none", "--epochs", "300")
    assert o.optimisation.lr_schedule == default.optimisation.lr_schedule
    assert (o.soft_labels.labels, o.views.randaugment) == ("stored", None)
    assert (o.objective.temperature, o.optimisation.bn_momentum) == (20.0, 0.19)
    assert options.departures(o) == ["lr_schedule", "randaugment"]


def test_what_is_not_read_makes_no_difference():
    plain = options.resolve(of(), images())
    unread = options.resolve(of("--temperature", "3", "--momentum", "0.5", "--teachers", "alexnet",
                                "--ensemble", "mean"), images())
    for group in ("soft_labels", "objective", "optimisation"):
        assert getattr(plain, group) == getattr(unread, group)
    assert plain.objective == options.Objective("mse_gt", 0.1, None, "unmixed")
    hard = options.resolve(of("--loss-type", "ce", "--ce-weight", "0.5"), images())
    assert hard.objective == options.Objective("ce", None, None, "mixed")


def test_rules_of_a_protocol_follow_student_and_images():
    few = options.resolve(of("--preset", "delt", "--student", "mobilenet_v2"), images(10))
    many = options.resolve(of("--preset", "delt", "--student", "resnet101"), images(100))
    assert (few.optimisation.batch_size, few.optimisation.lr) == (20, 2.5e-3)
    assert (many.optimisation.batch_size, many.optimisation.lr) == (50, 1e-3)
    with pytest.raises(UserError, match="--lr delt: known for resnet18"):
        options.resolve(of("--preset", "delt", "--student", "densenet121"), images())


@pytest.mark.parametrize(("words", "sentence"), [
    (["--randaugment", "rand-m6"], "--randaugment: found labels of relabel.*or leave it out"),
    (["--preset", "rded", "--labels", "stored"], "--shuffle-patches: .*leave out --preset rded"),
    (["--randaugment", "rand-q"], "expected timm's string"),
    (["--lr", "rded"], "expected a number, or delt"),
    (["--batch-size", "0"], "at least 1, or delt or rded"),
    (["--ema", "1"], "would never leave the start"),
    (["--student-name", "a/b"], "expected a plain name"),
    (["--input-resize", "alexnet=64"], "the student is resnet18. Give --input-resize 64"),
    (["--input-resize", "big"], "expected a side in pixels"),
    (["--val-dir", "val", "--val-cache", "val/cache"],
     "--val-cache: found .*val/cache, expected a folder outside the images in .*val,"),
    (["--preset", "srel2"], "invalid choice")])
def test_what_does_not_go_together_is_one_sentence(words, sentence):
    with pytest.raises(UserError, match=sentence):
        of(*words)


def test_training_needs_a_run_folder():
    with pytest.raises(UserError, match="--output-dir is needed"):
        parse([])
    assert parse(["--evaluate", "best.safetensors"]).data.output_dir is None


@pytest.mark.parametrize("text", ["auto", "rand-m", "rand-z3", "rand--m6", "rand-m6-tnope",
                                  "m6-n2", ""])
def test_strings_that_timm_would_skip_or_refuse(text):
    with pytest.raises(argparse.ArgumentTypeError, match="such as rand-m6-n2-mstd1.0"):
        options.rand_augment(text)


@pytest.mark.parametrize("text", ["rand", "rand-m6-n2-mstd1.0", "rand-m9-mstd0.5-inc1",
                                  "rand-n3-p0.5-mmax10-tweights"])
def test_strings_that_pass_are_read_by_timm(text):
    from validate.whole_images import rand_augment

    assert options.rand_augment(text) == text
    assert rand_augment(text, 32).ops
