import errno
import math
import shutil

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from data.epoch_plan import PlanOptions, draw_plan
from data.label_formats import label_format, through_format
from data.labels import (
    LabelStore,
    check_images,
    epoch_bytes,
    epoch_file,
    is_finished,
    label_sizes,
    save_epoch,
    words,
)
from data.names import LABEL_FORMATS
from data.opening import open_distilled
from utils import checkpoint
from utils.errors import UserError
from utils.files import read_json, write_json

OPTIONS = PlanOptions(images=13, size=16, batch_size=5)
FORMAT = {name: label_format(name, 7, 3 if name == "topk" else None) for name in LABEL_FORMATS}


@pytest.fixture
def run(tmp_path):
    """A run folder of 9 images in three classes, without labels."""
    tiny.image_folder(tmp_path / "train", ("a", "b", "c"), 3)
    return tiny.distilled_folder(tmp_path / "run", tmp_path / "train", ("a", "b", "c"), 3, 16)


def save(folder, epoch=0, name="fp16", logits=None):
    logits = tiny.random_logits(OPTIONS, 7, epoch) if logits is None else logits
    path = epoch_file(folder, epoch)
    save_epoch(path, epoch, draw_plan(OPTIONS, epoch), FORMAT[name].encode(logits), FORMAT[name],
               "recipe")
    return path


# A file of labels

@pytest.mark.parametrize("name", LABEL_FORMATS)
def test_labels_and_plan_come_back(run, name):
    store = tiny.label_folder(run, 2, label_format=name, label_top_k=2 if name == "topk" else None)
    logits = through_format(tiny.random_logits(store.plan_options, 3, 1), store.number_format)
    epoch = store.epoch(1)
    assert epoch.plan == draw_plan(store.plan_options, 1)
    for batch in range(store.plan_options.batches):
        rows = store.plan_options.rows(batch)
        assert torch.equal(epoch.logits(rows), logits[rows])
        assert epoch.logits(rows).dtype == torch.float32


@pytest.mark.parametrize("name", LABEL_FORMATS)
def test_any_safetensors_reader_opens_it(tmp_path, name):
    path = save(tmp_path, 0, name)
    tensors = load_file(path)
    encoded = FORMAT[name].encode(tiny.random_logits(OPTIONS, 7, 0))
    expected = {**encoded, **draw_plan(OPTIONS, 0).tensors()}
    assert set(tensors) == set(expected)
    for tensor_name, tensor in expected.items():
        assert tensors[tensor_name].dtype == tensor.dtype
        assert torch.equal(tensors[tensor_name], tensor)


def test_epoch_bytes_of_the_paper():
    options = PlanOptions(images=10000, size=224)  # IPC 10
    for name, top_k, expected in (("fp32", None, 12.1e9), ("fp16", None, 6.1e9),
                                  ("int8", None, 3.1e9), ("topk", 100, 1.3e9)):
        total = 300 * epoch_bytes(options, label_format(name, 1000, top_k))
        assert total == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("images", "classes", "top_k"), [(100, 10, None), (100, 10, 3),
                                                          (400, 100, 7)])
def test_sizes_are_known_before(tmp_path, images, classes, top_k):
    """Within 2 % of the files of three epochs of every format."""
    options, epochs = PlanOptions(images=images, size=32, batch_size=50), 3
    sizes, kept = label_sizes(options, classes, epochs, top_k), top_k or max(3, classes // 10)
    assert list(sizes) == ["fp32", "fp16", "int8", f"topk {kept}", "none"]
    for name in ("fp32", "fp16", "int8", "topk"):
        number_format = label_format(name, classes, kept if name == "topk" else None)
        folder = tmp_path / name
        for epoch in range(epochs):
            stored = number_format.encode(tiny.random_logits(options, classes, epoch))
            save_epoch(epoch_file(folder, epoch), epoch, draw_plan(options, epoch), stored,
                       number_format, "0" * 64)
        written = sum(path.stat().st_size for path in folder.iterdir())
        assert sizes[words(number_format)] == pytest.approx(written, rel=0.02)
    assert sizes["none"] == 0


def test_same_bytes_twice(tmp_path):
    assert save(tmp_path / "a").read_bytes() == save(tmp_path / "b").read_bytes()


@pytest.mark.parametrize(("name", "value"), [
    *((name, value) for name in LABEL_FORMATS for value in (math.nan, math.inf)),
    ("fp16", 1e5), ("topk", -1e5), ("int8", 3e38)])
def test_logits_that_are_not_finite_or_do_not_fit(tmp_path, name, value):
    logits = tiny.random_logits(OPTIONS, 7, 0)
    logits[11, 3], logits[11, 4] = value, -value / 2
    with pytest.raises(UserError, match=f"epoch 0: logits are not finite, .* into {name}. Check"):
        save(tmp_path, 0, name, logits)
    assert list(tmp_path.iterdir()) == []


# Files that are not what labels.json says

@pytest.mark.parametrize("place", ["header", "plan", "logits", "last byte"])
def test_a_flipped_byte_is_noticed(run, place):
    path = epoch_file(tiny.label_folder(run, 1).folder, 0)
    data = bytearray(path.read_bytes())
    begin = 8 + int.from_bytes(data[:8], "little")
    at = {"header": 4, "plan": begin + 2, "logits": -40, "last byte": -1}[place]
    data[at] ^= 1
    path.write_bytes(data)
    store = LabelStore(path.parent, open_distilled(run / "images"))
    with pytest.raises(UserError, match="epoch_000.safetensors: damaged .* Remove it and"):
        store.epoch(0)


def test_a_file_that_may_not_be_read_is_not_called_missing(run, monkeypatch):
    store = tiny.label_folder(run, 1)

    def refused(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "open", refused, raising=False)
        with pytest.raises(UserError, match="epoch_000.safetensors: no permission"):
            store.check(1)

    path = epoch_file(store.folder, 0)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="epoch_000.safetensors: is a folder, expected a file"):
        store.check(1)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_noticed(run, keep):
    store = tiny.label_folder(run, 1)
    path = epoch_file(store.folder, 0)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match="epoch_000.safetensors: damaged .* Remove it and"):
        store.epoch(0)


def test_a_foreign_file_is_refused(run):
    store = tiny.label_folder(run, 0)
    save_file({"x": torch.zeros(2)}, epoch_file(store.folder, 0))
    with pytest.raises(UserError, match="epoch None, expected 0 as labels.json says.* Remove it"):
        store.epoch(0)


@pytest.mark.parametrize(("changed", "message"), [
    ({"fkd_seed": 43}, "made by another recipe .images, teachers or options. than labels.json"),
    ({"batch_size": 4}, "batch_size 4, expected 5 as labels.json says"),
    ({"label_format": "fp32"}, "format fp32, expected fp16 as labels.json says"),
    ({"label_format": "topk", "label_top_k": 2}, "format topk, expected fp16"),
])
def test_a_file_of_another_run_is_refused(run, changed, message):
    other = epoch_file(tiny.label_folder(run, 1, **changed).folder, 0).read_bytes()
    store = tiny.label_folder(run, 1)
    assert is_finished(store.folder, 0, store.plan_options, store.number_format, store.recipe)
    epoch_file(store.folder, 0).write_bytes(other)
    assert not is_finished(store.folder, 0, store.plan_options, store.number_format, store.recipe)
    with pytest.raises(UserError, match=f"{message}.* Was it copied from another run"):
        store.epoch(0)


def test_an_epoch_under_another_number_is_refused(run):
    store = tiny.label_folder(run, 2)
    shutil.copy(epoch_file(store.folder, 1), epoch_file(store.folder, 0))
    with pytest.raises(UserError, match="epoch 1, expected 0 as labels.json says"):
        store.epoch(0)


# The labels folder

def test_the_store_says_what_labels_json_says(run):
    store = tiny.label_folder(run, 3)
    assert store.plan_options == PlanOptions(images=9, size=16, batch_size=5)
    assert store.options["teacher_weights"] == "IMAGENET1K_V1"
    assert (store.epochs, store.teachers, store.store) == ([0, 1, 2], {"resnet18": "ab"}, "files")
    assert store.number_format == label_format("fp16", 3)


def test_a_missing_epoch_is_named(run):
    store = tiny.label_folder(run, 3)
    store.check(3)
    with pytest.raises(UserError, match="3 of 4 epochs, the first missing is epoch 3"):
        store.check(4)
    epoch_file(store.folder, 1).unlink()
    with pytest.raises(UserError, match="2 of 3 epochs, the first missing is epoch 1. Was relabel"):
        store.check(3)
    with pytest.raises(UserError, match="epoch_001.safetensors: missing. Was relabel stopped"):
        store.epoch(1)
    sentence = r"1: finished epochs are skipped, or train with --epochs 1 \(EPOCHS=1 in the scripts"
    with pytest.raises(UserError, match=f"--epochs 100000000{sentence}"):
        store.check(1000000001)
    epoch_file(store.folder, 0).unlink()
    with pytest.raises(UserError, match="1 of 3 .* epoch 0. .* --epochs 3: finished .* skipped.$"):
        store.check(3)


@pytest.mark.parametrize("name", [
    "epoch_99999999999999999999.safetensors", "epoch_0001.safetensors", "epoch_1.safetensors",
    "epoch_002.safetensors.bak"])
def test_other_names_in_the_folder_are_no_epochs(run, name):
    store = tiny.label_folder(run, 2)
    (store.folder / name).touch()
    assert store.epochs == [0, 1]
    store.check(2)


def test_wide_numbers(run):
    store = tiny.label_folder(run, 1)
    assert epoch_file(store.folder, 1000).name == "epoch_1000.safetensors"
    for name in ("epoch_1000.safetensors", "epoch_1.safetensors", "preview.png"):
        (store.folder / name).touch()
    assert store.epochs == [0, 1000]


def test_a_missing_or_damaged_labels_json(run):
    with pytest.raises(UserError, match="labels.json: not found. It is written by relabel"):
        LabelStore(run / "labels", open_distilled(run / "images"))
    content = read_json(tiny.label_folder(run, 0).folder / "labels.json", "relabel")
    write_json(run / "labels/labels.json", {"options": {}})
    with pytest.raises(UserError, match="labels.json: damaged .it does not say 'teacher_weights'"):
        LabelStore(run / "labels", open_distilled(run / "images"))
    content["options"]["label_format"] = "int4"
    write_json(run / "labels/labels.json", content)
    with pytest.raises(UserError, match="labels.json: damaged .it does not say 'int4'"):
        LabelStore(run / "labels", open_distilled(run / "images"))


# The images that were labelled

class Images:
    """What check_images needs of an ImageSet."""

    def __init__(self, count=13, classes=("a", "b", "c"), files="f" * 64):
        self.folder = "run/images"
        self.identity = {"count": count, "classes": list(classes), "files": files}


@pytest.mark.parametrize(("images", "sentence"), [
    (Images(count=14), "labels are for 13 images, run/images has 14: images were added"),
    (Images(count=12), "images were removed"),
    (Images(files="0" * 64), "was renamed or changed"),
    (Images(classes="bac"), "another order .* class 0 of run/images is b, in the labels a"),
    (Images(classes="ab"), "labels are for 3 classes, run/images has 2; they differ in c"),
    (Images(classes="abb"), "labels are for 3 classes, run/images has 3; they differ in c"),
])
def test_labels_of_other_images(images, sentence):
    with pytest.raises(UserError, match=sentence):
        check_images("run/labels", Images().identity, images)


def test_the_store_checks_the_images(run):
    tiny.label_folder(run, 1)
    image = run / "images/new001/class001_id001.png"
    image.rename(image.with_name("class001_id007.png"))
    with pytest.raises(UserError, match="was renamed or changed since it was labelled"):
        LabelStore(run / "labels", open_distilled(run / "images"))
