import pytest

from relabel.options import parse

PRISM = ("resnet18", "mobilenet_v2", "alexnet", "shufflenet_v2_x0_5")


@pytest.mark.parametrize(("preset", "teachers", "ensemble", "batch", "area"), [
    ("prism", PRISM, "equal_energy", 50, 0.25),
    ("sre2l", ("resnet18",), "single", 1024, 0.08),
    ("cda", ("resnet18",), "single", 128, 0.08),
    ("gvbsm", ("resnet18", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5"),
     "equal_energy", 1024, 0.08),
    ("edc", ("resnet18", "mobilenet_v2", "shufflenet_v2_x0_5", "alexnet"), "mean", 100, 0.5),
])
def test_presets_of_labels(preset, teachers, ensemble, batch, area):
    o = parse(["--output-dir", "/x", "--preset", preset])
    assert (o.teachers.teachers, o.teachers.ensemble) == (teachers, ensemble)
    assert (o.views.batch_size, o.views.min_scale_crops) == (batch, area)
    assert (o.views.mix_type, o.views.fkd_seed) == ("cutmix", 42)
    assert (o.stored.epochs, o.stored.label_format) == (300, "fp16")
