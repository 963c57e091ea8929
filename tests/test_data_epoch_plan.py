import dataclasses

import pytest
import torch
from PIL import Image

from data import augment, images
from data.epoch_plan import (
    EpochPlan,
    PlanOptions,
    batch_slice,
    draw_plan,
    make_views,
    mix_views,
    mixed_batch,
)

OPTIONS = PlanOptions(images=13, size=24, batch_size=5)


def pixels(n=13, size=24):
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("mix", ["cutmix", "mixup", "none"])
def test_plan_is_a_pure_function(mix):
    options = dataclasses.replace(OPTIONS, mix=mix)
    torch.manual_seed(1)
    first = draw_plan(options, 3)
    torch.manual_seed(2)
    draw_plan(options, 2)
    assert draw_plan(options, 3) == first


@pytest.mark.parametrize("change", [{"seed": 43}, {"batch_size": 4}, {"min_area": 0.5}, {"flip": 0.1}, {"mix": "none"},
                                    {"alpha": 0.2}, {"size": 23}])
def test_every_option_counts(change):
    mine, other = draw_plan(OPTIONS, 0), draw_plan(dataclasses.replace(OPTIONS, **change), 0)
    pairs = zip(mine.tensors().values(), other.tensors().values(), strict=True)
    assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in pairs)


def test_epochs_differ():
    assert not torch.equal(draw_plan(OPTIONS, 0).order, draw_plan(OPTIONS, 1).order)


def test_every_image_once_and_partners_within_the_batch():
    plan = draw_plan(OPTIONS, 7)
    assert sorted(plan.order.tolist()) == list(range(13))
    assert OPTIONS.batches == 3
    sizes = []
    for batch in range(3):
        at = batch_slice(OPTIONS, batch)
        sizes.append(at.stop - at.start)
        assert sorted(plan.partners[at].tolist()) == list(range(sizes[-1]))
    assert sizes == [5, 5, 3]
    assert (len(plan.lams), tuple(plan.boxes.shape)) == (3, (3, 4))


def test_batch_of_one_and_batch_larger_than_the_images():
    one = PlanOptions(images=6, size=24, batch_size=5)
    assert mixed_batch(lambda i: pixels()[i], draw_plan(one, 0), one, 1).shape == (1, 3, 24, 24)
    large = PlanOptions(images=6, size=24, batch_size=50)
    assert large.batches == 1
    assert mixed_batch(lambda i: pixels()[i], draw_plan(large, 0), large, 0).shape == (6, 3, 24, 24)


def test_without_mixing():
    options = dataclasses.replace(OPTIONS, mix="none")
    plan = draw_plan(options, 0)
    assert plan.lams.tolist() == [1.0] * 3
    assert not plan.boxes.any()
    views = make_views(lambda i: pixels()[i], plan, options, 1)
    assert torch.equal(mix_views(views, plan, options, 1), views)


@pytest.mark.parametrize("mix", ["cutmix", "mixup", "none"])
def test_stored_plan_is_the_drawn_one(mix):
    options = dataclasses.replace(OPTIONS, mix=mix, alpha=0.8)
    plan = draw_plan(options, 4)
    again = EpochPlan.from_tensors({name: t.clone() for name, t in plan.tensors().items()})
    for field in dataclasses.fields(EpochPlan):
        a, b = getattr(plan, field.name), getattr(again, field.name)
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    for batch in range(3):
        a, b = (mixed_batch(lambda i: pixels()[i], p, options, batch) for p in (plan, again))
        assert torch.equal(a, b)


@pytest.mark.parametrize("mix", ["cutmix", "mixup"])
def test_mixed_batch_equals_pil_image_by_image(mix):
    options = dataclasses.replace(OPTIONS, mix=mix)
    data, plan = pixels(), draw_plan(options, 2)
    batch, at = 2, batch_slice(options, 2)
    got = mixed_batch(lambda i: data[i], plan, options, batch)
    views = []
    for position in range(at.start, at.stop):
        top, left, h, w = plan.crops[position].tolist()
        image = Image.fromarray(data[plan.order[position]].permute(1, 2, 0).numpy()).crop((left, top, left + w, top + h))
        image = image.resize((24, 24), Image.Resampling.BILINEAR)
        if plan.flips[position]:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        views.append(images.normalise(images.to_tensor(image)))
    views, partner = torch.stack(views), plan.partners[at]
    if mix == "cutmix":
        expected = augment.apply_cutmix(views, partner, plan.boxes[batch].tolist())
    else:
        expected = float(plan.lams[batch]) * views + (1 - float(plan.lams[batch])) * views[partner]
    assert torch.equal(got, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("mix", ["cutmix", "mixup"])
def test_the_same_bits_on_a_gpu(mix):
    options, data = dataclasses.replace(OPTIONS, mix=mix), pixels()
    plan, on_gpu = draw_plan(options, 0), pixels().cuda()
    for batch in range(3):
        here = mixed_batch(lambda i: data[i], plan, options, batch)
        there = mixed_batch(lambda i: on_gpu[i.cuda()], plan, options, batch)
        assert torch.equal(here, there.cpu())
