import pytest

from relabel.args import get_args_parser

PRISM = ["resnet18", "mobilenet_v2", "alexnet", "shufflenet_v2_x0_5"]


def parse(*words):
    return get_args_parser().parse_args(["--output-dir", "/x", *words])


@pytest.mark.parametrize(("preset", "teachers", "ensemble", "batch", "area"), [
    ("prism", PRISM, "equal_energy", 50, 0.25),
    ("sre2l", ["resnet18"], "single", 1024, 0.08),
    ("cda", ["resnet18"], "single", 128, 0.08),
    ("gvbsm", ["resnet18", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5"], "equal_energy", 1024, 0.08),
    ("edc", ["resnet18", "mobilenet_v2", "shufflenet_v2_x0_5", "alexnet"], "mean", 100, 0.5),
])
def test_presets_of_labels(preset, teachers, ensemble, batch, area):
    args = parse("--preset", preset)
    assert (args.teachers, args.ensemble, args.batch_size, args.min_scale_crops) == (teachers, ensemble, batch, area)
    assert (args.epochs, args.fkd_seed, args.mix_type, args.label_format) == (300, 42, "cutmix", "fp16")


def test_a_given_option_wins_even_when_it_equals_a_default():
    args = parse("--preset", "sre2l", "--batch-size", "50", "--min-scale-crops", "0.08")
    assert (args.batch_size, args.min_scale_crops, args.ensemble) == (50, 0.08, "single")
    assert args.changed == {"output_dir", "batch_size"}
