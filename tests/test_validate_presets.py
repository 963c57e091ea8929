"""Every protocol of the field, from the command line to a trained student."""

import json

import pytest
import tiny
from interrupting import interrupt

from models.networks import build
from relabel.generate_soft_label import main as label
from utils.checkpoint import load_tensors
from utils.errors import UserError
from validate.presets import PRESETS
from validate.train_fkd import main
from validate.training import Training

TEACHERS = ["resnet18", "shufflenet_v2_x0_5"]
SMALL = "shufflenet_v2_x0_5"

# Written down from the sources, for the student that the test trains.
COMMON = {"epochs": 2, "mix_type": "cutmix", "mix_alpha": 1.0, "optimizer": "adamw", "lr": 1e-3,
          "weight_decay": 0.01, "weight_decay_on": "matrices", "momentum": None, "zeta": None,
          "gt_target": None, "ce_weight": None, "temperature": None, "teachers": None,
          "ensemble": None, "randaugment": None, "shuffle_patches": 1, "bn_momentum": None,
          "ema": 0.0, "eval_every": 10, "eval_from": 0.0, "gradient_accumulation_steps": 1}
ONLINE = {**COMMON, "loss_type": "kl", "temperature": 20.0, "teachers": ["resnet18"],
          "ensemble": "single", "lr": 2.5e-3, "lr_schedule": "half_cosine", "bn_momentum": 0.19,
          "batch_size": 20}
STORED = {**COMMON, "loss_type": "kl", "temperature": 20.0, "lr_schedule": "cosine",
          "batch_size": 1024, "min_scale_crops": 0.08}
MSE = {**STORED, "loss_type": "mse_gt", "temperature": None, "ce_weight": 0.1,
       "gt_target": "unmixed"}
EXPECTED = {
    "prism": (SMALL, {**MSE, "lr_schedule": "ssrs", "zeta": 2.5, "batch_size": 50,
                      "min_scale_crops": 0.25, "gradient_accumulation_steps": 2}),
    "delt": ("mobilenet_v2", {**ONLINE, "min_scale_crops": 0.25,
                              "randaugment": "rand-m6-n2-mstd1.0"}),
    "rded": ("mobilenet_v2", {**ONLINE, "min_scale_crops": 0.5, "shuffle_patches": 2,
                              "eval_from": 0.8}),
    "sre2l": (SMALL, {**STORED, "gradient_accumulation_steps": 2}),
    "cda": (SMALL, {**STORED, "batch_size": 128}),
    "gvbsm": ("resnet18", {**MSE, "gradient_accumulation_steps": 2}),
    "edc": (SMALL, {**MSE, "ce_weight": 0.025, "lr_schedule": "linear_half", "batch_size": 100,
                    "min_scale_crops": 0.5, "ema": 0.99, "eval_every": 30}),
    "hard-label": (SMALL, {**COMMON, "loss_type": "ce", "gt_target": "mixed", "optimizer": "sgd",
                           "lr": 0.1, "weight_decay": 1e-4, "weight_decay_on": "all",
                           "momentum": 0.9, "lr_schedule": "step", "batch_size": 256,
                           "min_scale_crops": 0.08, "mix_type": "none"}),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Six distilled images of three classes, test images, teachers."""
    root = tmp_path_factory.mktemp("presets")
    real = tiny.image_folder(root / "distil", per_class=2, size=(32, 32), seed=1)
    tiny.distilled_folder(root / "run", real, tiny.WNIDS, 2)
    tiny.image_folder(root / "val", per_class=2, size=(44, 40), seed=2)
    tiny.teacher_folder(root / "teachers", TEACHERS, tiny.WNIDS)
    return root


def command(made, preset, *more):
    return ["--output-dir", str(made / "run"), "--val-dir", str(made / "val"), "--preset", preset,
            "--device", "cpu", "--threads", "1", "--workers", "0",
            "--teacher-weights", str(made / "teachers"), *more]


def label_by(made, folder, *more):
    """Write the recipe of labels, of fewer teachers than a preset's own."""
    label(["--output-dir", str(made / "run"), "--fkd-path", str(folder), "--teachers", *TEACHERS,
           "--epochs", "2", "--teacher-weights", str(made / "teachers"), "--label-store", "none",
           "--device", "cpu", *more])


def result(made, name):
    return json.loads((made / f"run/students/{name}/result.json").read_text())


@pytest.mark.parametrize("preset", list(PRESETS))
def test_each_preset_trains_and_stores_its_options(made, preset):
    student, expected = EXPECTED[preset]
    labels = made / f"run/labels_{preset}"
    if preset in ("prism", "sre2l", "cda", "gvbsm", "edc"):
        label_by(made, labels, "--preset", preset)
    main(command(made, preset, "--student", student, "--epochs", "2", "--fkd-path", str(labels)))

    kind = "soft" if preset == "prism" else preset
    found = result(made, f"{student}_{kind}_seed0")
    own = {"student": student, "stem": "imagenet", "input_resize": None, "dataset": "imagefolder",
           "image_size": 32, "crop": "square", "augment": "crop", "flip_prob": 0.5, "seed": 0,
           "micro_batches": "together", "precision": "fp32", "compile": False}
    assert found["options"] == {**own, **expected}
    assert (found["preset"], found["preset_changed"]) == (preset, ["epochs"])


def test_the_preset_itself_never_causes_a_refusal(made, capsys):
    same = ["--student", SMALL, "--epochs", "1", "--student-name", "same"]
    main(command(made, "hard-label", *same))
    capsys.readouterr()
    main(command(made, "prism", *same, "--loss-type", "ce", "--optimizer", "sgd",
                 "--weight-decay-on", "all", "--lr-schedule", "step", "--batch-size", "256",
                 "--gradient-accumulation-steps", "1", "--min-scale-crops", "0.08"))
    assert "already finished" in capsys.readouterr().out


def test_labels_of_another_protocol_are_refused(made):
    folder = made / "run/labels_other"
    label_by(made, folder)
    with pytest.raises(UserError, match="made with --batch-size 50, found --batch-size 1024 of "
                                        "--preset sre2l. Give --batch"):
        main(command(made, "sre2l", "--fkd-path", str(folder), "--epochs", "1", "--student-name",
                     "other"))
    assert not (made / "run/students/other").exists()


def test_teacher_labels_with_average_stopped_and_resumed(made, monkeypatch):
    def run(name, *more):
        main([*command(made, "delt", "--student", "mobilenet_v2", "--epochs", "4", "--eval-every",
                       "2", "--batch-size", "4", "--ema", "0.9", "--shuffle-patches", "2",
                       "--student-name", name), *more])
        return [(made / f"run/students/{name}/{which}.safetensors").read_bytes()
                for which in ("last", "best")]

    whole = run("whole")
    for epochs in (1, 3):
        name = f"stopped{epochs}"
        interrupt(monkeypatch, Training, "one_epoch", epochs)
        with pytest.raises(KeyboardInterrupt):
            run(name)
        monkeypatch.undo()
        assert run(name, "--workers", "2") == whole  # nor does it depend on the workers


def test_the_average_is_what_is_tested_and_kept(made):
    both = ["--student", SMALL, "--epochs", "2", "--student-name"]
    main(command(made, "hard-label", *both, "plain"))
    main(command(made, "hard-label", *both, "averaged", "--ema", "0.5"))
    start = build(SMALL, 3, seed=(0, "student", SMALL), image_size=32).net.state_dict()
    plain, averaged = (load_tensors(made / f"run/students/{name}/last.safetensors")[0]
                       for name in ("plain", "averaged"))
    key = "fc.weight"
    assert (averaged[key] - start[key]).norm() < (plain[key] - start[key]).norm()  # it lags behind
    running = "conv1.1.running_mean"
    assert (averaged[running] - plain[running]).abs().max() == 0  # the student's own statistics
