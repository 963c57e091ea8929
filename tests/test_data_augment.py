import functools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms import functional as TF

from data import augment, images

RATIO = (3 / 4, 4 / 3)


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def random_pixels(n, height, width, seed=0):
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=stream(seed))


def slow_crops(count, height, width, area, ratio, generator):
    """torchvision's RandomResizedCrop.get_params, image by image, with the same uniforms."""
    def uniform(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64).tolist()

    u_area, u_ratio = uniform(count, 10), uniform(count, 10)
    u_top, u_left = uniform(count), uniform(count)
    low, high = math.log(ratio[0]), math.log(ratio[1])

    boxes = []
    for i in range(count):
        for attempt in range(10):
            target = height * width * (area[0] + (area[1] - area[0]) * u_area[i][attempt])
            aspect = math.exp(low + (high - low) * u_ratio[i][attempt])
            w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
            if 0 < w <= width and 0 < h <= height:
                top, left = int(u_top[i] * (height - h + 1)), int(u_left[i] * (width - w + 1))
                break
        else:
            w, h = width, height
            if width / height < ratio[0]:
                h = round(width / ratio[0])
            elif width / height > ratio[1]:
                w = round(height * ratio[1])
            top, left = (height - h) // 2, (width - w) // 2
        boxes.append([top, left, h, w])
    return boxes


@pytest.mark.parametrize(("height", "width", "area"), [
    (32, 32, (0.25, 1.0)), (24, 40, (0.08, 1.0)), (10, 90, (0.9, 1.0))])
def test_draw_crops_equals_slow_loop(height, width, area):
    boxes = augment.draw_crops(300, height, width, area, RATIO, stream(3))
    assert boxes.tolist() == slow_crops(300, height, width, area, RATIO, stream(3))


def test_boxes_far_outside_are_refused_before_memory_is_taken():
    box = torch.tensor([[-(2**31), 0, 8, 8]])
    with pytest.raises(ValueError, match="reaches 2147483648 pixels outside"):
        augment.apply_crops(random_pixels(1, 8, 8), box, 8)


def test_wide_image_falls_back_to_centre_crop():
    assert augment.draw_crops(1, 10, 90, (0.9, 1.0), RATIO, stream())[0].tolist() == [0, 38, 10, 13]


def test_draw_crops_law():
    boxes = augment.draw_crops(20000, 224, 224, (0.25, 1.0), RATIO, stream())
    top, left, h, w = boxes.double().unbind(1)
    assert ((top >= 0) & (left >= 0) & (top + h <= 224) & (left + w <= 224)).all()

    area = h * w / 224**2
    assert 0.24 < area.min() < 0.26
    assert area.max() > 0.98
    assert (w / h).min() > 0.74
    assert (w / h).max() < 1.35

    # Of small areas almost every first try fits, so log-ratios are uniform.
    log_ratio = (w / h).log()[area < 0.5]
    assert log_ratio.mean().abs() < 0.01
    assert log_ratio.var() == pytest.approx((2 * math.log(4 / 3)) ** 2 / 12, rel=0.05)

    at = top[h == 150] / 74  # uniform over the places that are left
    assert at.mean() == pytest.approx(0.5, abs=0.06)
    assert at.min() == 0
    assert at.max() == 1


@pytest.mark.parametrize("size", [31, 32, 56, 224])
def test_apply_crops_equals_pil_bit_for_bit(size):
    n = 40 if size < 100 else 4
    pixels = random_pixels(n, size, size)
    boxes = augment.draw_crops(n, size, size, (0.08, 1.0), RATIO, stream(1))
    crops = augment.apply_crops(pixels, boxes, size)
    for image, (top, left, h, w), crop in zip(pixels, boxes.tolist(), crops, strict=True):
        pil = images.to_pil(image).crop((left, top, left + w, top + h))
        pil = pil.resize((size, size), Image.Resampling.BILINEAR)
        assert torch.equal(crop, images.to_tensor(pil))


def test_apply_crops_equals_matrices():
    pixels, size = random_pixels(30, 40, 36), 48
    boxes = augment.draw_crops(30, 40, 36, (0.08, 1.0), RATIO, stream(1))
    across = augment.interpolation_matrices(boxes[:, 1], boxes[:, 3], 36, size)
    down = augment.interpolation_matrices(boxes[:, 0], boxes[:, 2], 40, size)
    across, down = ((m * 2**22).round() / 2**22 for m in (across, down))  # exact in float64
    rows = (pixels.double() @ across.transpose(1, 2).unsqueeze(1) + 0.5).floor()
    expected = (down.unsqueeze(1) @ rows + 0.5).floor().to(torch.uint8)
    assert torch.equal(augment.apply_crops(pixels, boxes, size), expected)


def test_apply_crops_black_and_white_stay():
    white = torch.full((20, 3, 32, 32), 255, dtype=torch.uint8)
    boxes = augment.draw_crops(20, 32, 32, (0.08, 1.0), RATIO, stream())
    assert torch.equal(augment.apply_crops(white, boxes, 32), white)
    assert not augment.apply_crops(torch.zeros_like(white), boxes, 32).any()


def test_interpolation_matrices():
    matrix = augment.interpolation_matrices(torch.tensor([1]), torch.tensor([2]), 5, 4)[0]
    # by hand; never outside columns 1 and 2
    expected = [[0, 1, 0, 0, 0], [0, 0.75, 0.25, 0, 0], [0, 0.25, 0.75, 0, 0], [0, 0, 1, 0, 0]]
    assert torch.equal(matrix, torch.tensor(expected, dtype=torch.float64))


def test_apply_crops_whole_image_is_identity():
    pixels, boxes = random_pixels(3, 17, 17), torch.tensor([[0, 0, 17, 17]]).repeat(3, 1)
    assert torch.equal(augment.apply_crops(pixels, boxes, 17), pixels)


def test_apply_crops_does_not_depend_on_batch_or_threads(monkeypatch):
    pixels = random_pixels(23, 32, 32)
    boxes = augment.draw_crops(23, 32, 32, (0.25, 1.0), RATIO, stream())
    together = augment.apply_crops(pixels, boxes, 32)
    torch.set_num_threads(1)
    alone = [augment.apply_crops(pixels[i : i + 1], boxes[i : i + 1], 32) for i in range(23)]
    assert torch.equal(together, torch.cat(alone))
    monkeypatch.setattr(augment, "_CACHED_PIXELS", 4 * 3 * 32 * 32)  # parts of 4, the last of 3
    assert torch.equal(together, augment.apply_crops(pixels, boxes, 32))


@pytest.mark.gpu
def test_apply_crops_on_gpu_gives_the_same_bits():
    pixels = random_pixels(50, 64, 64)
    boxes = augment.draw_crops(50, 64, 64, (0.25, 1.0), RATIO, stream())
    on_gpu = augment.apply_crops(pixels.cuda(), boxes, 64).cpu()
    assert torch.equal(on_gpu, augment.apply_crops(pixels, boxes, 64))


@pytest.mark.parametrize("box", [(0, 0, 20, 20), (3, 5, 11, 9), (19, 19, 1, 1), (2, 0, 7, 20)])
def test_crop_differentiable_equals_interpolate(box):
    x = torch.randn(2, 3, 20, 20, dtype=torch.float64, generator=stream())
    top, left, h, w = box
    crop, window = augment.crop_differentiable(x, box, 20), x[:, :, top : top + h, left : left + w]
    interpolated = F.interpolate(window, size=(20, 20), mode="bilinear", align_corners=False)
    torch.testing.assert_close(crop, interpolated, rtol=0, atol=1e-12)
    torchvision = TF.resized_crop(x, top, left, h, w, [20, 20], antialias=False)
    torch.testing.assert_close(crop, torchvision, rtol=0, atol=1e-12)


def test_crop_differentiable_gradient():
    x = torch.randn(1, 2, 6, 6, dtype=torch.float64, generator=stream(), requires_grad=True)
    crop = functools.partial(augment.crop_differentiable, box=(1, 2, 4, 3), size=6)
    assert torch.autograd.gradcheck(crop, (x,))


def test_flips():
    x = torch.arange(12.0).view(2, 1, 2, 3)
    got = augment.apply_flips(x, torch.tensor([False, True]))
    assert torch.equal(got[0], x[0])
    assert got[1, 0].tolist() == [[8, 7, 6], [11, 10, 9]]
    assert augment.draw_flips(10000, 0.3, stream()).double().mean() == pytest.approx(0.3, abs=0.02)
    assert not augment.draw_flips(100, 0.0, stream()).any()
    assert augment.draw_flips(100, 1.0, stream()).all()


def test_roll_includes_both_ends():
    generator = stream()
    draws = [augment.draw_roll(4, generator) for _ in range(2000)]
    for axis in (0, 1):
        counts = np.bincount([d[axis] for d in draws], minlength=5)
        assert len(counts) == 5
        assert counts.min() > 320
        assert counts.max() < 480
    assert augment.draw_roll(0, generator) == (0, 0)
    x = torch.arange(6).view(1, 1, 2, 3)
    assert augment.roll(x, 1, 1)[0, 0].tolist() == [[5, 3, 4], [2, 0, 1]]  # down and to the right


@pytest.mark.parametrize(("lam", "row", "column", "box"), [
    (0.75, 10, 10, (5, 5, 15, 15)),   # cut 1/2: side 10, half 5
    (0.75, 1, 18, (0, 13, 6, 20)),    # clipped at the top and at the right
    (0.64, 10, 10, (4, 4, 16, 16)),   # cut 0.6: side 12
    (0.9375, 10, 10, (8, 8, 12, 12)),  # cut 1/4: side 5, halved and floored: 4 rows
    (0.999, 10, 10, (10, 10, 10, 10)),  # side 0: empty
    (0.0, 0, 19, (0, 9, 10, 20)),     # the whole image wide, yet clipped around its centre
])
def test_cutmix_box(lam, row, column, box):
    assert augment.cutmix_box(lam, 20, 20, row, column) == box


def test_cutmix_box_is_floor_per_side():
    # sides 15 and 7, halves 7 and 3
    assert augment.cutmix_box(0.75, 30, 14, 15, 7) == (8, 4, 22, 10)


def test_the_part_outside_a_box_is_counted_in_pixels():
    mask = torch.ones(10, 8)
    mask[2:7, 0:3] = 0
    assert augment.outside_box((2, 0, 7, 3), 10, 8) == pytest.approx(mask.mean().item())
    assert augment.outside_box((0, 0, 0, 0), 10, 8) == 1


def test_draw_cutmix_box_centre_is_uniform():
    generator = stream()
    # cut 0.2: side 2, half 1
    boxes = [augment.draw_cutmix_box(0.96, 10, 10, generator) for _ in range(3000)]
    rows = np.bincount([b[2] - 1 if b[2] < 10 else b[0] + 1 for b in boxes], minlength=10)
    assert (rows > 0).all()
    assert {b[2] - b[0] for b in boxes} == {1, 2}  # 1 at the upper edge, where it is clipped
    assert {b[0] for b in boxes} == set(range(9))


def test_cutmix_and_mixup_equal_slow_loop():
    x = torch.randn(5, 3, 8, 8, generator=stream())
    partner, box, lam = torch.tensor([3, 0, 2, 4, 1]), (1, 2, 5, 8), 0.3
    cut, mixed = x.clone(), torch.empty_like(x)
    for i in range(5):
        for c in range(3):
            for r in range(8):
                for k in range(8):
                    other = x[partner[i], c, r, k]
                    if box[0] <= r < box[2] and box[1] <= k < box[3]:
                        cut[i, c, r, k] = other
                    mixed[i, c, r, k] = lam * x[i, c, r, k] + (1 - lam) * other
    before = x.clone()
    assert torch.equal(augment.apply_cutmix(x, partner, box), cut)
    assert torch.equal(augment.apply_mixup(x, partner, lam), mixed)
    assert torch.equal(x, before)
    assert torch.equal(augment.apply_cutmix(x, partner, (4, 4, 4, 4)), x)


@pytest.mark.parametrize("alpha", [1.0, 0.8, 3.0])
def test_lambda_is_beta(alpha):
    generator = stream(5)
    draws = np.array([augment.draw_lambda(alpha, generator) for _ in range(4000)])
    assert draws.mean() == pytest.approx(0.5, abs=0.02)
    assert draws.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.06)
    assert (draws.astype(np.float32) == draws).all()
    assert draws.min() >= 0
    assert draws.max() <= 1
