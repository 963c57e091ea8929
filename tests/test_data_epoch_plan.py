import dataclasses

import pytest
import torch
from PIL import Image

from data import augment, images
from data.epoch_plan import EpochPlan, PlanOptions, draw_plan, make_views, mix_views, mixed_batch
from data.names import AUGMENTS, MIXES

OPTIONS = PlanOptions(images=13, size=24, batch_size=5)


def pixels(count=13, size=24):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def batch_pixels(plan, batch, every=None):
    every = pixels() if every is None else every
    return every[plan.order[plan.options.rows(batch)]]


@pytest.mark.parametrize("mix", MIXES)
def test_a_plan_is_a_pure_function(mix):
    options = dataclasses.replace(OPTIONS, mix=mix)
    torch.manual_seed(1)
    first = draw_plan(options, 3)
    torch.manual_seed(2)
    draw_plan(options, 2)
    assert draw_plan(options, 3) == first


@pytest.mark.parametrize("change", [{"seed": 43}, {"batch_size": 4}, {"min_area": 0.5},
                                    {"flip": 0.1}, {"mix": "none"}, {"alpha": 0.2}, {"size": 23},
                                    {"augment": "shift"}, {"augment": "none"}])
def test_every_option_counts(change):
    plan, other = draw_plan(OPTIONS, 0), draw_plan(dataclasses.replace(OPTIONS, **change), 0)
    assert plan != other


def test_epochs_differ():
    assert not torch.equal(draw_plan(OPTIONS, 0).order, draw_plan(OPTIONS, 1).order)


def test_every_image_once_and_partners_within_the_batch():
    plan = draw_plan(OPTIONS, 7)
    assert sorted(plan.order.tolist()) == list(range(13))
    assert [OPTIONS.rows(batch) for batch in range(OPTIONS.batches)] == [
        slice(0, 5), slice(5, 10), slice(10, 13)]
    for batch in range(3):
        partners = plan.partners[OPTIONS.rows(batch)]
        assert sorted(partners.tolist()) == list(range(len(partners)))
    assert (plan.lams.shape, plan.boxes.shape) == ((3,), (3, 4))


@pytest.mark.parametrize(("batch_size", "batch", "views"), [(5, 1, 1), (50, 0, 6)])
def test_batch_of_one_and_batch_larger_than_the_images(batch_size, batch, views):
    plan = draw_plan(PlanOptions(images=6, size=24, batch_size=batch_size), 0)
    assert mixed_batch(batch_pixels(plan, batch), plan, batch).shape == (views, 3, 24, 24)


def test_without_mixing():
    plan = draw_plan(dataclasses.replace(OPTIONS, mix="none"), 0)
    assert plan.lams.tolist() == [1.0] * 3
    assert not plan.boxes.any()
    views = make_views(batch_pixels(plan, 1), plan, 1)
    assert torch.equal(mix_views(views, plan, 1), views)


@pytest.mark.parametrize(("mix", "kind"), [
    *((mix, "crop") for mix in MIXES), *(("cutmix", kind) for kind in AUGMENTS)])
def test_a_stored_plan_replays_the_same_views(mix, kind):
    plan = draw_plan(dataclasses.replace(OPTIONS, mix=mix, alpha=0.8, augment=kind), 4)
    stored = {name: tensor.clone() for name, tensor in plan.tensors().items()}
    again = EpochPlan.from_tensors(plan.options, stored)
    for name in stored:
        assert getattr(again, name).dtype == getattr(plan, name).dtype
        assert torch.equal(getattr(again, name), getattr(plan, name))
    for batch in range(3):
        views = mixed_batch(batch_pixels(plan, batch), plan, batch)
        assert torch.equal(mixed_batch(batch_pixels(again, batch), again, batch), views)


@pytest.mark.parametrize(("mix", "kind"), [
    *(("cutmix", kind) for kind in AUGMENTS), ("mixup", "crop")])
def test_a_mixed_batch_equals_pil_image_by_image(mix, kind):
    """Pillow, too, gives black for what lies outside of an image."""
    plan, batch = draw_plan(dataclasses.replace(OPTIONS, mix=mix, augment=kind), 2), 2
    rows = OPTIONS.rows(batch)

    views = []
    for position in range(rows.start, rows.stop):
        top, left, height, width = plan.crops[position].tolist()
        image = images.to_pil(pixels()[plan.order[position]])
        image = image.crop((left, top, left + width, top + height))
        image = image.resize((24, 24), Image.Resampling.BILINEAR)
        if plan.flips[position]:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        views.append(images.normalise(images.to_tensor(image)))
    views, partners = torch.stack(views), plan.partners[rows]

    if mix == "cutmix":
        expected = augment.apply_cutmix(views, partners, plan.boxes[batch].tolist())
    else:
        lam = float(plan.lams[batch])
        expected = lam * views + (1 - lam) * views[partners]
    assert torch.equal(mixed_batch(batch_pixels(plan, batch), plan, batch), expected)


def test_shifts_reach_an_eighth_of_the_side_each_way_and_none_keeps_the_image():
    options = dataclasses.replace(OPTIONS, images=500, size=32, augment="shift")
    boxes = draw_plan(options, 0).crops
    for corner in boxes[:, :2].t():
        assert sorted(set(corner.tolist())) == list(range(-4, 5))
    assert boxes[:, 2:].unique().tolist() == [32]

    plan = draw_plan(dataclasses.replace(OPTIONS, augment="none", flip=0.0), 0)
    own = batch_pixels(plan, 1)
    assert torch.equal(make_views(own, plan, 1), images.normalise(own))


@pytest.mark.gpu
@pytest.mark.parametrize(("mix", "kind"), [("cutmix", "crop"), ("mixup", "shift")])
def test_the_same_bits_on_a_gpu(mix, kind):
    plan = draw_plan(dataclasses.replace(OPTIONS, mix=mix, augment=kind), 0)
    for batch in range(3):
        own = batch_pixels(plan, batch)
        on_gpu = mixed_batch(own.cuda(), plan, batch)
        assert torch.equal(on_gpu.cpu(), mixed_batch(own, plan, batch))
