import json
import math
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file

from data.epoch_plan import PlanOptions, batch_slice, draw_plan
from data.label_formats import FORMATS, label_format, through_format
from data.labels import (
    EpochLabels,
    LabelStore,
    LabelWriter,
    check_images,
    epoch_bytes,
    epoch_file,
    recipe_hash,
)
from utils.errors import UserError
from utils.files import write_json

OPTIONS = PlanOptions(images=13, size=16, batch_size=5)
CLASSES = 7
FORMAT = {name: label_format(name, CLASSES, 3 if name == "topk" else None) for name in FORMATS}


def logits(seed=0, images=13):
    return torch.randn(images, CLASSES, generator=torch.Generator().manual_seed(seed)) * 8


def write(folder, epoch=0, number_format="fp16", options=OPTIONS, values=None, stop_at=None, recipe=None):
    path, values = epoch_file(folder, epoch), logits(epoch, options.images) if values is None else values
    with LabelWriter(path, epoch, draw_plan(options, epoch), options, FORMAT[number_format], recipe) as writer:
        for batch in range(options.batches):
            if batch == stop_at:
                raise KeyboardInterrupt
            writer.write(batch, values[batch_slice(options, batch)])
    return path


def read(path, epoch=0, number_format="fp16", options=OPTIONS, recipe=None):
    return EpochLabels(path, epoch, options, FORMAT[number_format], recipe)


class Images:
    """What LabelStore needs of DistilledImages."""

    def __init__(self, count=13, classes=None, files="f" * 64):
        self.folder = "run/images"
        self.identity = {"count": count, "classes": classes or [f"c{i}" for i in range(CLASSES)], "files": files}


def labels_json(folder, store="files", **changed):
    options = {"teachers": ["resnet18"], "ensemble": "single", "fkd_seed": 42, "batch_size": 5, "min_scale_crops": 0.25,
               "flip_prob": 0.5, "mix_type": "cutmix", "mix_alpha": 1.0, "image_size": 16, "label_format": "fp16", **changed}
    content = {"options": options, "store": store, "teacher_weights": "IMAGENET1K_V1",
               "identity": {"images": Images().identity, "teachers": {"resnet18": "ab"}}}
    write_json(folder / "labels.json", content)
    return content


@pytest.mark.parametrize("number_format", FORMATS)
def test_written_and_read_back(tmp_path, number_format):
    epoch = read(write(tmp_path, 3, number_format), 3, number_format)
    for batch in range(3):
        expected = through_format(logits(3)[batch_slice(OPTIONS, batch)], FORMAT[number_format])
        assert torch.equal(epoch.batch(batch), expected)
        assert epoch.batch(batch).dtype == torch.float32
    assert epoch.plan == draw_plan(OPTIONS, 3)
    assert torch.equal(pickle.loads(pickle.dumps(epoch)).batch(2), epoch.batch(2))  # as a DataLoader's worker gets it
    with pytest.raises(IndexError):
        epoch.batch(3)


@pytest.mark.parametrize("number_format", FORMATS)
def test_any_safetensors_reader_opens_it(tmp_path, number_format):
    path = write(tmp_path, 0, number_format)
    tensors = load_file(path)
    whole = FORMAT[number_format].encode(logits())
    assert set(tensors) == {*whole, "crc32", "order", "crops", "flips", "partners", "lams", "boxes"}
    for name, expected in whole.items():
        assert tensors[name].dtype == expected.dtype
        assert torch.equal(tensors[name], expected)
    assert torch.equal(tensors["order"], draw_plan(OPTIONS, 0).order.int())
    size = path.stat().st_size
    assert 0 < size - epoch_bytes(OPTIONS, FORMAT[number_format]) < 2000  # the header


def test_epoch_bytes_of_the_paper():
    options = PlanOptions(images=10000, size=224)  # IPC 10
    for name, top_k, expected in (("fp32", None, 12.1e9), ("fp16", None, 6.1e9), ("int8", None, 3.1e9), ("topk", 100, 1.3e9)):
        assert 300 * epoch_bytes(options, label_format(name, 1000, top_k)) == pytest.approx(expected, rel=0.01)


def test_same_bytes_twice(tmp_path):
    first = write(tmp_path / "a").read_bytes()
    assert write(tmp_path / "b").read_bytes() == first


def test_wide_numbers(tmp_path):
    assert epoch_file(tmp_path, 7).name == "epoch_007.safetensors"
    labels_json(tmp_path)
    for epoch in (2, 1000):
        write(tmp_path, epoch)
    (tmp_path / "epoch_1.safetensors").touch()
    (tmp_path / "preview.png").touch()
    store = LabelStore(tmp_path, Images())
    assert store.epochs == [2, 1000]
    assert store.epoch(1000).plan == draw_plan(OPTIONS, 1000)


def test_interrupted_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, stop_at=2)
    assert list(tmp_path.iterdir()) == []


def test_interrupted_keeps_the_finished_file(tmp_path):
    before = write(tmp_path).read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, values=logits(9), stop_at=1)
    assert [p.name for p in tmp_path.iterdir()] == ["epoch_000.safetensors"]
    assert epoch_file(tmp_path, 0).read_bytes() == before


def test_writer_refuses_gaps(tmp_path):
    plan = draw_plan(OPTIONS, 0)
    path = epoch_file(tmp_path, 0)
    with (pytest.raises(ValueError, match="expected batch 0"),
          LabelWriter(path, 0, plan, OPTIONS, FORMAT["fp16"]) as writer):
        writer.write(1, logits()[5:10])
    with (pytest.raises(ValueError, match="expected batch 0 of .5, 7."),
          LabelWriter(path, 0, plan, OPTIONS, FORMAT["fp16"]) as writer):
        writer.write(0, logits()[:4])
    with (pytest.raises(ValueError, match="1 batches written, expected 3"),
          LabelWriter(path, 0, plan, OPTIONS, FORMAT["fp16"]) as writer):
        writer.write(0, logits()[:5])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number_format", FORMATS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_writer_refuses_what_is_not_finite(tmp_path, number_format, value):
    values = logits()
    values[11, 3] = value
    with pytest.raises(UserError, match="epoch 0, batch 2: the teachers' logits are not finite"):
        write(tmp_path, 0, number_format, values=values)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number_format", "value"), [("fp16", 1e5), ("topk", 1e5), ("topk", -1e5), ("int8", 3e38)])
def test_writer_refuses_what_does_not_fit(tmp_path, number_format, value):
    values = logits()
    values[11, 3], values[11, 4] = value, -value / 2
    with pytest.raises(UserError, match=rf"epoch 0, batch 2: a logit of {abs(value):.3g}".replace("+", r"\+") +
                       rf" does not fit in {number_format}. Use --label-format fp32"):
        write(tmp_path, 0, number_format, values=values)
    assert list(tmp_path.iterdir()) == []


def test_missing_epoch(tmp_path):
    with pytest.raises(UserError, match="epoch_003: missing. Was relabel stopped. Run it again: finished epochs are skipped"):
        read(epoch_file(tmp_path, 3), 3)


def test_other_number_of_batches(tmp_path):
    path = write(tmp_path, 3, options=PlanOptions(images=12, size=16, batch_size=5))
    more = PlanOptions(images=26, size=16, batch_size=5)
    with pytest.raises(UserError, match="epoch_003: 3 batches, expected 6. Was relabel stopped"):
        read(path, 3, options=more)
    with pytest.raises(UserError, match="12 images, expected 13"):
        read(path, 3)


def test_other_batch_size_epoch_format_classes(tmp_path):
    path = write(tmp_path)
    with pytest.raises(UserError, match="batches of 5, expected 4"):
        read(path, options=PlanOptions(images=13, size=16, batch_size=4))
    with pytest.raises(UserError, match="epoch 0, expected 1"):
        read(path, 1)
    with pytest.raises(UserError, match="format fp16, expected fp32"):
        read(path, number_format="fp32")
    with pytest.raises(UserError, match="classes 7, expected 8"):
        EpochLabels(path, 0, OPTIONS, label_format("fp16", 8))


def test_other_top_k(tmp_path):
    path = write(tmp_path, 0, "topk")
    with pytest.raises(UserError, match="top_k 3, expected 4 as labels.json says"):
        EpochLabels(path, 0, OPTIONS, label_format("topk", CLASSES, 4))
    with pytest.raises(UserError, match="classes 7, expected 8 as labels.json says"):
        EpochLabels(path, 0, OPTIONS, label_format("topk", 8, 3))
    with pytest.raises(UserError, match="format topk, expected int8"):
        read(path, 0, "int8")


def test_a_tensor_that_does_not_belong(tmp_path):
    path = write(tmp_path, 0, "int8")
    path.write_bytes(path.read_bytes().replace(b'"scale"', b'"scala"'))
    with pytest.raises(UserError, match="not a label file of this project"):
        read(path, 0, "int8")


def test_file_of_another_run(tmp_path):
    path = write(tmp_path, recipe="a" * 64)
    assert torch.equal(read(path, recipe="a" * 64).batch(0), read(path).batch(0))
    with pytest.raises(UserError, match="another recipe"):
        read(path, recipe="b" * 64)


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, -1])
def test_cut_short(tmp_path, keep):
    path = write(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(UserError, match="epoch_000: damaged or cut short .* Run relabel again"):
        read(path)


def test_foreign_safetensors(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, tmp_path / "epoch_000.safetensors")
    with pytest.raises(UserError, match="not a label file of this project"):
        read(tmp_path / "epoch_000.safetensors")


def flip_bit(path, tensor, element):
    """Flip one bit of an element of a tensor in a safetensors file."""
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    entry = json.loads(data[8 : 8 + length])[tensor]
    begin, end = entry["data_offsets"]
    width = (end - begin) // math.prod(entry["shape"])
    data[8 + length + begin + element * width] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(("number_format", "tensor"), [(name, tensor) for name in FORMATS for tensor in FORMAT[name].columns])
def test_one_wrong_bit_is_noticed(tmp_path, number_format, tensor):
    path = write(tmp_path, 0, number_format)
    flip_bit(path, tensor, 6 * (FORMAT[number_format].columns[tensor][1] or 1))  # image 6, in batch 1
    epoch = read(path, 0, number_format)
    epoch.batch(0)
    epoch.batch(2)
    with pytest.raises(UserError, match="epoch_000: batch 1 does not match its checksum"):
        epoch.batch(1)


@pytest.mark.parametrize("tensor", ["order", "crops", "flips", "partners", "lams", "boxes"])
def test_one_wrong_bit_in_the_plan_is_noticed(tmp_path, tensor):
    path = write(tmp_path)
    flip_bit(path, tensor, 1)
    with pytest.raises(UserError, match="plan does not match its checksum"):
        _ = read(path).plan


def test_not_finite_in_a_file(tmp_path, monkeypatch):
    values = logits()
    values[5, 0] = math.nan
    monkeypatch.setattr(torch, "isfinite", lambda t: torch.ones_like(t, dtype=torch.bool))
    path = write(tmp_path, values=values)
    monkeypatch.undo()
    with pytest.raises(UserError, match="batch 1 holds logits that are not finite"):
        read(path).batch(1)


def test_store(tmp_path):
    content = labels_json(tmp_path)
    for epoch in range(3):
        write(tmp_path, epoch, recipe=recipe_hash(content))
    store = LabelStore(tmp_path, Images())
    assert store.plan_options == OPTIONS
    assert store.options["teacher_weights"] == "IMAGENET1K_V1"
    assert (store.epochs, store.teachers, store.store) == ([0, 1, 2], {"resnet18": "ab"}, "files")
    assert store.number_format == FORMAT["fp16"]
    assert torch.equal(store.epoch(2).batch(1), through_format(logits(2)[5:10], FORMAT["fp16"]))
    store.check(3, batch_size=5)
    with pytest.raises(UserError, match="batches of 5 images, --batch-size is 4"):
        store.check(3, batch_size=4)
    epoch_file(tmp_path, 1).unlink()
    with pytest.raises(UserError, match="2 of 3 epochs, the first missing is epoch 1. Was relabel stopped"):
        store.check(3)
    shutil.copy(epoch_file(tmp_path, 2), epoch_file(tmp_path, 1))
    with pytest.raises(UserError, match="epoch 2, expected 1"):
        store.check(3)


def test_store_of_another_run(tmp_path):
    labels_json(tmp_path)
    write(tmp_path, recipe=recipe_hash(labels_json(tmp_path / "other", fkd_seed=43)))
    with pytest.raises(UserError, match="another recipe"):
        LabelStore(tmp_path, Images()).epoch(0)


def test_store_none_needs_no_files(tmp_path):
    labels_json(tmp_path, store="none")
    LabelStore(tmp_path, Images()).check(300)


def test_no_or_damaged_labels_json(tmp_path):
    with pytest.raises(UserError, match="labels.json: not found. It is written by relabel"):
        LabelStore(tmp_path, Images())
    write_json(tmp_path / "labels.json", {"options": {}})
    with pytest.raises(UserError, match="labels.json: does not say 'teacher_weights'"):
        LabelStore(tmp_path, Images())
    labels_json(tmp_path, label_format="int4")
    with pytest.raises(UserError, match="labels.json: does not say 'int4'"):
        LabelStore(tmp_path, Images())


def test_store_of_top_k(tmp_path):
    content = labels_json(tmp_path, label_format="topk", label_top_k=3)
    write(tmp_path, 0, "topk", recipe=recipe_hash(content))
    store = LabelStore(tmp_path, Images())
    store.check(1)
    assert torch.equal(store.epoch(0).batch(2), through_format(logits()[10:], FORMAT["topk"]))


@pytest.mark.parametrize(("images", "sentence"), [
    (Images(count=14), "labels are for 13 images, run/images has 14: images were added"),
    (Images(count=12), "images were removed"),
    (Images(files="0" * 64), "was renamed or changed"),
    (Images(classes=["c1", "c0", *(f"c{i}" for i in range(2, 7))]), "another order .* class 0 .* is c1, in the labels c0"),
    (Images(classes=[f"c{i}" for i in range(6)]), "labels are for 7 classes, run/images has 6; they differ in c6"),
])
def test_labels_of_other_images(images, sentence):
    with pytest.raises(UserError, match=sentence):
        check_images("run/labels", Images().identity, images)
