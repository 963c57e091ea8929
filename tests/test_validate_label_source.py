import shutil

import pytest
import tiny
import torch

from data.opening import open_distilled
from models.ensemble import Ensemble
from models.networks import build
from utils.errors import UserError
from validate import label_source, options
from validate.label_source import LabelSource, own_plan

EPOCHS = 2


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """9 distilled images of 3 classes with labels for two epochs."""
    root = tmp_path_factory.mktemp("source")
    real = tiny.image_folder(root / "real", size=(32, 32))
    tiny.distilled_folder(root, real, tiny.WNIDS, 3)
    tiny.label_folder(root, EPOCHS)
    return root


def resolved(run, *words):
    images = open_distilled(run / "images")
    o = options.parse(["--output-dir", str(run), "--epochs", str(EPOCHS), *words])
    return options.resolve(o, images), images


def source_of(run, *words):
    return label_source.open_labels(*resolved(run, *words))


def test_plans_of_a_run_follow_its_seed(run):
    plans = [LabelSource("hard", own_plan(*resolved(run, "--loss-type", "ce", "--seed", seed)))
             .epoch(0) for seed in ("0", "0", "1")]
    assert [labels for _, labels in plans] == [None] * 3
    assert plans[0][0] == plans[1][0]
    assert plans[0][0] != plans[2][0]


@pytest.mark.parametrize(("words", "expected"), [
    (["--labels", "teacher"], (50, 0.25, "cutmix", 1.0, 0.5)),
    (["--loss-type", "ce"], (50, 0.25, "none", 1.0, 0.5)),
    (["--loss-type", "ce", "--mix-type", "mixup", "--batch-size", "7"],
     (7, 0.25, "mixup", 0.8, 0.5)),
    (["--loss-type", "ce", "--dataset", "digits"], (50, 0.25, "none", 1.0, 0.0)),
    (["--loss-type", "ce", "--flip-prob", "0"], (50, 0.25, "none", 1.0, 0.0))])
def test_own_plans(run, words, expected):
    plan = own_plan(*resolved(run, *words))
    assert (plan.batch_size, plan.min_area, plan.mix, plan.alpha, plan.flip) == expected
    assert plan.augment == "crop"
    assert own_plan(*resolved(run, *words, "--augment", "shift")).augment == "shift"


def test_stored_labels_are_those_of_the_folder(run):
    source = source_of(run)
    assert source.kind == "stored"
    assert source.plan_options.batch_size == 5
    plan, labels = source.epoch(1)
    expected = tiny.random_logits(source.plan_options, 3, 1)
    assert plan == labels.plan
    torch.testing.assert_close(labels.logits(slice(0, 9)), expected, rtol=1e-3, atol=1e-3)
    assert source.identity["options"]["fkd_seed"] == 42
    assert "teacher_weights" not in source.identity["options"]  # where they lie changes nothing


def test_labels_made_here_pass_through_the_number_format(run):
    source = source_of(run, "--labels", "online")
    assert source.kind == "online"
    source.ensemble = lambda images: images.mean((2, 3)) / 3
    plan, label = source.epoch(1)
    assert plan == source.store.epoch(1).plan
    images = torch.rand(4, 3, 8, 8)
    expected = (images.mean((2, 3)) / 3).half().float()
    assert torch.equal(label(images), expected)
    assert not torch.equal(label(images), source.ensemble(images))


def test_labels_of_a_teacher_stay_as_they_are(run):
    network = build("shufflenet_v2_x0_5", 3, seed=("teacher",)).eval()
    plan = own_plan(*resolved(run, "--labels", "teacher"))
    source = LabelSource("teacher", plan, ensemble=Ensemble([network], "single"))
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(source.label(images), network(images))
    assert source.identity["options"] == {"teachers": ["shufflenet_v2_x0_5"], "ensemble": "single"}
    assert set(source.identity["teachers"]) == {"shufflenet_v2_x0_5"}


@pytest.mark.parametrize(("option", "given", "labelled"), [
    ("--batch-size", "8", "5"), ("--min-scale-crops", "0.08", "0.25"),
    ("--mix-type", "none", "cutmix"), ("--augment", "none", "crop"), ("--flip-prob", "0.1", "0.5")])
def test_views_that_differ_from_the_labels_are_refused(run, option, given, labelled):
    with pytest.raises(UserError, match=f"made with {option} {labelled}, found {option} {given}. "
                                        "Leave it out"):
        source_of(run, option, given)
    assert source_of(run, option, labelled).kind == "stored"


def test_labels_give_the_augmentation_and_older_ones_mean_crops(run, tmp_path):
    assert "augment" not in source_of(run).store.options
    assert source_of(run).plan_options.augment == "crop"
    tiny.distilled_folder(tmp_path, run / "real", tiny.WNIDS, 3)
    tiny.label_folder(tmp_path, EPOCHS, augment="shift")
    source = source_of(tmp_path)
    o = options.with_labels(resolved(tmp_path)[0], source.plan_options, None)
    assert o.views.augment == "shift"
    assert int(source.epoch(0)[0].crops.min()) < 0


def test_more_epochs_than_stored_name_the_missing_one(run):
    with pytest.raises(UserError, match="the first missing is epoch 2"):
        source_of(run, "--epochs", "4")
    assert source_of(run, "--epochs", "4", "--labels", "online").kind == "online"


def test_the_recipe_alone_is_labelled_online(tmp_path, run):
    tiny.distilled_folder(tmp_path, run / "real", tiny.WNIDS, 3)
    tiny.label_folder(tmp_path, 0, store="none")
    assert source_of(tmp_path).kind == "online"
    with pytest.raises(UserError, match="stored no labels.*--labels online"):
        source_of(tmp_path, "--labels", "stored")


def test_other_weights_than_the_labels_are_refused(run, tmp_path):
    tiny.teacher_folder(tmp_path, ["resnet18"], tiny.WNIDS)
    o, images = resolved(run)
    store = source_of(run).store
    with pytest.raises(UserError, match="the weights of resnet18 in .* are not those the labels"):
        label_source.recipe_ensemble(store, tmp_path, images, torch.device("cpu"))


def test_imported_labels_take_what_they_do_not_say(run, tmp_path):
    shutil.copytree(run / "images", tmp_path / "images")
    shutil.copy(run / "images.json", tmp_path)
    unsaid = dict.fromkeys(["ensemble", "min_scale_crops", "flip_prob", "mix_alpha"])
    store = tiny.label_folder(tmp_path, 0, store="imported", batch_size=1024, teachers=[], **unsaid)
    o, _ = resolved(tmp_path, "--preset", "sre2l")
    assert (o.views.min_scale_crops, o.optimisation.batch_size) == (0.08, 1024)
    label_source.check_views(o, store)
    with pytest.raises(UserError, match="--batch-size 1024, found --batch-size 3. Leave it out"):
        source_of(tmp_path, "--batch-size", "3")
    with pytest.raises(UserError, match="these labels were imported, .* Give --labels stored"):
        source_of(tmp_path, "--labels", "online")
