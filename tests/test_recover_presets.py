"""What every preset makes of a run on ImageNet at 224 px, written down from the sources."""

import math
from types import SimpleNamespace

import pytest

from recover.options import Options, manifest_options, resolve
from recover.presets import PRESETS
from recover.teacher_pool import TeacherDraws
from recover.units import plan_units
from utils import schedules
from utils.options import from_values

IMAGENET = SimpleNamespace(dataset="imagefolder", image_size=224,
                           classes=[f"c{i}" for i in range(1000)])
G_VBSM = ("resnet18", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5")
PLAIN = {
    "dataset": "imagefolder", "image_size": 224, "image_format": "jpg", "seed": 0,
    "start": "real", "start_flip": 0.0, "ranker": "resnet18", "mosaic_candidates": 300,
    "mosaic_crops": 5, "mosaic_grid": 2, "allow_short_classes": False, "classes": None,
    "crop": "validation",
    "primary_teacher": "resnet18", "bn_teachers": (*G_VBSM[1:], "alexnet"),
    "decoupling": "multi", "logit_teacher": "primary", "selection": "pre", "drawn_per": "slice",
    "bn_law": "slots", "bn_slots": 3, "bn_slot_prob": 0.5, "bn_count": 4, "theta1": "forced",
    "head": "full",
    "r_bn": 0.01, "bn_terms": "mean", "bn_normalise": "none", "without_bn": "counted",
    "first_bn_multiplier": 10.0, "density": 0.0, "density_temperature": 4.0, "tv_l2": 0.0,
    "l2_scale": 0.0, "match": "batchnorm", "statistics_ema": 0.0, "class_statistics": 0.0,
    "class_patches": "straight", "statistics_images": 0, "iteration": 4000, "batch_size": 100,
    "batch_layout": "slice", "units_per_step": 1, "early_late": 0, "steps": "varied", "lr": 0.05,
    "augment": "crop", "min_scale_crops": 0.08, "crop_schedule": "constant", "crop_milestone": 1.0,
    "flip_prob": 0.5, "jitter": 32, "precision": "fp32", "compile": False, "ipc": None}
SRE2L = {"decoupling": "single", "start": "noise", "steps": "constant", "lr": 0.25}
IN_TURN = {"decoupling": "single", "selection": "in-turn", "steps": "constant",
           "batch_layout": "class", "match": "convolution", "ipc": 10}
EXPECTED = {
    "prism": {},
    "sre2l": SRE2L,
    "cda": {**SRE2L, "crop_schedule": "cosine"},
    "rded": {"start": "mosaic", "iteration": 0, "ipc": 10},
    "delt": {**SRE2L, "crop_schedule": "cosine", "start": "medium", "batch_layout": "class",
             "early_late": 8, "jitter": 0, "ipc": 10},
    "gvbsm": {**IN_TURN, "start": "noise", "lr": 0.1, "batch_size": 40,
              "bn_teachers": G_VBSM[1:], "statistics_ema": 0.4, "density": 1.0},
    "edc": {**IN_TURN, "start": "drawn", "start_flip": 0.5, "r_bn": 0.1, "iteration": 1000,
            "batch_size": 20, "statistics_ema": 0.8, "class_statistics": 0.5,
            "min_scale_crops": 0.5, "jitter": 0},
}


def options_of(preset, **given):
    return resolve(from_values(Options, {"preset": preset, **given}, PRESETS), IMAGENET)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_option_of_a_preset(preset):
    assert manifest_options(options_of(preset)) == {**PLAIN, **EXPECTED[preset]}


def test_weights_of_delt_are_torchvisions_default_ones():
    weights = {name: options_of(name).run.teacher_weights for name in PRESETS}
    assert weights == {**dict.fromkeys(PRESETS, "IMAGENET1K_V1"), "delt": "DEFAULT"}


def test_an_option_wins_over_a_preset_also_when_it_equals_a_default():
    options = options_of("edc", lr=0.05, iteration=4000)
    assert options.optimisation.iteration == 4000
    assert (options.losses.r_bn, options.optimisation.batch_size) == (0.1, 20)
    assert (options.given, options.changed) == ({"lr", "iteration"}, {"iteration"})


@pytest.mark.parametrize(("preset", "lr", "area"), [  # by step
    ("prism", {0: 0.05, 2000: 0.025}, {0: 0.08, 3999: 0.08}),
    ("sre2l", {0: 0.25, 1000: 0.25 * (2 + math.sqrt(2)) / 4, 2000: 0.125}, {0: 0.08}),
    ("cda", {0: 0.25, 2000: 0.125}, {0: 1.0, 1000: 0.08 + 0.46 * (1 + math.sqrt(0.5)),
                                     2000: 0.54, 3000: 0.08 + 0.46 * (1 - math.sqrt(0.5))}),
    ("delt", {0: 0.25, 2000: 0.125}, {0: 1.0, 2000: 0.54}),
    ("gvbsm", {0: 0.1, 2000: 0.05}, {0: 0.08, 2000: 0.08}),
    ("edc", {0: 0.05, 500: 0.025}, {0: 0.5, 999: 0.5}),
])
def test_learning_rate_and_least_area_at_given_steps(preset, lr, area):
    o = options_of(preset).optimisation
    steps = schedules.recover_steps(0, o.iteration, o.steps == "varied")
    assert {step: o.lr * schedules.cosine(step, steps) for step in lr} == pytest.approx(lr)
    areas = {step: schedules.crop_area(o.crop_schedule, step, steps, o.min_scale_crops,
                                       o.crop_milestone) for step in area}
    assert areas == pytest.approx(area)


@pytest.mark.parametrize(("preset", "names"), [("gvbsm", G_VBSM), ("edc", (*G_VBSM, "alexnet"))])
def test_networks_in_turn(preset, names):
    draws = TeacherDraws(options_of(preset).law)
    for step in range(11):
        teachers = draws.at("batch", 3, step=step)
        assert (teachers.logit, *teachers.bn) == (names[step % len(names)],) * 2


def test_units_of_delt():
    """Ten classes of ten images; groups of 2 2 1 1 1 1 1 1 join every 500 steps."""
    units = plan_units(options_of("delt"), None, IMAGENET.classes)
    assert len(units) == 100
    assert units[7].classes == tuple(c for c in range(70, 80) for _ in range(10))
    joined = [units[7].joined(step) for step in (0, 499, 500, 999, 1000, 3499, 3500, 3999)]
    assert joined == [20, 20, 40, 40, 50, 90, 100, 100]
