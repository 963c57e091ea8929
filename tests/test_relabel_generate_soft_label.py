import json
import shutil

import pytest
import tiny
import torch
from PIL import Image
from torch.utils.data import DataLoader

from data import labels as soft_labels
from data.distilled import DistilledImages, load
from data.epoch_plan import draw_plan, mixed_batch
from data.label_formats import through_format
from data.labels import LabelStore, arithmetic_of
from models.ensemble import Ensemble
from models.teachers import load_teachers
from relabel import generate_soft_label
from relabel.generate_soft_label import main, size_words
from utils.errors import UserError
from utils.files import write_json

CLASSES = ["new000", "new001", "new002"]
TEACHERS = ["squeezenet1_1", "shufflenet_v2_x0_5"]
SIZE, EPOCHS = 32, 3


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """7 distilled images of 3 classes and random-weight teachers."""
    root = tmp_path_factory.mktemp("relabel")
    tiny.image_folder(root / "images", CLASSES, 3, size=(SIZE, SIZE))
    for c in (0, 2):
        (root / f"images/{CLASSES[c]}/img_002.JPEG").unlink()
    tiny.teacher_folder(root / "teachers", TEACHERS, CLASSES)
    return root


def command(made, run, *more):
    """Arguments for a run folder below tmp_path; batches of 3, 3 and 1."""
    return ["--output-dir", str(run), "--train-dir", str(made / "images"), "--teacher-weights", str(made / "teachers"),
            "--teachers", *TEACHERS, "--epochs", str(EPOCHS), "--batch-size", "3", "--device", "cpu", "--threads", "2", *more]


@pytest.fixture(scope="module")
def whole(made):
    """A run labelled in one go. Do not change it."""
    main(command(made, made / "whole"))
    return made / "whole"


def files(run):
    return {p.name: p.read_bytes() for p in (run / "labels").iterdir() if p.suffix == ".safetensors"}


def test_files(whole):
    assert sorted(p.name for p in (whole / "labels").iterdir()) == [
        "epoch_000.safetensors", "epoch_001.safetensors", "epoch_002.safetensors", "labels.json", "preview.png"]
    content = json.loads((whole / "labels/labels.json").read_text())
    assert content["options"] == {
        "teachers": TEACHERS, "ensemble": "equal_energy", "fkd_seed": 42, "batch_size": 3, "min_scale_crops": 0.25,
        "flip_prob": 0.5, "mix_type": "cutmix", "mix_alpha": 1.0, "image_size": 32, "label_format": "fp16"}
    assert sorted(content["identity"]["teachers"]) == sorted(TEACHERS)
    with Image.open(whole / "labels/preview.png") as preview:
        assert preview.size[0] > 400


def test_same_command_twice_gives_the_same_bytes(made, whole, tmp_path):
    main(command(made, tmp_path))
    assert files(tmp_path) == files(whole)


@pytest.mark.parametrize(("rule", "mix", "number_format"), [
    ("equal_energy", "cutmix", "fp16"), ("equal_energy", "cutmix", "fp32"), ("primary_half", "mixup", "fp32"),
    ("single", "none", "fp16"), ("equal_energy", "cutmix", "int8"), ("equal_energy", "cutmix", "topk"),
    ("equal_energy", "cutmix", "bf16")])
def test_on_the_fly_equals_stored(made, tmp_path, rule, mix, number_format):
    """What validate computes from labels.json is what the files say: pixels and logits, to the last bit."""
    more = {"topk": ["--label-format", "topk", "--label-top-k", "2"], "bf16": ["--precision", "bf16"]}
    how = more.get(number_format, ["--label-format", number_format])
    main(command(made, tmp_path, *how, "--ensemble", rule, "--mix-type", mix, "--epochs", "2"))
    images = DistilledImages(made / "images")
    store = LabelStore(tmp_path / "labels", images)
    options = store.plan_options
    teachers = load_teachers(store.options["teachers"], store.options["teacher_weights"], images.classes, torch.device("cpu"))
    ensemble = Ensemble([teachers[name] for name in store.options["teachers"]], store.options["ensemble"],
                        arithmetic_of(store.options))
    for epoch in range(2):
        stored, plan = store.epoch(epoch), draw_plan(options, epoch)
        assert stored.plan == plan
        for batch in range(options.batches):
            views = mixed_batch(lambda i: images.pixels[i], plan, options, batch)
            assert torch.equal(through_format(ensemble(views), store.number_format), stored.batch(batch))


def test_teachers_saw_the_pixels_that_a_reader_sees(made, tmp_path, monkeypatch):
    seen = []

    class Spy(Ensemble):
        def __call__(self, batch):
            seen.append(batch.clone())
            return super().__call__(batch)

    monkeypatch.setattr(generate_soft_label, "Ensemble", Spy)
    shutil.copytree(made / "images", tmp_path / "images")
    main(command(made, tmp_path, "--train-dir", str(tmp_path / "images")))
    saw = seen[-3 * EPOCHS :]  # before them: the preview and the timed batches
    data = load(tmp_path)
    read = []
    for epoch in range(EPOCHS):
        data.set_epoch(epoch)
        read += [views for views, _, _ in DataLoader(data, data.batch_size)]
    assert len(read) == len(saw)
    assert all(torch.equal(a, b) for a, b in zip(saw, read, strict=True))


@pytest.mark.parametrize("stop_at", [1, 5])
def test_stopped_and_resumed_equals_uninterrupted(made, whole, tmp_path, monkeypatch, stop_at):
    write, calls = soft_labels.LabelWriter.write, []

    def killed(self, batch, logits):
        calls.append(batch)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        write(self, batch, logits)

    monkeypatch.setattr(soft_labels.LabelWriter, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        main(command(made, tmp_path))
    assert len(files(tmp_path)) == (stop_at - 1) // 3  # whole epochs only, and nothing half-written
    assert not [p for p in (tmp_path / "labels").iterdir() if p.name.startswith(".")]
    monkeypatch.undo()
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "labels").glob("epoch*")}
    main(command(made, tmp_path))
    assert files(tmp_path) == files(whole)
    assert all((tmp_path / "labels" / name).stat().st_mtime_ns == time for name, time in before.items())


def test_finished_epochs_are_skipped_and_more_can_be_added(made, whole, tmp_path, capsys):
    main(command(made, tmp_path, "--epochs", "1"))
    assert sorted(files(tmp_path)) == ["epoch_000.safetensors"]
    main(command(made, tmp_path))
    assert "1 of 3 epochs finished" in capsys.readouterr().out
    assert files(tmp_path) == files(whole)
    main(command(made, tmp_path))
    assert "3 of 3 epochs finished; 0.0 kB to write" in capsys.readouterr().out


def test_damaged_epoch_is_made_anew(made, whole, tmp_path, capsys):
    shutil.copytree(whole / "labels", tmp_path / "labels")
    path = tmp_path / "labels/epoch_001.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    (tmp_path / "labels" / f".epoch_002.safetensors.{generate_soft_label.run_folder._HOST}.999999999.tmp").touch()
    main(command(made, tmp_path))
    assert "made anew: " in capsys.readouterr().out
    assert files(tmp_path) == files(whole)
    assert not list((tmp_path / "labels").glob(".*"))  # the leftover of a dead process


def test_ranks_share_the_epochs(made, whole, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("models.teachers.first_on_node", lambda: pytest.fail("local weights need no waiting"))
    main(command(made, tmp_path))
    assert sorted(files(tmp_path)) == ["epoch_001.safetensors"]
    monkeypatch.setenv("RANK", "0")
    main(command(made, tmp_path))
    assert files(tmp_path) == files(whole)


def test_store_none_writes_the_recipe_alone(made, whole, tmp_path):
    main(command(made, tmp_path, "--label-store", "none"))
    assert files(tmp_path) == {}
    store = LabelStore(tmp_path / "labels", DistilledImages(made / "images"))
    assert (store.store, store.epochs) == ("none", [])
    main(command(made, tmp_path))  # and later with files
    assert files(tmp_path) == files(whole)
    assert LabelStore(tmp_path / "labels", DistilledImages(made / "images")).store == "files"


@pytest.mark.parametrize(("more", "sentence"), [
    (["--fkd-seed", "43"], "was made with fkd_seed = 42, now fkd_seed = 43"),
    (["--batch-size", "4"], "was made with batch_size = 3, now batch_size = 4"),
    (["--ensemble", "mean"], 'was made with ensemble = "equal_energy", now ensemble = "mean"'),
    (["--mix-type", "mixup"], "was made with mix_alpha = 1.0, now mix_alpha = 0.8"),
    (["--label-format", "fp32"], 'was made with label_format = "fp16"'),
    (["--label-format", "topk", "--label-top-k", "2"], 'was made with label_format = "fp16"'),
    (["--label-format", "topk"], "how many logits of a row are kept. Give --label-top-k, too"),
    (["--label-format", "topk", "--label-top-k", "4"], "--label-top-k 4: there are 3 classes. Give at most 3"),
    (["--precision", "bf16"], 'was made with precision = null, now precision = "bf16"'),
    (["--label-top-k", "2"], "--label-top-k 2 is not read with --label-format fp16"),
    (["--mix-type", "none", "--mix-alpha", "1"], "--mix-alpha is not read with --mix-type none"),
    (["--batch-size", "0"], "--batch-size: found 0, expected at least 1"),
    (["--min-scale-crops", "0"], "expected more than 0"),
    (["--teachers", "resnet19"], "resnet19: no such network. Did you mean"),
    (["--teachers", "resnet18"], "no resnet18.safetensors"),
    (["--train-dir", "/nowhere/images"], "/nowhere/images: no such folder"),
])
def test_refused(made, whole, tmp_path, more, sentence):
    shutil.copytree(whole / "labels", tmp_path / "labels")
    with pytest.raises(UserError, match=sentence):
        main(command(made, tmp_path, *more))
    assert files(tmp_path) == files(whole)


def test_refuses_other_images(made, tmp_path, whole):
    shutil.copytree(whole / "labels", tmp_path / "labels")
    shutil.copytree(made / "images", tmp_path / "images")
    (tmp_path / "images/new000/img_000.JPEG").rename(tmp_path / "images/new000/img_009.JPEG")
    with pytest.raises(UserError, match="was made with images = "):
        main(command(made, tmp_path, "--train-dir", str(tmp_path / "images")))


def test_refuses_a_head_of_other_classes(made, tmp_path):
    tiny.image_folder(tmp_path / "images", ["a", "b"], 1, size=(SIZE, SIZE))
    with pytest.raises(UserError, match="the teacher has 3 classes, the data has 2"):
        main(command(made, tmp_path, "--train-dir", str(tmp_path / "images")))
    assert not (tmp_path / "labels").exists()


def test_full_disk_is_foreseen(made, tmp_path, monkeypatch):
    monkeypatch.setattr(generate_soft_label.run_folder, "free_bytes", lambda _: 100)
    with pytest.raises(UserError, match=r"3 epochs of labels take 0\.\d kB, the disk has 0.1 kB free.*--label-store none"):
        main(command(made, tmp_path))
    assert not (tmp_path / "labels").exists()


def test_no_flips_for_digits(made, tmp_path):
    shutil.copytree(made / "images", tmp_path / "images")
    write_json(tmp_path / "images.json", {"options": {"dataset": "digits"}, "identity": {"classes": CLASSES}})
    main(command(made, tmp_path, "--train-dir", str(tmp_path / "images"), "--epochs", "1"))
    store = LabelStore(tmp_path / "labels", DistilledImages(tmp_path / "images"))
    assert store.options["flip_prob"] == 0.0
    assert not store.epoch(0).plan.flips.any()


def test_says_what_it_will_take(made, tmp_path, capsys):
    main(command(made, tmp_path))
    out = capsys.readouterr().out
    assert "7 images of 3 classes, 0 of 3 epochs finished; 0.9 kB to write" in out
    assert "ms a batch of 3, about" in out
    assert (size_words(6.05e9), size_words(2.5e6), size_words(12)) == ("6.0 GB", "2.5 MB", "0.0 kB")
