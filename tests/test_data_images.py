import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from data import images
from utils.errors import UserError


def ramp(width=40, height=30):
    values = np.zeros((height, width, 3), np.uint8)
    values[..., 0] = np.arange(width) * 6
    values[..., 1] = (np.arange(height) * 8)[:, None]
    return Image.fromarray(values)


def test_grey_palette_cmyk_alpha_and_16_bit_become_rgb(tmp_path):
    for mode, suffix in (("L", "jpg"), ("P", "png"), ("CMYK", "jpg"), ("RGBA", "png"),
                         ("LA", "png")):
        path, image = tmp_path / f"{mode}.{suffix}", ramp().convert(mode)
        image.save(path, **({"quality": 100} if suffix == "jpg" else {}))
        decoded = images.decode(path)
        assert decoded.mode == "RGB"
        difference = np.asarray(decoded).astype(int) - np.asarray(image.convert("RGB"))
        assert np.abs(difference).mean() < 3, mode

    deep = Image.fromarray((np.arange(0, 256, dtype=np.uint16) * 257).reshape(16, 16))
    for name in ("deep.png", "deep.tif", "deep.pgm"):
        deep.save(tmp_path / name)
        decoded = np.asarray(images.decode(tmp_path / name))
        assert np.array_equal(decoded[..., 0].ravel(), np.arange(256)), name


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    ramp().save(tmp_path / "turned.jpg", exif=exif, quality=100)
    turned = images.decode(tmp_path / "turned.jpg")
    assert turned.size == (30, 40)
    red = np.asarray(turned)[..., 0]
    assert red[35, 5] > red[5, 5] + 100  # what rose to the right rises downwards


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0 truncated"])
def test_unreadable_files_are_named(tmp_path, content):
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(UserError, match="x.jpg: not a readable image"):
        images.decode(tmp_path / "x.jpg")


def test_no_other_decoder_is_tried(tmp_path, monkeypatch):
    """PostScript under the name of a JPEG must not start Ghostscript."""
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_: pytest.fail("was started"))
    (tmp_path / "x.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n"
                                     b"%%EndComments\nshowpage\n%%EOF\n")
    assert Image.open(tmp_path / "x.jpg").format == "EPS"
    with pytest.raises(UserError, match="x.jpg: not a readable image"):
        images.decode(tmp_path / "x.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM"])
def test_formats_whatever_the_name(tmp_path, kind):
    pictures = {"save_all": True, "append_images": [ramp()]} if kind == "MPO" else {}
    ramp().save(tmp_path / "x.png", kind, **pictures)
    decoded = np.asarray(images.decode(tmp_path / "x.png")).astype(int)
    assert np.abs(decoded - np.asarray(ramp())).mean() < 6


def png_header(path, width, height):
    """A PNG that says its size and ends before its pixels."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    size = b"IHDR" + struct.pack(">II", width, height) + b"\x08\0\0\0\0"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + size
                     + struct.pack(">I", zlib.crc32(size)) + buffer.getvalue()[33:])


@pytest.mark.parametrize(("size", "sentence"), [
    ((65_536, 1), "65536x1 pixels, expected at most 65535 along a side and 178956970 in all. Make"),
    ((60_000, 60_000), "not a readable image .*3600000000 pixels.* exceeds limit of 178956970")])
def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, size, sentence):
    png_header(tmp_path / "x.png", *size)
    with pytest.raises(UserError, match=f"x.png: {sentence}"):
        images.decode(tmp_path / "x.png")


@pytest.mark.parametrize(("values", "kind"), [
    (np.full((4, 5), 0.5, np.float32), "floating-point"),
    (np.full((4, 5), 1 << 20, np.int32), "32-bit or signed")])
def test_numbers_without_a_white_are_refused(tmp_path, values, kind):
    Image.fromarray(values).save(tmp_path / "x.tif")
    with pytest.raises(UserError, match=f"x.tif: found {kind} pixels, which do not say what white "
                       "is; expected 8 or 16 bits. Convert it or remove it."):
        images.decode(tmp_path / "x.tif")


@pytest.mark.parametrize(("size", "become"), [
    ((1, 60_000), "256 by 15360000"), ((60_000, 15), "256 by 1024000")])
def test_a_strip_whose_long_side_would_explode(size, become):
    sentence = f"{size[0]}x{size[1]} pixels would be resized to {become}, more than 178956970"
    with pytest.raises(ValueError, match=sentence):
        images.centre_crop(Image.new("L", size), 224)
    assert images.square_crop(Image.new("RGB", (600, 1)), 32).shape == (3, 32, 32)


@pytest.mark.parametrize("shape", [(300, 260), (260, 300), (256, 256), (500, 224), (64, 48),
                                   (225, 257), (224, 224)])
def test_centre_crop_equals_torchvision(shape):
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (*shape, 3), dtype=np.uint8))
    expected = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])(image)
    assert torch.equal(images.centre_crop(image, 224), images.to_tensor(expected))


@pytest.mark.parametrize("shape", [(300, 260), (64, 48), (224, 224)])
def test_square_crop_equals_torchvision(shape):
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (*shape, 3), dtype=np.uint8))
    expected = transforms.Compose([transforms.Resize(128), transforms.CenterCrop(128)])(image)
    assert torch.equal(images.square_crop(image, 128), images.to_tensor(expected))


def test_normalise_and_back():
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    x = images.normalise(every, torch.float64)
    assert abs(float(x[0, 1, 0, 5]) - (5 / 255 - 0.456) / 0.224) < 1e-12
    assert torch.equal(images.to_uint8(x + 1e-9), every)


def test_truncation_not_rounding():
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (images.MEAN, images.STD))
    values = torch.tensor([-0.5, 0.0, 0.49999, 0.999, 1.0, 1.2]).view(6, 1, 1, 1)
    pixels = images.to_uint8((values - mean) / std)
    assert pixels[:, 0, 0, 0].tolist() == [0, 0, 127, 254, 255, 255]


def test_clamp_is_black_to_white_per_channel():
    x = torch.tensor([-9.0, 9.0, 0.0]).view(3, 1, 1, 1).expand(3, 3, 1, 1).double().clone()
    images.clamp_(x)
    for c in range(3):
        assert abs(float(x[0, c, 0, 0]) + images.MEAN[c] / images.STD[c]) < 1e-7
        assert abs(float(x[1, c, 0, 0]) - (1 - images.MEAN[c]) / images.STD[c]) < 1e-7
    assert (x[2] == 0).all()


def test_save_jpeg_with_pillows_defaults_and_png_exactly(tmp_path):
    pixels = torch.from_numpy(np.array(ramp())).permute(2, 0, 1)
    for name in ("a.png", "a.jpg"):
        images.save(pixels, tmp_path / name)
    assert torch.equal(images.to_tensor(images.decode(tmp_path / "a.png")), pixels)
    ramp().save(tmp_path / "plain.jpg")
    assert (tmp_path / "a.jpg").read_bytes() == (tmp_path / "plain.jpg").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jpg", "a.png", "plain.jpg"]


def test_grid_places_rows_and_columns(tmp_path):
    red, blue = (torch.tensor(colour, dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 8, 8)
                 for colour in ([255, 0, 0], [0, 0, 255]))
    images.save_grid([red, blue], tmp_path / "g.png", ["start", "result"], ["a", "b"])
    grid = np.asarray(Image.open(tmp_path / "g.png"))
    assert grid.shape == (16 + 2 * 98 + 2, 90 + 2 * 98 + 2, 3)
    assert tuple(grid[60, -10]) == (255, 0, 0)
    assert tuple(grid[-10, -10]) == (0, 0, 255)
    images.save_grid([red[:1]], tmp_path / "one.png", ["start"])
    assert tuple(np.asarray(Image.open(tmp_path / "one.png"))[60, -10]) == (255, 0, 0)


def test_long_names_stay_in_their_cells(tmp_path):
    """Whatever the name of the first column is, the second one looks alike."""
    white = torch.full((2, 3, 96, 96), 255, dtype=torch.uint8)
    seconds = []
    for first in ("a", "a name of more letters than fit above an image"):
        images.save_grid([white], tmp_path / "g.png", ["row"], [first, "b"])
        seconds.append(np.asarray(Image.open(tmp_path / "g.png"))[:16, 90 + 98 :])
    assert (seconds[0] < 128).any()
    assert np.array_equal(*seconds)
