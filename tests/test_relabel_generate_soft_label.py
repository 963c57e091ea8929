import json
import re
import shutil
import time

import pytest
import tiny
import torch
from PIL import Image
from torch.utils.data import DataLoader

import data
from data import labels
from data.epoch_plan import draw_plan, mixed_batch
from data.label_formats import through_format
from data.labels import LabelStore, arithmetic_of
from data.opening import open_distilled
from models.ensemble import Ensemble
from models.networks import build, save_network
from models.teachers import load_teachers
from relabel.generate_soft_label import main
from relabel.labelling import Labelling
from utils.errors import UserError
from utils.files import write_json

CLASSES = ["new000", "new001", "new002"]
TEACHERS = ["squeezenet1_1", "shufflenet_v2_x0_5"]
SIZE, EPOCHS = 32, 3


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """7 distilled images of 3 classes and teachers with random weights."""
    root = tmp_path_factory.mktemp("relabel")
    tiny.image_folder(root / "images", CLASSES, 3, size=(SIZE, SIZE))
    for c in (0, 2):
        (root / f"images/{CLASSES[c]}/img_002.JPEG").unlink()
    tiny.teacher_folder(root / "teachers", TEACHERS, CLASSES)
    return root


def command(made, run, *more):
    """Arguments for a run folder: three epochs of batches of 3, 3 and 1."""
    return ["--output-dir", str(run), "--train-dir", str(made / "images"),
            "--teacher-weights", str(made / "teachers"), "--teachers", *TEACHERS,
            "--epochs", str(EPOCHS), "--batch-size", "3", "--device", "cpu", "--threads", "1",
            *more]


@pytest.fixture(scope="module")
def whole(made):
    """A run labelled in one go. Do not change it."""
    main(command(made, made / "whole"))
    return made / "whole"


@pytest.fixture
def copied(whole, tmp_path):
    """A copy of that run."""
    shutil.copytree(whole / "labels", tmp_path / "labels")
    return tmp_path


def files(run):
    return {p.name: p.read_bytes() for p in (run / "labels").glob("*.safetensors")}


def test_images_of_another_size_than_the_teachers_are_refused(made, tmp_path):
    network = build(TEACHERS[1], len(CLASSES), image_size=48)
    save_network(tmp_path / f"teachers/{TEACHERS[1]}.safetensors", network, {})
    with pytest.raises(UserError, match=f"{TEACHERS[1]}: was trained on images of 48 px, found 32"):
        main(command(made, tmp_path / "run", "--teachers", TEACHERS[1], "--teacher-weights",
                     str(tmp_path / "teachers")))
    assert not (tmp_path / "run").exists()


def names(epochs):
    return [f"epoch_{epoch:03d}.safetensors" for epoch in epochs]


def test_files(whole):
    assert sorted(p.name for p in (whole / "labels").iterdir()) == [
        *names(range(3)), "labels.json", "preview.png"]
    content = json.loads((whole / "labels/labels.json").read_text())
    assert content["options"] == {
        "teachers": TEACHERS, "ensemble": "equal_energy", "fkd_seed": 42, "batch_size": 3,
        "augment": "crop", "min_scale_crops": 0.25, "flip_prob": 0.5, "mix_type": "cutmix",
        "mix_alpha": 1.0, "image_size": 32, "label_format": "fp16", "label_top_k": None,
        "precision": "fp32", "compile": False}
    assert (content["preset"], content["preset_changed"]) == ("prism", ["batch_size", "teachers"])
    assert sorted(content["identity"]["teachers"]) == sorted(TEACHERS)
    assert content["stem"] == "imagenet"
    assert content["asked"] == [0, 3]
    with Image.open(whole / "labels/preview.png") as preview:
        assert preview.size[0] > 400


def test_same_command_same_bytes(made, whole, tmp_path):
    main(command(made, tmp_path))
    assert files(tmp_path) == files(whole)


@pytest.mark.parametrize(("rule", "mix", "number_format"), [
    ("equal_energy", "cutmix", ["fp16"]), ("equal_energy", "cutmix", ["fp32"]),
    ("primary_half", "mixup", ["fp32"]), ("single", "none", ["fp16"]),
    ("equal_energy", "cutmix", ["int8"]),
    ("equal_energy", "cutmix", ["topk", "--label-top-k", "2"]),
    ("equal_energy", "cutmix", ["fp16", "--precision", "bf16"])])
def test_on_the_fly_equals_stored(made, tmp_path, rule, mix, number_format):
    """What validate makes from labels.json is what the files say, to the last bit."""
    main(command(made, tmp_path, "--ensemble", rule, "--mix-type", mix, "--epochs", "2",
                 "--label-format", *number_format))
    images = open_distilled(made / "images")
    store = LabelStore(tmp_path / "labels", images)
    o = store.options
    teachers = load_teachers(o["teachers"], o["teacher_weights"], images.classes,
                             torch.device("cpu"))
    ensemble = Ensemble(teachers.values(), o["ensemble"], arithmetic_of(o))

    for epoch in range(2):
        stored, plan = store.epoch(epoch), draw_plan(store.plan_options, epoch)
        assert stored.plan == plan
        for batch in range(store.plan_options.batches):
            rows = store.plan_options.rows(batch)
            views = mixed_batch(images.all_pixels[plan.order[rows]], plan, batch)
            logits = through_format(ensemble(views), store.number_format)
            assert torch.equal(logits, stored.logits(rows))


def test_teachers_saw_the_pixels_that_a_reader_sees(made, tmp_path, monkeypatch):
    seen, label = [], Ensemble.__call__
    monkeypatch.setattr(Ensemble, "__call__",
                        lambda self, batch: (seen.append(batch.clone()), label(self, batch))[1])
    shutil.copytree(made / "images", tmp_path / "images")
    main(command(made, tmp_path, "--train-dir", str(tmp_path / "images")))

    dataset, read = data.load(tmp_path), []
    for epoch in range(EPOCHS):
        dataset.set_epoch(epoch)
        read += [views for views, _, _ in DataLoader(dataset, dataset.batch_size)]
    assert len(read) == 3 * EPOCHS
    # Before the epochs come a trial, the preview and the timed batches.
    assert all(torch.equal(a, b) for a, b in zip(seen[-3 * EPOCHS :], read, strict=True))


def stop_at(monkeypatch, epoch, error):
    """Raise an error when an epoch is labelled."""
    label, calls = Labelling._label, []

    def stopped(self, plan, bar):
        calls.append(plan)
        if len(calls) == epoch + 1:
            raise error
        return label(self, plan, bar)

    monkeypatch.setattr(Labelling, "_label", stopped)


@pytest.mark.parametrize("epoch", [0, 2])
def test_stopped_and_resumed_equals_uninterrupted(made, whole, tmp_path, monkeypatch, epoch):
    with monkeypatch.context() as patch:
        stop_at(patch, epoch, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            main(command(made, tmp_path))
    assert sorted(files(tmp_path)) == names(range(epoch))
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "labels").glob("epoch*")}
    main(command(made, tmp_path))
    assert files(tmp_path) == files(whole)
    assert all((tmp_path / "labels" / name).stat().st_mtime_ns == stamp
               for name, stamp in before.items())


def test_ctrl_c_leaves_an_epoch_whole_that_is_being_written(made, whole, tmp_path, monkeypatch):
    save = labels.save_epoch
    monkeypatch.setattr(labels, "save_epoch", lambda *given: (time.sleep(0.3), save(*given)))
    stop_at(monkeypatch, 1, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        main(command(made, tmp_path))
    assert files(tmp_path) == {name: files(whole)[name] for name in names([0])}
    assert not list((tmp_path / "labels").glob(".*"))


@pytest.mark.parametrize("epoch", [0, 2])
def test_errors_of_the_writing_thread_come_out(made, tmp_path, monkeypatch, epoch):
    save = labels.save_epoch

    def full(path, number, *given):
        if number == epoch:
            raise OSError(28, "full", str(path))
        save(path, number, *given)

    monkeypatch.setattr(labels, "save_epoch", full)
    with pytest.raises(OSError, match="full"):
        main(command(made, tmp_path))
    assert sorted(files(tmp_path)) == names(range(epoch))


def test_finished_epochs_are_skipped_and_more_can_be_added(made, whole, tmp_path, capsys):
    main(command(made, tmp_path, "--epochs", "1"))
    assert sorted(files(tmp_path)) == names([0])
    out = capsys.readouterr().out
    assert "0 of 1 epochs finished" in out
    assert "ms a batch of 3, about" in out
    main(command(made, tmp_path))
    assert "1 of 3 epochs finished" in capsys.readouterr().out
    assert files(tmp_path) == files(whole)
    main(command(made, tmp_path))
    assert "3 of 3 epochs finished" in capsys.readouterr().out
    assert (tmp_path / "labels/labels.json").read_bytes() == (
        whole / "labels/labels.json").read_bytes()


def test_a_damaged_and_a_foreign_epoch_are_made_anew(made, whole, copied, capsys):
    first, second, _ = sorted((copied / "labels").glob("epoch*"))
    second.write_bytes(second.read_bytes()[:-10])
    shutil.copy(copied / "labels/epoch_002.safetensors", first)
    main(command(made, copied))
    assert capsys.readouterr().out.count("damaged or of another recipe; made anew") == 2
    assert files(copied) == files(whole)


@pytest.mark.parametrize("how", ["ranks", "shards"])
def test_ranks_and_shards_share_the_epochs(made, whole, tmp_path, monkeypatch, how):
    monkeypatch.setattr("models.teachers.first_on_node",
                        lambda: pytest.fail("local weights need no waiting"))
    for rank, epochs in (("1", [1]), ("0", [0, 1, 2])):
        shard = ["--shard", f"{rank}/2"] if how == "shards" else []
        if how == "ranks":
            monkeypatch.setenv("WORLD_SIZE", "2")
            monkeypatch.setenv("RANK", rank)
        main(command(made, tmp_path, *shard))
        assert sorted(files(tmp_path)) == names(epochs)
    assert files(tmp_path) == files(whole)


@pytest.mark.parametrize(("more", "chosen"), [
    ([], "fp16"), (["--label-format", "topk", "--label-top-k", "2"], "topk 2"),
    (["--label-store", "none"], "none")])
def test_the_size_in_every_format_is_printed_before(made, tmp_path, capsys, more, chosen):
    main(command(made, tmp_path, *more))
    out = capsys.readouterr().out
    table, rest = out.split("size of the labels of 3 epochs\n")[1].split("\nrelabel: ", 1)
    rows = dict(re.split(r" {2,}", line.strip(), maxsplit=1) for line in table.splitlines()[:5])
    assert list(rows) == ["fp32", "fp16", "int8", "topk 2" if "topk" in chosen else "topk 3",
                          "none"]
    assert [name for name, size in rows.items() if size.endswith("  <- chosen")] == [chosen]
    assert "ms a batch" in rest or chosen == "none"
    if chosen != "none":
        written = sum(map(len, files(tmp_path).values())) / 1e3
        assert float(rows[chosen].split()[0]) == pytest.approx(written, rel=0.12)  # 1 kB a file

    main(command(made, tmp_path, *more))  # finished
    assert "size of the labels" not in capsys.readouterr().out


def test_store_none_writes_the_recipe_alone(made, whole, tmp_path):
    main(command(made, tmp_path, "--label-store", "none"))
    assert files(tmp_path) == {}
    store = LabelStore(tmp_path / "labels", open_distilled(made / "images"))
    assert (store.store, store.epochs, store.asked) == ("none", [], [0, 0])
    main(command(made, tmp_path))  # and later with files
    assert files(tmp_path) == files(whole)
    assert LabelStore(tmp_path / "labels", open_distilled(made / "images")).store == "files"


@pytest.mark.parametrize(("more", "sentence"), [
    (["--fkd-seed", "43"], "was made with fkd_seed = 42, now fkd_seed = 43"),
    (["--batch-size", "4"], "was made with batch_size = 3, now batch_size = 4"),
    (["--ensemble", "mean"], 'was made with ensemble = "equal_energy", now ensemble = "mean"'),
    (["--mix-type", "mixup"], "was made with mix_alpha = 1.0, now mix_alpha = 0.8"),
    (["--label-format", "fp32"], 'was made with label_format = "fp16"'),
    (["--label-format", "topk"], "how many logits of a row are kept"),
    (["--label-format", "topk", "--label-top-k", "4"], "--label-top-k 4: there are 3 classes"),
    (["--precision", "bf16"], 'was made with precision = "fp32", now precision = "bf16"'),
    (["--label-top-k", "2"], "--label-top-k 2 is not read with --label-format fp16"),
    (["--batch-size", "0"], "--batch-size: found 0, expected at least 1"),
    (["--teachers", "resnet19"], "resnet19: no such network. Did you mean"),
    (["--teachers", "resnet18"], "no resnet18.safetensors"),
    (["--train-dir", "/nowhere/images"], "/nowhere/images: no such folder")])
def test_refused(made, whole, copied, more, sentence):
    with pytest.raises(UserError, match=sentence):
        main(command(made, copied, *more))
    assert files(copied) == files(whole)


def test_other_images_are_refused(made, copied):
    shutil.copytree(made / "images", copied / "images")
    (copied / "images/new000/img_000.JPEG").rename(copied / "images/new000/img_009.JPEG")
    with pytest.raises(UserError, match="was made with images = "):
        main(command(made, copied, "--train-dir", str(copied / "images")))


def test_labels_among_the_images_are_refused(made):
    with pytest.raises(UserError, match="--output-dir or --fkd-path: found .*images/labels, "):
        main(command(made, made / "images", "--train-dir", str(made / "images")))
    assert not (made / "images/labels").exists()


def test_a_mistake_leaves_no_folder(made, tmp_path, monkeypatch):
    """Teachers of other classes, an image that cannot be read, a disk that is too small."""
    tiny.image_folder(tmp_path / "two", ["a", "b"], 1, size=(SIZE, SIZE))
    with pytest.raises(UserError, match="the teacher has 3 classes, the data has 2"):
        main(command(made, tmp_path, "--train-dir", str(tmp_path / "two")))

    shutil.copytree(made / "images", tmp_path / "images")
    (tmp_path / "images/new001/img_001.JPEG").write_bytes(b"?")
    with pytest.raises(UserError, match="img_001.JPEG: not a readable image"):
        main(command(made, tmp_path, "--train-dir", str(tmp_path / "images")))

    monkeypatch.setattr("utils.files.free_bytes", lambda _: 100)
    with pytest.raises(UserError, match=r"about 3\.\d kB will be written.*--label-store none"):
        main(command(made, tmp_path))
    assert not (tmp_path / "labels").exists()


def test_a_folder_that_is_removed_while_it_is_written(made, tmp_path, monkeypatch):
    label = Labelling._label

    def removed(self, plan, bar):
        shutil.rmtree(self.folder)
        return label(self, plan, bar)

    monkeypatch.setattr(Labelling, "_label", removed)
    with pytest.raises(UserError, match="labels: was removed while it was written. Run the same"):
        main(command(made, tmp_path))
    assert not (tmp_path / "labels").exists()


def test_far_too_many_epochs_are_refused_at_once(made, copied, monkeypatch):
    monkeypatch.setattr("utils.files.free_bytes", lambda _: 10**10)
    with pytest.raises(UserError, match=r"about \d{4}\.\d GB will be written, the disk has 10"):
        main(command(made, copied, "--epochs", "1000000000"))


def test_the_teachers_accuracy_is_printed_and_kept(made, whole, tmp_path, capsys):
    val = tiny.image_folder(tmp_path / "val", CLASSES, 2, size=(SIZE, SIZE), seed=9)
    main(command(made, tmp_path, "--val-dir", str(val)))
    out = capsys.readouterr().out
    for name in TEACHERS:
        assert re.search(rf"{name}: top-1 .* % of 6 real test images, .* % of 7 distilled", out)
    assert out.index("distilled images") < out.index("ms a batch")

    content, plain = (json.loads((run / "labels/labels.json").read_text())
                      for run in (tmp_path, whole))
    assert list(content["accuracy"]) == TEACHERS
    for name, scores in content["accuracy"].items():
        assert scores["real"] is not None
        assert {**scores, "real": None} == plain["accuracy"][name]
    assert files(tmp_path) == files(whole)  # which images were measured changes no label

    main(command(made, tmp_path))  # finished: kept, and not measured again
    assert "distilled images" not in capsys.readouterr().out
    assert json.loads((tmp_path / "labels/labels.json").read_text()) == content


def test_real_images_of_other_classes_are_refused(made, tmp_path):
    val = tiny.image_folder(tmp_path / "val", CLASSES[:2], 1, size=(SIZE, SIZE))
    with pytest.raises(UserError, match="val: has 2 class folders, the distilled images .* have 3"):
        main(command(made, tmp_path, "--val-dir", str(val)))
    tiny.image_folder(val, CLASSES[2:], 1)
    (val / CLASSES[0] / "img_000.JPEG").write_bytes(b"?")
    with pytest.raises(UserError, match="img_000.JPEG: not a readable image"):
        main(command(made, tmp_path, "--val-dir", str(val)))
    assert not (tmp_path / "labels").exists()


def test_no_flips_for_digits(tmp_path):
    digits = [str(digit) for digit in range(10)]
    tiny.image_folder(tmp_path / "images", digits, 1, size=(SIZE, SIZE))
    tiny.teacher_folder(tmp_path / "teachers", TEACHERS[1:], digits)
    write_json(tmp_path / "images.json", {"options": {"dataset": "digits"},
                                          "identity": {"classes": digits}})
    main([*command(tmp_path, tmp_path, "--epochs", "1"), "--teachers", TEACHERS[1]])
    store = LabelStore(tmp_path / "labels", open_distilled(tmp_path / "images"))
    assert store.options["flip_prob"] == 0.0
    assert not store.epoch(0).plan.flips.any()
    content = json.loads((tmp_path / "labels/labels.json").read_text())
    assert content["accuracy"][TEACHERS[1]]["real"] is not None  # scikit-learn has test images
