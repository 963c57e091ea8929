import pickle

import pytest
import tiny
import torch
from PIL import Image
from torch.utils.data import DataLoader

import data
from data.epoch_plan import draw_plan, mixed_batch
from data.label_formats import through_format
from data.names import AUGMENTS, LABEL_FORMATS, MIXES
from utils.errors import UserError

CLASSES = ("cat", "dog", "owl")


@pytest.fixture
def run(tmp_path):
    """A run folder of 9 images, without labels."""
    tiny.image_folder(tmp_path / "train", CLASSES, 3)
    return tiny.distilled_folder(tmp_path / "run", tmp_path / "train", CLASSES, 3, size=24)


@pytest.mark.parametrize(("mix", "label_format", "kind"), [
    *((mix, "fp16", "crop") for mix in MIXES), *(("cutmix", "fp16", kind) for kind in AUGMENTS),
    *(("cutmix", name, "crop") for name in LABEL_FORMATS)])
def test_items_are_what_the_teachers_saw(run, mix, label_format, kind):
    store = tiny.label_folder(run, 2, batch_size=4, mix_type=mix, label_format=label_format,
                              augment=kind,
                              label_top_k=2 if label_format == "topk" else None)
    dataset = data.load(run)
    assert (len(dataset), dataset.epochs, dataset.batch_size) == (9, [0, 1], 4)
    assert dataset.classes == list(CLASSES)

    for epoch in (1, 0):
        dataset.set_epoch(epoch)
        plan = draw_plan(store.plan_options, epoch)
        logits = through_format(tiny.random_logits(store.plan_options, 3, epoch),
                                store.number_format)
        batches = list(DataLoader(dataset, dataset.batch_size))
        assert len(batches) == 3
        for batch, (views, soft_labels, classes) in enumerate(batches):
            rows = store.plan_options.rows(batch)
            own = dataset.pixels[plan.order[rows]]
            assert torch.equal(views, mixed_batch(own, plan, batch))
            assert torch.equal(soft_labels, logits[rows])
            assert torch.equal(classes, dataset.labels[plan.order[rows]])


def test_items_in_any_order_and_in_worker_processes(run):
    tiny.label_folder(run, 1, batch_size=4)
    dataset = data.load(run)
    views = torch.cat([view for view, _, _ in DataLoader(dataset, 4)])

    for i in (8, 0, 5):
        image, soft_label, label = dataset[i]
        assert torch.equal(image, views[i])
        assert (image.dtype, soft_label.dtype, soft_label.shape) == (torch.float32,) * 2 + ((3,),)
        assert type(label) is int
    with pytest.raises(IndexError):
        dataset[9]

    again = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(again[7][1], dataset[7][1])
    in_worker = [view for view, _, _ in DataLoader(dataset, 4, num_workers=1)]
    assert torch.equal(views, torch.cat(in_worker))


def test_other_images_are_refused(run):
    tiny.label_folder(run, 1)
    extra = run / "images/new001/class001_id009.png"
    Image.new("RGB", (24, 24)).save(extra)
    with pytest.raises(UserError, match="images were added"):
        data.load(run)
    extra.unlink()
    data.load(run)


def test_labels_that_are_made_on_the_fly_are_explained(run):
    tiny.label_folder(run, 0, store="none")
    with pytest.raises(UserError, match="only the recipe is stored .* Run relabel"):
        data.load(run)
