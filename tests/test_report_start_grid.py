import numpy as np
import pytest
import torch
from PIL import Image

from data import images
from data.image_set import open_real
from report.start_grid import StartImages, start_origins
from utils.files import write_json

IMAGE = "images/new000/class000_id000.png"


@pytest.fixture
def square(tmp_path):
    """The path of a real image of 32 px."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "square.png")
    return tmp_path / "square.png"


def start(run, origin, size=32, **options):
    """The start image of a run with one image, whose record says `origin`."""
    write_json(run / "images.json", {"options": {"dataset": "imagefolder", **options}})
    write_json(run / "units/slice00000_chunk000.json",
               {"files": {IMAGE: "hash"}, "start": {IMAGE: str(origin)}})
    assert start_origins(run) == {IMAGE: str(origin)}
    return StartImages(run, size).image(IMAGE)


def test_a_number_in_a_dataset(tmp_path):
    image = start(tmp_path / "run", "digits train image 17", dataset="digits")
    assert torch.equal(image, open_real("digits", "train").image(17))


@pytest.mark.parametrize(("crop", "how"), [
    ({"crop": "validation"}, images.centre_crop), ({"crop": "square"}, images.square_crop),
    ({}, images.square_crop)])
def test_a_file_of_another_size_is_cropped_as_recover_did(tmp_path, square, crop, how):
    expected = how(Image.open(square), 24)
    assert torch.equal(start(tmp_path / "run", square, 24, **crop), expected)


def test_a_file_of_the_right_size_is_taken_as_it_is(tmp_path, square):
    expected = images.to_tensor(Image.open(square))
    assert torch.equal(start(tmp_path / "run", square, crop="validation"), expected)


@pytest.mark.parametrize("origin", ["noise", "mosaic of 4 crops", "/gone.png"])
def test_what_cannot_be_found_again(tmp_path, origin):
    assert start(tmp_path / "run", origin) is None
    assert StartImages(tmp_path, 32).image(IMAGE) is None  # a folder of another tool
