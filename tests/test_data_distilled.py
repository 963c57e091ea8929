import pickle

import pytest
import tiny
import torch
from PIL import Image
from torch.utils.data import DataLoader

from data.distilled import DistilledImages, load
from data.epoch_plan import batch_slice, draw_plan, mixed_batch
from data.label_formats import FORMATS, label_format, through_format
from data.labels import LabelWriter, epoch_file, format_of, plan_options, recipe_hash
from data.run_folder import versions
from utils.errors import UserError
from utils.files import write_json

CLASSES = ("new000", "new001", "new002")


def make_run(root, mix="cutmix", epochs=2, batch_size=4, store="files", label="fp16"):
    """A run folder of 9 random images with random logits."""
    tiny.image_folder(root / "images", CLASSES, 3, size=(24, 24))
    images = DistilledImages(root / "images")
    options = {"teachers": ["resnet18"], "ensemble": "single", "fkd_seed": 42, "batch_size": batch_size, "min_scale_crops": 0.25,
               "flip_prob": 0.5, "mix_type": mix, "mix_alpha": 0.8, "image_size": 24, "label_format": label}
    if label == "topk":
        options["label_top_k"] = 2
    content = {"options": options, "store": store, "teacher_weights": "x", "versions": versions(),
               "identity": {"images": images.identity, "teachers": {}}}
    write_json(root / "labels/labels.json", content)
    plans = plan_options(options, len(images))
    for epoch in range(epochs):
        with LabelWriter(epoch_file(root / "labels", epoch), epoch, draw_plan(plans, epoch), plans, format_of(options, 3),
                         recipe_hash(content)) as writer:
            for batch in range(plans.batches):
                writer.write(batch, fake_logits(plans, epoch, batch))
    return images, plans


def fake_logits(plans, epoch, batch):
    rows = batch_slice(plans, batch)
    return torch.randn(rows.stop - rows.start, 3, generator=torch.Generator().manual_seed(100 * epoch + batch))


@pytest.mark.parametrize(("mix", "label"), [("cutmix", "fp16"), ("mixup", "fp16"), ("none", "fp16"),
                                            *(("cutmix", label) for label in FORMATS if label != "fp16")])
def test_load_replays_the_plan_bit_for_bit(tmp_path, mix, label):
    images, plans = make_run(tmp_path, mix, label=label)
    number_format = label_format(label, 3, 2 if label == "topk" else None)
    data = load(tmp_path)
    assert (len(data), data.epochs, data.batch_size, data.classes) == (9, [0, 1], 4, list(CLASSES))
    for epoch in (1, 0):
        data.set_epoch(epoch)
        plan = draw_plan(plans, epoch)
        for batch, (views, soft, classes) in enumerate(DataLoader(data, data.batch_size)):
            at = batch_slice(plans, batch)
            assert torch.equal(views, mixed_batch(lambda i: images.pixels[i], plan, plans, batch))
            assert torch.equal(soft, through_format(fake_logits(plans, epoch, batch), number_format))
            assert torch.equal(classes, images.labels[plan.order[at]])
        assert batch == 2


def test_items_in_any_order_and_in_worker_processes(tmp_path):
    make_run(tmp_path)
    data = load(tmp_path)
    views = torch.cat([v for v, _, _ in DataLoader(data, 4)])
    for i in (8, 0, 5, 4):
        image, soft, label = data[i]
        assert torch.equal(image, views[i])
        assert (image.dtype, soft.dtype, soft.shape, type(label)) == (torch.float32, torch.float32, (3,), int)
    again = pickle.loads(pickle.dumps(data))
    assert torch.equal(again[7][1], data[7][1])
    with pytest.raises(IndexError):
        data[9]
    assert torch.equal(views, torch.cat([v for v, _, _ in DataLoader(data, 4, num_workers=1)]))


def test_load_refuses_other_images(tmp_path):
    make_run(tmp_path)
    extra = tmp_path / "images/new001/class001_id009.png"
    Image.new("RGB", (24, 24)).save(extra)
    with pytest.raises(UserError, match="images were added"):
        load(tmp_path)
    extra.unlink()
    load(tmp_path)
    first = sorted((tmp_path / "images/new000").iterdir())[0]
    first.rename(first.with_name("zzz.JPEG"))
    with pytest.raises(UserError, match="renamed or changed"):
        load(tmp_path)


def test_load_without_labels(tmp_path):
    make_run(tmp_path, epochs=0, store="none")
    with pytest.raises(UserError, match="only the recipe is stored .* Run relabel"):
        load(tmp_path)


def test_distilled_images(tmp_path):
    tiny.image_folder(tmp_path / "images", CLASSES, 2, size=(24, 24))
    images = DistilledImages(tmp_path / "images")
    assert (len(images), images.image_size, images.classes, images.dataset) == (6, 24, list(CLASSES), None)
    assert images.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert images.pixels.shape == (6, 3, 24, 24)
    write_json(tmp_path / "images.json", {"options": {"dataset": "digits"}, "identity": {"classes": ["x", "y", "z"]}})
    images = DistilledImages(tmp_path / "images")
    assert (images.dataset, images.classes) == ("digits", ["x", "y", "z"])
    write_json(tmp_path / "images.json", {"options": {"dataset": "digits"}, "identity": {"classes": ["x", "y"]}})
    with pytest.raises(UserError, match="found 3 class folders, images.json lists 2 classes"):
        DistilledImages(tmp_path / "images")


def test_identity_notices_every_change(tmp_path):
    tiny.image_folder(tmp_path / "images", CLASSES, 2, size=(24, 24))
    first = DistilledImages(tmp_path / "images").identity
    assert DistilledImages(tmp_path / "images").identity == first
    file = tmp_path / "images/new001/img_001.JPEG"
    data = file.read_bytes()
    file.write_bytes(data + b"\0")
    assert DistilledImages(tmp_path / "images").identity["files"] != first["files"]
    file.write_bytes(data)
    file.rename(tmp_path / "images/new002/img_001x.JPEG")
    moved = DistilledImages(tmp_path / "images").identity
    assert moved["count"] == first["count"]
    assert moved["files"] != first["files"]


def test_unequal_and_oblong_images(tmp_path):
    tiny.image_folder(tmp_path / "a", ("x",), 1, size=(24, 24))
    Image.new("RGB", (20, 20)).save(tmp_path / "a/x/z.png")
    with pytest.raises(UserError, match="z.png: 20x20 pixels, the others have 24x24"):
        _ = DistilledImages(tmp_path / "a").pixels
    tiny.image_folder(tmp_path / "b", ("x",), 1, size=(24, 20))
    with pytest.raises(UserError, match="24x20 pixels, expected a square image"):
        _ = DistilledImages(tmp_path / "b").image_size


def test_more_than_half_of_the_memory_is_mapped_from_a_file(tmp_path, monkeypatch):
    images, _ = make_run(tmp_path)
    plain = images.pixels
    monkeypatch.setattr("data.distilled.os.sysconf", lambda _: 8)  # a machine with 64 bytes of memory
    mapped = DistilledImages(tmp_path / "images").pixels
    assert torch.equal(plain, mapped)
    assert torch.equal(plain[torch.tensor([7, 0])], mapped[torch.tensor([7, 0])])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "labels"]  # the file has no name
    monkeypatch.setattr("data.distilled.free_bytes", lambda _: 10)
    with pytest.raises(UserError, match="more than half of the memory, and the disk has 0 GB free"):
        _ = DistilledImages(tmp_path / "images").pixels


def test_a_stopped_recover_is_noticed(tmp_path, capsys):
    make_run(tmp_path)
    manifest = {"options": {"dataset": "imagefolder", "allow_short_classes": False}, "identity": {"classes": ["a", "b", "c"]}}
    write_json(tmp_path / "images.json", manifest)
    assert DistilledImages(tmp_path / "images").classes == ["a", "b", "c"]
    (tmp_path / "images/new001/img_002.JPEG").unlink()
    assert capsys.readouterr().out == ""
    DistilledImages(tmp_path / "images")
    assert "new001 has 2 images, others up to 3. Was recover stopped" in capsys.readouterr().out
    manifest["options"]["allow_short_classes"] = True
    write_json(tmp_path / "images.json", manifest)
    assert len(DistilledImages(tmp_path / "images")) == 8
    assert capsys.readouterr().out == ""


def test_numbered_folders_are_no_class_names(tmp_path):
    make_run(tmp_path)
    assert DistilledImages(tmp_path / "images").known_classes is None
    (tmp_path / "images/new001").rename(tmp_path / "images/tench")
    assert DistilledImages(tmp_path / "images").known_classes == ["new000", "new002", "tench"]
