"""Pixels: decoding files, the validation crop, ImageNet's mean and std, saving, preview grids."""

import functools
import io
import struct
import zlib

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
from torchvision.transforms.v2 import functional as transforms
from torchvision.utils import make_grid

from utils.errors import UserError
from utils.files import write_bytes

MEAN = (0.485, 0.456, 0.406)  # ImageNet's; all stages keep pixels in it, whatever the dataset
STD = (0.229, 0.224, 0.225)
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp",
            ".gif")
LARGEST_SIDE = 65_535  # in pixels: JPEG's own limit
MOST_PIXELS = 2 * 89_478_485  # from where on Pillow refuses to decode, 178 million

# Whatever a file is called, no other decoder is tried: Pillow's for EPS starts Ghostscript.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
_UNREADABLE = (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, struct.error,
               zlib.error, Image.DecompressionBombError)


def decode(path):
    """Decode an image file to a PIL image in RGB.

    Grey, palette, CMYK and 16-bit images are converted, and an EXIF rotation is applied. Raises
    UserError for a file that is missing or no image, for one that is too large, and for numbers
    whose white is not known.
    """
    try:
        with Image.open(path, formats=_FORMATS) as image:
            _check_header(path, image)
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):  # 16-bit grey; convert("RGB") would clip it at 255
                grey = np.asarray(image, dtype=np.int64) >> 8
                image = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
            return image.convert("RGB")
    except (FileNotFoundError, PermissionError) as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). "
                        "Put it back, or give permission to read it.") from None
    except _UNREADABLE as error:
        raise UserError(f"{path}: not a readable image ({error}). "
                        "Remove or replace this file.") from None


def _check_header(path, image):
    """Raise UserError for what cannot be decoded to 8 bits. image: opened, not decoded."""
    width, height = image.size
    if max(image.size) > LARGEST_SIDE or width * height > MOST_PIXELS:
        raise UserError(f"{path}: {width}x{height} pixels, expected at most {LARGEST_SIDE} along a "
                        f"side and {MOST_PIXELS} in all. Make it smaller or remove it.")
    # Grey PNG and PGM files of 16 bits may have mode I as well; in a TIFF it means 32 bits.
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        kind = "floating-point" if image.mode == "F" else "32-bit or signed"
        raise UserError(f"{path}: found {kind} pixels, which do not say what white is; expected 8 "
                        "or 16 bits. Convert it or remove it.")


def sized(image, size, crop):
    """A PIL image as uint8 [3, size, size]: as it is where it has this size, else cropped.

    crop: validation (centre_crop) or square (square_crop).
    """
    if image.size == (size, size):
        return to_tensor(image)
    return square_crop(image, size) if crop == "square" else centre_crop(image, size)


def centre_crop(image, size):
    """The validation transform on a PIL image: uint8 [3, size, size].

    The short side is resized to 256/224 of size, bilinear and antialiased, then the centre is cut.
    """
    return square_crop(image, size, short_side=round(size * 256 / 224))


def square_crop(image, size, short_side=None):
    """The centre of a PIL image after its short side was resized: uint8 [3, size, size].

    short_side: in pixels (default: size, so that the crop keeps the whole short side). Bilinear and
    antialiased. Raises ValueError where the long side would become so long that the image had
    more than MOST_PIXELS.
    """
    short_side, (short, long) = short_side or size, sorted(image.size)
    if short_side * (short_side * long // short) > MOST_PIXELS:
        raise ValueError(f"{image.width}x{image.height} pixels would be resized to {short_side} by "
                         f"{short_side * long // short}, more than {MOST_PIXELS} in all")
    image = transforms.resize(image, [short_side])
    return to_tensor(transforms.center_crop(image, [size, size]))


def to_tensor(image):
    """PIL RGB image -> uint8 [3, H, W]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


@functools.cache
def _constants(dtype, device):
    """mean and std, [3, 1, 1]. Cached: a copy in every step would make the host wait for a GPU."""
    return tuple(torch.tensor(values, dtype=dtype, device=device).view(3, 1, 1)
                 for values in (MEAN, STD))


def normalise(pixels, dtype=torch.float32):
    """uint8 [..., 3, H, W] -> (x/255 - mean)/std in `dtype`."""
    return standardise_(to_unit(pixels, dtype))


def to_unit(pixels, dtype=torch.float32):
    """uint8 -> x/255 in `dtype`, from 0 to 1."""
    x = pixels.to(dtype)
    # A plain 255 would be a product with 1/255 on a GPU, which rounds otherwise.
    return x.div_(torch.full((), 255, dtype=dtype, device=x.device))


def standardise_(x):
    """(x - mean)/std of images [..., 3, H, W] from 0 to 1, in place."""
    mean, std = _constants(x.dtype, x.device)
    return x.sub_(mean).div_(std)


def clamp_(x):
    """Clamp normalised images [..., 3, H, W] in place to the range from black to white.

    The released code does so after each step; the range is (0 - mean)/std to (1 - mean)/std.
    """
    mean, std = _constants(x.dtype, x.device)
    return x.clamp_(-mean / std, (1 - mean) / std)


def to_uint8(x):
    """Normalised [..., 3, H, W] -> uint8, times 255 and truncated, not rounded (released code)."""
    mean, std = _constants(x.dtype, x.device)
    return (x * std + mean).clamp(0, 1).mul(255).to(torch.uint8)


def to_pil(pixels):
    """uint8 [3, H, W] -> PIL image."""
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())


def save(pixels, path):
    """Write uint8 [3, H, W] whole or not at all, as PNG or JPEG (Pillow's defaults) by suffix."""
    _write(to_pil(pixels), path, "PNG" if path.suffix == ".png" else "JPEG")


def _write(image, path, kind):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    write_bytes(path, buffer.getvalue())


def save_grid(rows, path, row_names, column_names=None, cell=96, font=10):
    """Write draw_grid's picture as PNG."""
    _write(draw_grid(rows, row_names, column_names, cell, font), path, "PNG")


def draw_grid(rows, row_names, column_names=None, cell=96, font=10, corner=""):
    """A picture with one row of images per name, as a PIL image.

    rows: list of uint8 tensors [n, 3, H, W] of equal n. row_names: text to the left of each row.
    column_names: text above each column. corner: text beside these. Text is cut where it does not
    fit. cell: least side of a cell in pixels. Small images are enlarged by a whole factor without
    smoothing, so that their pixels can be seen. font: height of the text in pixels.
    """
    columns, _, height, width = rows[0].shape
    factor = max(1, cell // max(height, width))
    gap, margin, header = 2, 9 * font, font + 6 if column_names else 0
    cell_width, cell_height = width * factor + gap, height * factor + gap

    tiles = torch.cat(rows).repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    grid = to_pil(make_grid(tiles, nrow=columns, padding=gap, pad_value=255))
    canvas = Image.new("RGB", (margin + grid.width, header + grid.height), "white")
    canvas.paste(grid, (margin, header))

    draw = ImageDraw.Draw(canvas)
    draw.font = ImageFont.load_default(font)
    draw.text((4, 2), fitting(corner, margin - 4, draw), fill="black")
    for c, name in enumerate(column_names or []):
        text = fitting(name, cell_width - gap, draw)
        draw.text((margin + c * cell_width + gap, 2), text, fill="black")
    for r, name in enumerate(row_names):
        text = fitting(name, margin - 4, draw)
        place = header + r * cell_height + cell_height // 2 - font // 2 - 1
        draw.text((4, place), text, fill="black")
    return canvas


def fitting(text, width, draw):
    """As much of a text as fits into a width in pixels. draw: PIL's ImageDraw."""
    return next(text[:n] for n in range(len(text), -1, -1) if draw.textlength(text[:n]) <= width)
