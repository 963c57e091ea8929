"""What every method's preset makes of a run on ImageNet at 224 px, written down from the sources and not from recover.presets."""

import math
from types import SimpleNamespace

import pytest

from recover.args import get_args_parser
from recover.presets import PRESETS
from recover.settings import make_law, make_recipe, resolve, unread
from recover.units import build_class_batches
from utils import schedules

IMAGENET = SimpleNamespace(image_size=224, flips=True, classes=[f"c{i}" for i in range(1000)])
G_VBSM = ["resnet18", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5"]
OPTIMISED = {"r_bn": 0.01, "first_bn_multiplier": 10.0, "bn_normalise": "none", "tv_l2": 0.0, "l2_scale": 0.0, "density": 0.0,
             "min_scale_crops": 0.08, "crop_schedule": "constant", "flip_prob": 0.5, "jitter": 32, "batch_size": 100,
             "batch_layout": "slice", "early_late": 0, "iteration": 4000, "steps": "constant", "primary_teacher": "resnet18",
             "decoupling": "single", "bn_teachers": [], "match": "batchnorm", "without_bn": "counted", "logit_teacher": "primary"}
SRE2L = {**OPTIMISED, "start": "noise", "lr": 0.25}
CDA = {"crop_schedule": "cosine", "crop_milestone": 1.0}
IN_TURN = {**OPTIMISED, "selection": "in-turn", "batch_layout": "class", "match": "convolution", "statistics_images": 0,
           "without_bn": None, "logit_teacher": None}  # with convolutions every net has layers; turns draw nothing
EXPECTED = {
    "prism": {**OPTIMISED, "start": "real", "start_flip": 0.0, "allow_short_classes": False, "lr": 0.05, "steps": "varied",
              "decoupling": "multi", "selection": "pre", "drawn_per": "slice", "bn_law": "slots", "bn_slots": 3,
              "bn_slot_prob": 0.5, "bn_terms": "mean", "bn_teachers": [*G_VBSM[1:], "alexnet"]},
    "sre2l": SRE2L,
    "cda": {**SRE2L, **CDA},
    "rded": {"start": "mosaic", "start_flip": 0.0, "ranker": "resnet18", "mosaic_candidates": 300, "mosaic_crops": 5,
             "mosaic_grid": 2, "iteration": 0, "bn_teachers": [], "batch_size": 100, "batch_layout": "slice", "early_late": 0,
             "ipc": 10},
    "delt": {**SRE2L, **CDA, "start": "medium", "start_flip": 0.0, "allow_short_classes": False, "ranker": "resnet18",
             "batch_layout": "class", "early_late": 8, "jitter": 0, "ipc": 10},
    "gvbsm": {**IN_TURN, "start": "noise", "lr": 0.1, "batch_size": 40, "bn_teachers": G_VBSM[1:], "statistics_ema": 0.4,
              "class_statistics": 0.0, "density": 1.0, "density_temperature": 4.0, "ipc": 10},
    "edc": {**IN_TURN, "start": "drawn", "start_flip": 0.5, "lr": 0.05, "r_bn": 0.1, "iteration": 1000, "batch_size": 20,
            "bn_teachers": [*G_VBSM[1:], "alexnet"], "statistics_ema": 0.8, "class_statistics": 0.5, "class_patches": "straight",
            "min_scale_crops": 0.5, "jitter": 0, "ipc": 10},
}
OF_EVERY_RUN = {"seed": 0, "dataset": "imagefolder", "image_size": 224, "image_format": "jpg"}


def settings_of(preset):
    return resolve(get_args_parser().parse_args(["--output-dir", "x", "--preset", preset]), IMAGENET)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_option_of_a_preset(preset):
    found = {name: value for name, value in settings_of(preset).items() if value is not None}
    shared = {} if preset == "rded" else {"units_per_step": 1, "precision": "fp32", "compile": False}
    assert found == {**OF_EVERY_RUN, **shared, **{n: v for n, v in EXPECTED[preset].items() if v is not None}}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_option_that_a_preset_sets_is_read(preset):
    idle = {name for name, why in unread(get_args_parser().parse_args(["--output-dir", "x", "--preset", preset])).items() if why}
    assert not idle & set(PRESETS[preset])


def test_weights_of_delt_are_torchvisions_default_ones():
    weights = {name: get_args_parser().parse_args(["--output-dir", "x", "--preset", name]).teacher_weights for name in PRESETS}
    assert weights == {**dict.fromkeys(PRESETS, "IMAGENET1K_V1"), "delt": "DEFAULT"}


@pytest.mark.parametrize(("preset", "lr", "area"), [  # by step
    ("prism", {0: 0.05, 2000: 0.025}, {0: 0.08, 3999: 0.08}),
    ("sre2l", {0: 0.25, 1000: 0.25 * (2 + math.sqrt(2)) / 4, 2000: 0.125}, {0: 0.08}),
    ("cda", {0: 0.25, 2000: 0.125}, {0: 1.0, 1000: 0.08 + 0.46 * (1 + math.sqrt(0.5)), 2000: 0.54,
                                     3000: 0.08 + 0.46 * (1 - math.sqrt(0.5))}),
    ("delt", {0: 0.25, 2000: 0.125}, {0: 1.0, 2000: 0.54}),
    ("gvbsm", {0: 0.1, 2000: 0.05}, {0: 0.08, 2000: 0.08}),
    ("edc", {0: 0.05, 500: 0.025}, {0: 0.5, 999: 0.5}),
])
def test_learning_rate_and_least_area_at_given_steps(preset, lr, area):
    settings = settings_of(preset)
    recipe, steps = make_recipe(settings), schedules.recover_steps(0, settings["iteration"], settings["steps"] == "varied")
    assert {step: recipe.lr * schedules.cosine(step, steps) for step in lr} == pytest.approx(lr)
    assert {step: schedules.crop_area(recipe.crop_schedule, step, steps, recipe.min_scale_crops, recipe.crop_milestone)
            for step in area} == pytest.approx(area)


@pytest.mark.parametrize(("preset", "nets"), [("gvbsm", G_VBSM), ("edc", [*G_VBSM, "alexnet"])])
def test_nets_in_turn(preset, nets):
    law = make_law(settings_of(preset))
    for step in range(11):
        teachers = law.at("batch", 3, step=step)
        assert (teachers.logit, teachers.bn) == (nets[step % len(nets)], (nets[step % len(nets)],))


def test_batches_of_delt():
    """Ten classes of ten images; groups of 2 2 1 1 1 1 1 1 join every 500 steps."""
    settings = settings_of("delt")
    units = build_class_batches(10, settings["batch_size"], None, IMAGENET.classes, False, settings["iteration"],
                                settings["early_late"], make_law(settings))
    assert len(units) == 100
    assert units[7].classes == tuple(c for c in range(70, 80) for _ in range(10))
    assert [units[7].joined(step) for step in (0, 499, 500, 999, 1000, 3499, 3500, 3999)] == [20, 20, 40, 40, 50, 90, 100, 100]
