import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms import functional as TF

from data.images import MEAN, STD, normalise
from utils.seeding import stream
from validate import hard_views
from validate.hard_views import draw_views, kept_part, make_views, plan_options
from validate.losses import ground_truth


def pixels(count=6, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def of(kind, count=6, size=16, batch_size=4, mix="none", flips=True, seed=0):
    return draw_views(kind, plan_options(count, size, batch_size, mix, flips, seed), epoch=3)


def test_jitter_equals_torchvision_image_by_image():
    x = pixels(30).float() / 255
    operations, factors = hard_views.draw_jitter(30, 0.4, stream("jitter"))
    adjust = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation)
    expected = []
    for image, order, factor in zip(x, operations.tolist(), factors.tolist(), strict=True):
        for operation, f in zip(order, factor, strict=True):
            image = adjust[operation](image, f)
        expected.append(image)
    found = hard_views.apply_jitter(x, operations, factors)
    torch.testing.assert_close(found, torch.stack(expected))
    assert not torch.equal(found, x)


def test_what_jitter_draws():
    operations, factors = hard_views.draw_jitter(6000, 0.4, stream("jitter"))
    orders, counts = torch.unique(operations, dim=0, return_counts=True)
    assert len(orders) == 6
    assert (counts > 900).all()
    assert factors.min() >= 0.6
    assert factors.max() <= 1.4
    assert factors.mean().item() == pytest.approx(1, abs=0.01)


def test_lighting_equals_a_slow_loop():
    """AlexNet's eigenvectors are the columns."""
    x, generator = pixels(4).float() / 255, torch.Generator().manual_seed(1)
    lighting = hard_views.draw_lighting(4, 0.1, generator)
    a = 0.1 * torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    vectors = [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    values, expected = [0.2175, 0.0188, 0.0045], x.clone()
    for i in range(4):
        for channel in range(3):
            for k in range(3):
                expected[i, channel] += float(a[i, k]) * values[k] * vectors[channel][k]
    torch.testing.assert_close(hard_views.apply_lighting(x, lighting), expected)


def test_imagenet_views_in_the_order_of_the_protocol():
    """Crop, flip, jitter, lighting, mean and std, image by image."""
    views, shown = of("imagenet"), pixels(4)
    for i in range(4):
        top, left, height, width = views.plan.crops[i].tolist()
        image = TF.to_pil_image(shown[i])
        image = TF.resized_crop(image, top, left, height, width, [16, 16])
        image = TF.hflip(image) if views.plan.flips[i] else image
        x = hard_views.apply_jitter(TF.to_tensor(image)[None], views.operations[i : i + 1],
                                    views.factors[i : i + 1])
        x = TF.normalize(x + views.lighting[i].view(1, 3, 1, 1), MEAN, STD)
        torch.testing.assert_close(make_views(shown, views, 0)[i], x[0])
        assert 0.5 * 256 * 0.9 <= height * width <= 256  # sides are rounded
    assert views.plan.flips.any()
    assert not views.plan.flips.all()


def test_without_augmentation_images_are_as_they_are():
    assert torch.equal(make_views(pixels(2), of("none"), 1), normalise(pixels(2)))


@pytest.mark.parametrize("kind", ["imagenet", "dc"])
def test_digits_are_not_mirrored(kind):
    views = of(kind, count=200, flips=False)
    assert not views.plan.flips.any()
    if kind == "dc":
        assert (torch.linalg.det(views.maps[:, :, :2]) > 0).all()
        mirrored = torch.linalg.det(of(kind, count=200).maps[:, :, :2]) < 0
        assert 60 < mirrored.sum() < 140


def test_maps_equal_a_slow_loop():
    x = torch.randn(5, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    maps = hard_views.draw_maps(5, 8, 0.5, stream("maps"))
    expected = torch.zeros_like(x)
    for i in range(5):
        for row in range(8):
            for column in range(8):
                place = torch.tensor([(column + 0.5) / 4 - 1, (row + 0.5) / 4 - 1, 1.0])
                across, down = ((maps[i] @ place + 1) * 4 - 0.5).tolist()
                for r in (math.floor(down), math.floor(down) + 1):
                    for c in (math.floor(across), math.floor(across) + 1):
                        if 0 <= r < 8 and 0 <= c < 8:
                            part = (1 - abs(down - r)) * (1 - abs(across - c))
                            expected[i, :, row, column] += part * x[i, :, r, c]
    torch.testing.assert_close(hard_views.apply_maps(x, maps), expected, atol=1e-4, rtol=1e-4)


def test_what_maps_draw():
    maps = hard_views.draw_maps(2000, 32, 0.5, stream("maps"))
    linear, shift = maps[:, :, :2].double(), maps[:, :, 2] * 16
    lengths = linear.norm(dim=2)  # of the rows: the scales of both axes
    assert 1 / 1.2 - 1e-6 <= lengths.min() < 0.85
    assert 1.18 < lengths.max() <= 1.2 + 1e-6
    degrees = torch.atan2(linear[:, 0, 1], linear[:, 1, 1] * lengths[:, 0] / lengths[:, 1]) * 57.3
    assert 14 < degrees.abs().max() < 15.1
    assert torch.equal(shift, shift.round())
    assert shift.unique().tolist() == list(range(-4, 5))


def test_cutmix_loss_equals_a_slow_loop():
    """Both classes count by the pixels that are theirs, also where the box was clipped."""
    views = of("none", mix="cutmix", size=10, count=8, batch_size=4, seed=2)
    plan, generator = views.plan, torch.Generator().manual_seed(0)
    logits, classes = torch.randn(4, 3, generator=generator), torch.tensor([0, 1, 2, 1])
    clipped = 0
    for batch in (0, 1):
        rows, box = plan.options.rows(batch), plan.boxes[batch].tolist()
        partner = plan.partners[rows]
        own = torch.ones(4, 3, 10, 10, dtype=torch.uint8) * torch.arange(4).view(4, 1, 1, 1).byte()
        mixed = hard_views.mix_views(own, plan, batch)

        expected = 0.0
        for i in range(4):
            log_softmax = F.log_softmax(logits[i], 0)
            for row in range(10):
                for column in range(10):
                    shown = int(mixed[i, 0, row, column])
                    assert shown in (i, partner[i])
                    inside = box[0] <= row < box[2] and box[1] <= column < box[3]
                    label = classes[partner[i]] if inside else classes[i]
                    expected -= float(log_softmax[label]) / 400
        loss = ground_truth(logits, classes, classes[partner], kept_part(plan, batch))
        assert loss.item() == pytest.approx(expected, rel=1e-5)
        clipped += abs(kept_part(plan, batch) - float(plan.lams[batch])) > 0.05
    assert clipped


def test_draws_depend_on_seed_and_epoch_alone():
    options = plan_options(6, 16, 4, "cutmix", True, 0)
    first, again = (draw_views("imagenet", options, 5) for _ in range(2))
    others = [draw_views("imagenet", options, 6),
              draw_views("imagenet", plan_options(6, 16, 4, "cutmix", True, 1), 5)]
    assert torch.equal(make_views(pixels(4), first, 0), make_views(pixels(4), again, 0))
    for other in others:
        assert not torch.equal(first.factors, other.factors)
        assert first.plan != other.plan
