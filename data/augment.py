"""Crops, flips, rolls, CutMix and Mixup.

Drawing and applying are two functions, so that draws can be stored and replayed.

Every draw takes a CPU torch.Generator. Boxes of crops are (top, left, height, width) in pixels. A
box may reach outside of its image, where everything is black.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from data.images import standardise_
from data.names import largest_shift

RATIO = (3 / 4, 4 / 3)  # of crops, width to height (RandomResizedCrop)
_WEIGHT_BITS = 22  # see apply_crops
_CACHED_PIXELS = 2**20  # cropped at once on a CPU, so that both passes work in its cache


def to_device(tensor, device):
    """A tensor on `device`; to a GPU from pinned memory, so that the host does not wait."""
    if torch.device(device).type == "cuda" and not tensor.is_cuda:
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def draw_boxes(kind, count, size, area, generator):
    """Boxes of `count` square images of a side: int64 [count, 4].

    kind: one of data.names.AUGMENTS. area: (low, high) of crops, as a part of the image.
    """
    if kind == "crop":
        return draw_crops(count, size, size, area, RATIO, generator)
    return draw_shifts(count, size, largest_shift(size) if kind == "shift" else 0, generator)


def draw_shifts(count, size, pad, generator):
    """Boxes of whole images of a side, shifted by whole pixels uniform on -pad ... pad."""
    corners = torch.randint(-pad, pad + 1, (count, 2), generator=generator)
    return torch.cat([corners, torch.full((count, 2), size)], 1)


def draw_crops(count, height, width, area, ratio, generator):
    """Boxes of RandomResizedCrop by torchvision's law.

    There are ten tries for an area and a log-uniform aspect ratio, then a centre crop. area, ratio:
    (low, high), the area as a part of the image. Returns int64 [count, 4]: top, left, height,
    width in pixels.
    """
    target = height * width * _uniform((count, 10), *area, generator)
    aspect = _uniform((count, 10), math.log(ratio[0]), math.log(ratio[1]), generator).exp()
    w = (target * aspect).sqrt().round().long()
    h = (target / aspect).sqrt().round().long()

    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.long().argmax(1, keepdim=True)
    w, h = w.gather(1, first)[:, 0], h.gather(1, first)[:, 0]
    fallback_w, fallback_h = _largest_centre_crop(height, width, ratio)
    none_fits = ~fits.any(1)
    w[none_fits], h[none_fits] = fallback_w, fallback_h

    top = (torch.rand(count, generator=generator, dtype=torch.float64) * (height - h + 1)).long()
    left = (torch.rand(count, generator=generator, dtype=torch.float64) * (width - w + 1)).long()
    top[none_fits], left[none_fits] = (height - fallback_h) // 2, (width - fallback_w) // 2
    return torch.stack([top, left, h, w], 1)


def _uniform(shape, low, high, generator):
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)


def _largest_centre_crop(height, width, ratio):
    if width / height < ratio[0]:
        return width, round(width / ratio[0])
    if width / height > ratio[1]:
        return round(height * ratio[1]), height
    return width, height


def interpolation_taps(start, length, size_out):
    """Neighbours and weights of the samples when a window is enlarged bilinearly, as PIL does.

    start, length: int [n], first pixel and number of pixels of each window, length <= size_out
    (when a window must shrink, PIL antialiases and this does not). Sample positions are clamped
    inside the window. Returns low and high, int64 [n, size_out], and the weight of high, float64
    [n, size_out]; that of low is 1 minus it.
    """
    start, length = start.double().view(-1, 1), length.double().view(-1, 1)
    position = (torch.arange(size_out, dtype=torch.float64) + 0.5) * length / size_out - 0.5
    position = position.clamp(min=0).minimum(length - 1)
    low = position.floor()
    high = torch.minimum(low + 1, length - 1)
    return (start + low).long(), (start + high).long(), position - low


def interpolation_matrices(start, length, size_in, size_out):
    """interpolation_taps as a matrix per window: float64 [n, size_out, size_in]; rows sum to 1."""
    low, high, weight = interpolation_taps(start, length, size_out)
    matrix = torch.zeros(len(low), size_out, size_in, dtype=torch.float64)
    matrix.scatter_add_(2, low.unsqueeze(2), (1 - weight).unsqueeze(2))
    matrix.scatter_add_(2, high.unsqueeze(2), weight.unsqueeze(2))
    return matrix


def apply_crops(pixels, boxes, size):
    """Crop each image by its own box and resize it to size x size, equal to PIL bit for bit.

    pixels: uint8 [n, 3, H, W]; boxes: [n, 4] no larger than size. Returns uint8 [n, 3, size, size].
    What lies outside of an image is black.
    PIL resizes rows first, rounds to 8 bits, then columns, with weights rounded to 2^-22 and
    integer sums; so does this. The result does not depend on device, batch shape, threads or
    summation order.
    """
    pad = _reach(boxes, *pixels.shape[2:])
    if pad:
        pixels, boxes = F.pad(pixels, [pad] * 4), boxes + torch.tensor([pad, pad, 0, 0])
    at_once = max(1, _CACHED_PIXELS // pixels[0].numel())
    if pixels.is_cuda:
        at_once = len(pixels)
    parts = zip(pixels.split(at_once), boxes.split(at_once), strict=True)
    return torch.cat([_crop_part(part, part_boxes, size) for part, part_boxes in parts])


def _reach(boxes, height, width):
    """By how many pixels boxes [n, 4] reach outside of images of height x width, at most."""
    top, left, h, w = boxes.unbind(1)
    reach = int(torch.stack([-top, -left, top + h - height, left + w - width]).max().clamp(min=0))
    if reach > max(height, width):
        raise ValueError(f"a box reaches {reach} pixels outside of images of {height}x{width}")
    return reach


def _crop_part(pixels, boxes, size):
    across = interpolation_taps(boxes[:, 1], boxes[:, 3], size)
    down = interpolation_taps(boxes[:, 0], boxes[:, 2], size)
    columns = _blend_rows(pixels.transpose(2, 3), *across).transpose(2, 3)
    return _blend_rows(columns, *down)


def _blend_rows(pixels, low, high, weight):
    """Rows low and high [n, S] of uint8 [n, 3, R, K], blended, rounded: uint8 [n, 3, S, K]."""
    n, channels, rows, _ = pixels.shape
    weight = to_device((weight * 2**_WEIGHT_BITS).round().int(), pixels.device).view(n, 1, -1, 1)

    # Whole rows are copied, which is much faster than gathering single pixels.
    flat = pixels.reshape(n * channels * rows, -1)
    first_row = (torch.arange(n * channels) * rows).view(n, channels, 1)
    a, b = (flat.index_select(0, to_device((first_row + index.unsqueeze(1)).view(-1), flat.device))
            .view(n, channels, -1, flat.shape[1]) for index in (low, high))

    # (1 - w) a + w b in integers below 2^31, rounded
    a = a.int()
    total = b.sub(a).mul_(weight).add_(a.bitwise_left_shift_(_WEIGHT_BITS))
    total.add_(2 ** (_WEIGHT_BITS - 1))
    return total.bitwise_right_shift_(_WEIGHT_BITS).to(torch.uint8)


def crop_differentiable(x, box, size):
    """One crop for a whole batch of normalised images, differentiable (recover's augmentation).

    x: float [n, 3, H, W]; box: four integers; returns [n, 3, size, size]. What lies outside of the
    images is black.
    """
    box = torch.as_tensor(box)
    pad = _reach(box.view(1, 4), *x.shape[2:])
    if pad:
        x, box = _in_black(x, pad), box + torch.tensor([pad, pad, 0, 0])
    top, left, height, width = (torch.tensor([int(v)]) for v in box)
    across = interpolation_matrices(left, width, x.shape[3], size)[0].to(x.dtype)
    down = interpolation_matrices(top, height, x.shape[2], size)[0].to(x.dtype)
    return to_device(down, x.device) @ (x @ to_device(across, x.device).t())


def _in_black(x, pad):
    """Normalised images [n, 3, H, W] in a black frame of `pad` pixels."""
    n, channels, height, width = x.shape
    framed = standardise_(x.new_zeros(n, channels, height + 2 * pad, width + 2 * pad))
    framed[:, :, pad : pad + height, pad : pad + width] = x
    return framed


def draw_flips(count, probability, generator):
    """bool [count]: which images are mirrored left to right."""
    return torch.rand(count, generator=generator, dtype=torch.float64) < probability


def apply_flips(x, flips):
    """Mirror the images [n, C, H, W] whose flag in bool [n] is set."""
    return torch.where(to_device(flips, x.device).view(-1, 1, 1, 1), x.flip(3), x)


def draw_roll(jitter, generator):
    """Rows and columns to roll by: integers uniform on 0...jitter, inclusive (released code)."""
    rows, columns = torch.randint(0, jitter + 1, (2,), generator=generator).tolist()
    return rows, columns


def draw_lambda(alpha, generator):
    """lambda ~ Beta(alpha, alpha) as a Python float that float32 holds exactly."""
    seed = int(torch.randint(0, 2**62, (1,), generator=generator))
    return float(np.float32(np.random.Generator(np.random.PCG64(seed)).beta(alpha, alpha)))


def draw_cutmix_box(lam, height, width, generator):
    """CutMix box (x1, y1, x2, y2): half-open rows [x1, x2) and columns [y1, y2), clipped.

    Sides are floor(H sqrt(1 - lam)) and floor(W sqrt(1 - lam)), made even by halving; a box may be
    empty. The first pair runs along rows, the field's convention in FKD label files.
    """
    row = int(torch.randint(0, height, (1,), generator=generator))
    column = int(torch.randint(0, width, (1,), generator=generator))
    return cutmix_box(lam, height, width, row, column)


def cutmix_box(lam, height, width, row, column):
    """The box of draw_cutmix_box for a given centre."""
    cut = math.sqrt(1 - lam)
    half_rows, half_columns = int(height * cut) // 2, int(width * cut) // 2
    return (max(row - half_rows, 0), max(column - half_columns, 0),
            min(row + half_rows, height), min(column + half_columns, width))


def apply_cutmix(x, partner, box):
    """Images [n, C, H, W] keep their pixels outside the box and take their partner's inside.

    partner: int64 [n], index into the batch. box: of draw_cutmix_box.
    """
    x1, y1, x2, y2 = box
    mixed = x.clone()
    mixed[:, :, x1:x2, y1:y2] = x[to_device(partner, x.device), :, x1:x2, y1:y2]
    return mixed


def outside_box(box, height, width):
    """The part of an image outside a CutMix box: lambda, corrected to the area of a clipped box."""
    x1, y1, x2, y2 = box
    return 1 - (x2 - x1) * (y2 - y1) / (height * width)


def apply_mixup(x, partner, lam):
    """lam * x + (1 - lam) * x[partner]."""
    return lam * x + (1 - lam) * x[to_device(partner, x.device)]


def roll(x, rows, columns):
    """Roll images [n, C, H, W] downwards and to the right, around the edges."""
    return torch.roll(x, (rows, columns), (2, 3))
