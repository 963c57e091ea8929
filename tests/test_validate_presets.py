"""Every protocol of the field, from the parser to a trained student."""

import json

import pytest
import tiny
from PIL import Image

from models.networks import build
from relabel.generate_soft_label import main as label
from utils.checkpoint import load_tensors
from utils.errors import UserError
from utils.files import write_json
from validate.args import get_args_parser
from validate.engine import factor
from validate.presets import PRESETS
from validate.train_fkd import main
from validate.training import Training, is_tested

CLASSES = ("n01440764", "n01443537", "n01484850")
TEACHERS = ["resnet18", "shufflenet_v2_x0_5"]
COMMON = {"epochs": 2, "mix_type": "cutmix", "mix_alpha": 1.0, "optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.01,
          "weight_decay_on": "matrices", "momentum": None, "zeta": None, "gt_target": None, "ce_weight": None, "temperature": None,
          "teachers": None, "ensemble": None, "randaugment": None, "shuffle_patches": 1, "bn_momentum": None, "ema": 0.0,
          "eval_every": 10, "eval_from": 0.0, "gradient_accumulation_steps": 1}
ONLINE = {**COMMON, "loss_type": "kl", "temperature": 20.0, "teachers": ["resnet18"], "ensemble": "single", "lr": 2.5e-3,
          "lr_schedule": "half_cosine", "bn_momentum": 0.19, "batch_size": 20}
STORED = {**COMMON, "loss_type": "kl", "temperature": 20.0, "lr_schedule": "cosine", "batch_size": 1024, "min_scale_crops": 0.08}
MSE = {**STORED, "loss_type": "mse_gt", "temperature": None, "ce_weight": 0.1, "gt_target": "unmixed"}
EXPECTED = {  # written down from the sources, for the student that the test trains
    "prism": ("shufflenet_v2_x0_5", {**MSE, "lr_schedule": "ssrs", "zeta": 2.5, "batch_size": 50, "min_scale_crops": 0.25,
                                     "gradient_accumulation_steps": 2}),
    "delt": ("mobilenet_v2", {**ONLINE, "min_scale_crops": 0.25, "randaugment": "rand-m6-n2-mstd1.0"}),
    "rded": ("mobilenet_v2", {**ONLINE, "min_scale_crops": 0.5, "shuffle_patches": 2, "eval_from": 0.8}),
    "sre2l": ("shufflenet_v2_x0_5", {**STORED, "gradient_accumulation_steps": 2}),
    "cda": ("shufflenet_v2_x0_5", {**STORED, "batch_size": 128}),
    "gvbsm": ("resnet18", {**MSE, "gradient_accumulation_steps": 2}),
    "edc": ("shufflenet_v2_x0_5", {**MSE, "ce_weight": 0.025, "lr_schedule": "linear_half", "batch_size": 100,
                                   "min_scale_crops": 0.5, "ema": 0.99, "eval_every": 30}),
    "hard-label": ("shufflenet_v2_x0_5", {**COMMON, "loss_type": "ce", "gt_target": "mixed", "optimizer": "sgd", "lr": 0.1,
                                          "weight_decay": 1e-4, "weight_decay_on": "all", "momentum": 0.9, "lr_schedule": "step",
                                          "batch_size": 256, "min_scale_crops": 0.08, "mix_type": "none"}),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Six distilled images of three classes, test images, teachers."""
    root = tmp_path_factory.mktemp("presets")
    real = tiny.image_folder(root / "distil", CLASSES, 2, size=(32, 32), seed=1)
    for c, name in enumerate(CLASSES):
        (root / f"run/images/new{c:03d}").mkdir(parents=True)
        for i, file in enumerate(sorted((real / name).iterdir())):
            Image.open(file).save(root / f"run/images/new{c:03d}/class{c:03d}_id{i:03d}.png")
    write_json(root / "run/images.json", {"options": {"dataset": "imagefolder", "seed": 7}, "identity": {"classes": CLASSES}})
    tiny.image_folder(root / "val", CLASSES, 2, size=(44, 40), seed=2)
    tiny.teacher_folder(root / "teachers", TEACHERS, CLASSES)
    return root


def parse(*words):
    return get_args_parser().parse_args(list(words))


def command(made, preset, *more):
    return ["--output-dir", str(made / "run"), "--val-dir", str(made / "val"), "--preset", preset, "--device", "cpu",
            "--threads", "1", "--workers", "0", "--teacher-weights", str(made / "teachers"), *more]


def label_by(made, folder, *more):
    """Write the recipe of labels. Teachers: fewer than a preset's own, which the tests of relabel look at."""
    label(["--output-dir", str(made / "run"), "--fkd-path", str(folder), "--teachers", *TEACHERS, "--epochs", "2",
           "--teacher-weights", str(made / "teachers"), "--label-store", "none", "--device", "cpu", *more])


def result(made, name):
    return json.loads((made / f"run/students/{name}/result.json").read_text())


@pytest.mark.parametrize("preset", list(PRESETS))
def test_each_preset_trains_and_stores_its_options(made, preset, capsys):
    student, expected = EXPECTED[preset]
    labels = made / f"run/labels_{preset}"
    if preset in ("prism", "sre2l", "cda", "gvbsm", "edc"):
        label_by(made, labels, "--preset", preset)
        about = json.loads((labels / "labels.json").read_text())
        assert about["preset"] == preset
        assert about["preset_changed"] == ["teachers"]
    capsys.readouterr()
    main(command(made, preset, "--student", student, "--epochs", "2", "--fkd-path", str(labels)))
    out = capsys.readouterr().out
    kind = {"prism": "soft"}.get(preset, preset)
    found = result(made, f"{student}_{kind}_seed0")
    own = {"student": student, "stem": "imagenet", "input_resize": None, "dataset": "imagefolder", "image_size": 32,
           "flip_prob": 0.5, "seed": 0, "micro_batches": "together", "precision": "fp32", "compile": False}
    assert found["options"] == {**own, **expected}
    assert (found["preset"], found["preset_changed"]) == (preset, ["epochs"])
    notes = {"delt": ["fkd-path"], "rded": ["fkd-path"], "hard-label": ["fkd-path", "teacher-weights"]}
    assert [line.split()[1][2:] for line in out.splitlines() if line.startswith("note:")] == notes.get(preset, [])


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
def test_schedules_at_given_epochs(preset, factors):
    args = parse("--preset", preset)
    assert args.epochs == (90 if preset == "hard-label" else 300)
    for epoch, value in factors.items():
        assert factor(args.lr_schedule, epoch, args.epochs, args.zeta or 2.5) == pytest.approx(value, abs=1e-7)


@pytest.mark.parametrize(("preset", "tested"), [
    ("prism", list(range(9, 300, 10))), ("delt", list(range(9, 300, 10))), ("rded", [249, 259, 269, 279, 289, 299]),
    ("edc", list(range(29, 300, 30))), ("hard-label", list(range(9, 90, 10)))])
def test_epochs_that_are_tested(preset, tested):
    args = parse("--preset", preset)
    assert [e for e in range(args.epochs) if is_tested(e, args.epochs, args.eval_every, args.eval_from)] == tested


def test_the_last_epoch_is_always_tested():
    assert [e for e in range(7) if is_tested(e, 7, 3)] == [2, 5, 6]
    assert [e for e in range(7) if is_tested(e, 7, 3, 1.0)] == [6]
    assert [e for e in range(30) if is_tested(e, 30, 1, 0.7)] == list(range(21, 30))


def test_a_given_option_wins_even_when_it_equals_a_default(made):
    plain = parse()
    args = parse("--preset", "delt", "--lr-schedule", plain.lr_schedule, "--labels", "auto", "--randaugment", "none",
                 "--epochs", "300")
    assert (args.lr_schedule, args.labels, args.randaugment) == (plain.lr_schedule, plain.labels, "none")
    assert args.changed == {"lr_schedule", "labels", "randaugment"}
    assert (args.temperature, args.bn_momentum) == (20.0, 0.19)
    main(command(made, "hard-label", "--student", "shufflenet_v2_x0_5", "--epochs", "1", "--weight-decay-on", "matrices",
                 "--batch-size", "4", "--student-name", "wins"))
    found = result(made, "wins")
    assert (found["options"]["weight_decay_on"], found["options"]["batch_size"]) == ("matrices", 4)
    assert found["preset_changed"] == ["batch_size", "epochs", "weight_decay_on"]


def test_the_preset_never_causes_a_refusal(made, capsys):
    same = ["--student", "shufflenet_v2_x0_5", "--epochs", "1", "--student-name", "same"]
    main(command(made, "hard-label", *same))
    capsys.readouterr()
    main(command(made, "prism", *same, "--loss-type", "ce", "--optimizer", "sgd", "--weight-decay-on", "all", "--lr-schedule",
                 "step", "--batch-size", "256", "--gradient-accumulation-steps", "1", "--min-scale-crops", "0.08"))
    assert "already finished" in capsys.readouterr().out


def test_what_does_not_go_together_is_one_sentence(made):
    for more, words in (
            (["prism", "--randaugment", "rand-m6"], "--randaugment: found labels of relabel.*or leave it out"),
            (["rded", "--labels", "stored"], "--shuffle-patches: .*or leave out --preset rded"),
            (["prism", "--randaugment", "rand-q"], "expected timm's string"),
            (["prism", "--lr", "rded"], "expected a number, or delt"),
            (["prism", "--batch-size", "0"], "at least 1, or delt or rded"),
            (["prism", "--ema", "1"], "would never leave the start"),
            (["delt", "--student", "densenet121"], "--lr delt: known for resnet18"),
            (["prism", "--preset", "srel2"], "invalid choice")):
        with pytest.raises(UserError, match=words):
            main(command(made, *more, "--student-name", "refused"))
    assert not (made / "run/students/refused").exists()


def test_labels_of_another_protocol_are_refused(made):
    folder = made / "run/labels_other"
    label_by(made, folder)
    wrong = command(made, "sre2l", "--fkd-path", str(folder), "--epochs", "1", "--student-name", "other")
    with pytest.raises(UserError, match="made with --batch-size 50, found --batch-size 1024 of --preset sre2l. Give --batch"):
        main(wrong)
    assert not (made / "run/students/other").exists()


@pytest.mark.parametrize("stop", [1, 3])
def test_teacher_labels_with_average_stopped_and_resumed(made, stop, monkeypatch):
    def run(name, *more):
        main([*command(made, "delt", "--student", "mobilenet_v2", "--epochs", "4", "--eval-every", "2", "--batch-size", "4",
                       "--ema", "0.9", "--shuffle-patches", "2", "--student-name", name), *more])

    def files(name):
        return [(made / f"run/students/{name}/{which}.safetensors").read_bytes() for which in ("last", "best")]

    if not (made / "run/students/whole/result.json").exists():
        run("whole")
    one_epoch, name = Training.one_epoch, f"stopped{stop}"

    def until(self, epoch):
        if epoch == stop:
            raise KeyboardInterrupt
        one_epoch(self, epoch)

    monkeypatch.setattr(Training, "one_epoch", until)
    with pytest.raises(KeyboardInterrupt):
        run(name)
    monkeypatch.undo()
    run(name, "--workers", "2")  # nor does it depend on them
    assert files(name) == files("whole")


def test_average_is_what_is_tested_and_kept(made):
    both = ["--student", "shufflenet_v2_x0_5", "--epochs", "2", "--student-name"]
    main(command(made, "hard-label", *both, "plain"))
    main(command(made, "hard-label", *both, "averaged", "--ema", "0.5"))
    start = build("shufflenet_v2_x0_5", 3, seed=(0, "student", "shufflenet_v2_x0_5"), image_size=32).net.state_dict()
    (plain, _), (averaged, _) = (load_tensors(made / f"run/students/{name}/last.safetensors") for name in ("plain", "averaged"))
    key = "fc.weight"
    assert (averaged[key] - start[key]).norm() < (plain[key] - start[key]).norm()  # it lags behind
    running = "conv1.1.running_mean"
    assert (averaged[running] - plain[running]).abs().max() == 0  # BatchNorm's statistics are the student's own
