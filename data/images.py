"""Pixels: decoding files, the validation crop, ImageNet's mean and std, saving, preview grids."""

import functools
import io
import struct
import zlib

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError

from utils.errors import UserError
from utils.files import write_bytes

MEAN = (0.485, 0.456, 0.406)  # ImageNet's; pixels are kept in it in all stages, whatever the dataset
STD = (0.229, 0.224, 0.225)
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def decode(path):
    """Decode an image file to a PIL image in RGB: grey, palette, CMYK and 16-bit converted, EXIF rotation applied."""
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):  # 16-bit grey; convert("RGB") would clip it at 255
                image = Image.fromarray((np.asarray(image, dtype=np.int64) >> 8).clip(0, 255).astype(np.uint8))
            return image.convert("RGB")
    except (FileNotFoundError, PermissionError) as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Put it back, or give permission to read it.") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error,
            Image.DecompressionBombError) as error:
        raise UserError(f"{path}: not a readable image ({error}). Remove or replace this file.") from None


def centre_crop(image, size, resize_short_side=None):
    """Resize(short side) and CenterCrop(size), the validation transform, on a PIL image.

    size: side of the square in pixels. resize_short_side: default 256/224 of size; size itself skips the margin.
    Returns uint8 [3, size, size]. Same pixels as torchvision's Resize and CenterCrop on PIL images (bilinear, antialiased).
    """
    short = resize_short_side or round(size * 256 / 224)
    width, height = image.size
    if (width <= height and width != short) or (height <= width and height != short):
        scaled = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
        image = image.resize(scaled, Image.Resampling.BILINEAR)
        width, height = scaled
    left, top = round((width - size) / 2.0), round((height - size) / 2.0)
    return to_tensor(image.crop((left, top, left + size, top + size)))


def to_tensor(image):
    """PIL RGB image -> uint8 [3, H, W]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _constants(like):
    return _constants_on(like.dtype, like.device)


@functools.cache
def _constants_on(dtype, device):  # kept there: a copy in every step would make the host wait for a GPU
    mean, std = (torch.tensor(values, dtype=dtype, device=device).view(3, 1, 1) for values in (MEAN, STD))
    return mean, std


def normalise(pixels, dtype=torch.float32):
    """uint8 [..., 3, H, W] -> (x/255 - mean)/std in `dtype`."""
    x = pixels.to(dtype)
    x = x.div_(torch.full((), 255, dtype=dtype, device=x.device))  # a plain 255 would be a product with 1/255 on a GPU
    mean, std = _constants(x)
    return x.sub_(mean).div_(std)


def valid_range(like):
    """The normalised values of black and white, each [3, 1, 1]: (0 - mean)/std and (1 - mean)/std."""
    mean, std = _constants(like)
    return -mean / std, (1 - mean) / std


def clamp_(x):
    """Clamp normalised images [..., 3, H, W] in place to the valid pixel range (released code: after each step)."""
    low, high = valid_range(x)
    return x.clamp_(low, high)


def to_uint8(x):
    """Normalised [..., 3, H, W] -> uint8: denormalise, clamp to [0, 1], times 255, truncate (released code; not rounded)."""
    mean, std = _constants(x)
    return (x * std + mean).clamp(0, 1).mul(255).to(torch.uint8)


def save(pixels, path):
    """Write uint8 [3, H, W] whole or not at all; the suffix decides: .jpg (Pillow's default quality) or .png."""
    buffer = io.BytesIO()
    image = Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())
    image.save(buffer, "PNG" if path.suffix == ".png" else "JPEG")
    write_bytes(path, buffer.getvalue())


def save_grid(rows, path, row_names, column_names=None, cell=96):
    """A preview picture: one row of images per name.

    rows: list of uint8 tensors [n, 3, H, W] of equal n. row_names: text at the left of each row. column_names: text above
    each column. cell: least side of a cell in pixels; small images are enlarged by a whole factor without smoothing, so
    that their pixels can be seen.
    """
    count, _, height, width = rows[0].shape
    factor = max(1, cell // max(height, width))
    cell_w, cell_h, gap, margin = width * factor, height * factor, 2, 90
    header = 16 if column_names else 0
    canvas = Image.new("RGB", (margin + count * (cell_w + gap), header + len(rows) * (cell_h + gap)), "white")
    draw = ImageDraw.Draw(canvas)
    for c, name in enumerate(column_names or []):
        draw.text((margin + c * (cell_w + gap) + 2, 2), name[: cell_w // 6], fill="black")  # a letter is about 6 pixels wide
    for r, (images, name) in enumerate(zip(rows, row_names, strict=True)):
        top = header + r * (cell_h + gap)
        draw.text((4, top + cell_h // 2 - 6), name, fill="black")
        for c, pixels in enumerate(images):
            tile = Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy()).resize((cell_w, cell_h), Image.Resampling.NEAREST)
            canvas.paste(tile, (margin + c * (cell_w + gap), top))
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())
