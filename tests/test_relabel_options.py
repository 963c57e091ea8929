from types import SimpleNamespace

from relabel.options import manifest_options, parse, resolve

DIGITS = SimpleNamespace(dataset="digits", image_size=32)
FOLDER = SimpleNamespace(dataset="imagefolder", image_size=224)


def parsed(*words):
    return parse(["--output-dir", "/x", *words])


def test_a_given_option_wins_even_when_it_equals_a_default():
    o = parsed("--preset", "sre2l", "--batch-size", "50", "--min-scale-crops", "0.08")
    assert (o.views.batch_size, o.views.min_scale_crops) == (50, 0.08)
    assert o.teachers.ensemble == "single"
    assert o.changed == {"output_dir", "batch_size"}


def test_what_follows_from_the_images_and_from_other_options():
    o = resolve(parsed("--mix-type", "mixup", "--ensemble", "single"), DIGITS)
    assert (o.views.flip_prob, o.views.mix_alpha) == (0.0, 0.8)
    assert o.teachers.teachers == ("resnet18",)
    assert str(o.data.fkd_path) == "/x/labels"
    assert resolve(parsed(), FOLDER).views.flip_prob == 0.5
    assert resolve(parsed("--flip-prob", "0.1"), DIGITS).views.flip_prob == 0.1


def test_labels_json_keeps_what_changes_the_labels():
    assert manifest_options(resolve(parsed(), FOLDER), FOLDER) == {
        "teachers": ("resnet18", "mobilenet_v2", "alexnet", "shufflenet_v2_x0_5"),
        "ensemble": "equal_energy", "fkd_seed": 42, "batch_size": 50, "augment": "crop",
        "min_scale_crops": 0.25, "flip_prob": 0.5, "mix_type": "cutmix", "mix_alpha": 1.0,
        "image_size": 224, "label_format": "fp16", "label_top_k": None, "precision": "fp32",
        "compile": False}
