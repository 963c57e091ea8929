from dataclasses import replace

import pytest

from data.survey import Survey
from reproduce import plan as planning
from reproduce.plan import Wishes, candidates, choose

FASHION = Survey(tuple("abcdefghij"), (1000,) * 10, (28, 28, 28), alike=True, grey=True)
PHOTOGRAPHS = Survey(tuple("abcdef"), (90,) * 6, (64, 170, 300), alike=False, grey=False,
                     decode_seconds=0.002)
FOUR = Survey(tuple("abcd"), (50, 60, 70, 80), (224, 224, 224), alike=True, grey=False,
              decode_seconds=0.004)
# Seconds of an image in training at 28 px and stem imagenet; the small stem costs seven times that.
COSTS = {"resnet18": 2.3e-3, "mobilenet_v2": 1.1e-3, "shufflenet_v2_x0_5": 4e-4}


def cpu(name, size, stem):
    seconds = COSTS[name] * (size / 28) ** 2 * (7 if stem == "small" else 1)
    return seconds, seconds / 3


def gpu(name, size, stem):
    return tuple(seconds / 300 for seconds in cpu(name, size, stem))


def test_small_grey_images_on_a_cpu():
    plan = choose(FASHION, 10_000, Wishes(30), cpu)
    assert (plan.image_size, plan.stem, plan.flip_prob) == (28, "imagenet", 0.0)
    assert (plan.ipc, plan.units_per_step, plan.batch_size, plan.lr) == (10, 10, 128, 0.1)
    assert plan.teacher_epochs >= 6
    assert plan.iteration >= 100
    assert plan.epochs >= 40
    assert plan.total <= 30 * 60
    assert plan.better[:2] == (28, "small")
    assert plan.better[2] > 30


def test_a_gpu_takes_the_small_stem_and_the_paper_s_lengths():
    plan = choose(FASHION, 10_000, Wishes(30), gpu)
    assert (plan.image_size, plan.stem, plan.better) == (28, "small", None)
    assert (plan.teacher_epochs, plan.iteration, plan.epochs) == (30, 4000, 300)


def test_the_budget_that_a_better_choice_is_said_to_need_affords_it():
    size, stem, minutes = choose(FASHION, 10_000, Wishes(30), cpu).better
    plan = choose(FASHION, 10_000, Wishes(minutes), cpu)
    assert (plan.image_size, plan.stem) == (size, stem)
    assert plan.share >= 0.5


def test_photographs_of_mixed_sizes():
    plan = choose(PHOTOGRAPHS, 120, Wishes(30), cpu)
    assert plan.image_size in (64, 96)
    assert plan.flip_prob == 0.5
    plan = choose(PHOTOGRAPHS, 120, Wishes(30), gpu)
    assert plan.image_size == 160  # not 224: half of them would be enlarged


def test_four_classes_of_224_px():
    plan = choose(FOUR, 100, Wishes(60), gpu)
    assert (plan.image_size, plan.stem) == (224, "imagenet")
    assert plan.units_per_step == 10  # all slices of four images share a forward
    assert plan.teacher_epochs > 90  # few images: more epochs make as many steps


@pytest.mark.parametrize(("side", "alike", "expected"),
                         [(28, True, 28), (29, False, 28), (31, False, 32), (8, True, 28),
                          (63, True, 63), (64, True, 64), (100, False, 96), (500, False, 224)])
def test_images_are_hardly_ever_enlarged(side, alike, expected):
    train = replace(FASHION, sides=(side, side, side), alike=alike)
    assert candidates(train)[0][0] == expected


def test_wishes_win():
    plan = choose(FASHION, 10_000, Wishes(30, ipc=3, image_size=48, mirror="yes"), gpu)
    assert (plan.ipc, plan.image_size, plan.flip_prob, plan.units_per_step) == (3, 48, 0.5, 3)
    assert choose(FOUR, 100, Wishes(60, mirror="no"), gpu).flip_prob == 0


def test_classes_with_few_images_bound_the_images_per_class():
    assert choose(replace(FOUR, counts=(3, 60, 70, 80)), 100, Wishes(60), gpu).ipc == 3


def test_more_time_never_shortens_a_run():
    plans = [choose(FASHION, 10_000, Wishes(minutes), cpu) for minutes in (30, 45, 90, 240)]
    assert [p.share for p in plans] == sorted(p.share for p in plans)


def test_a_budget_that_is_too_small_says_what_is_needed():
    with pytest.raises(planning.TooShort) as error:
        choose(FASHION, 10_000, Wishes(1), cpu)
    assert choose(FASHION, 10_000, Wishes(error.value.minutes), cpu)


def test_the_estimate_by_hand():
    plan = replace(choose(FOUR, 100, Wishes(60), gpu), image_size=32, teachers=("resnet18",),
                   ipc=1, iteration=8, epochs=10, eval_every=5, teacher_epochs=2)
    seconds = planning.estimate(plan, FOUR, 100, Wishes(seeds=3), lambda *_: (0.5, 0.25))
    assert seconds == {"squeeze": 2 * (260 * 0.5 + 100 * 0.25), "recover": 2 * 4 * 8 * 0.5,
                       "relabel": 3 * 4 * 10 * 0.25,
                       "validate": 18 * (4 * 10 * 0.5 + 2 * 100 * 0.25)}
