import numpy as np
import pytest
import torch
from PIL import Image

from data import images
from data.opening import open_real
from report.start_grid import StartImages, start_origins
from utils.files import write_json

IMAGE = "images/new000/class000_id000.png"


@pytest.fixture
def square(tmp_path):
    """The path of a real image of 32 px in a class folder."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    (tmp_path / "cat").mkdir()
    Image.fromarray(pixels).save(tmp_path / "cat/square.png")
    return tmp_path / "cat/square.png"


def start(run, origin, train_dir=None, size=32, **options):
    """The start image of a run with one image, whose record says `origin`."""
    write_json(run / "images.json", {"options": {"dataset": "imagefolder", **options}})
    write_json(run / "units/slice00000_chunk000.json",
               {"files": {IMAGE: "hash"}, "start": {IMAGE: origin}})
    assert start_origins(run) == {IMAGE: origin}
    return StartImages(run, size, train_dir).image(IMAGE)


def test_a_number_in_a_dataset(tmp_path):
    image = start(tmp_path / "run", "digits train image 17", dataset="digits")
    assert torch.equal(image, open_real("digits", "train").image(17))


@pytest.mark.parametrize(("crop", "how"), [
    ({"crop": "validation"}, images.centre_crop), ({"crop": "square"}, images.square_crop),
    ({}, images.square_crop)])
def test_a_file_of_another_size_is_cropped_as_recover_did(tmp_path, square, crop, how):
    expected = how(Image.open(square), 24)
    assert torch.equal(start(tmp_path / "run", "cat/square.png", tmp_path, 24, **crop), expected)


def test_a_file_is_found_below_train_dir_alone(tmp_path, square):
    assert start(tmp_path / "run", "cat/square.png") is None
    assert start(tmp_path / "run", "cat/square.png", tmp_path / "elsewhere") is None
    assert start(tmp_path / "run", str(square)) is not None  # as records of before say it


def test_a_file_of_the_right_size_is_taken_as_it_is(tmp_path, square):
    expected = images.to_tensor(Image.open(square))
    image = start(tmp_path / "run", "cat/square.png", tmp_path, crop="validation")
    assert torch.equal(image, expected)


@pytest.mark.parametrize("origin", ["noise", "mosaic of 4 crops", "/gone.png", "cat/gone.png"])
def test_what_cannot_be_found_again(tmp_path, origin):
    assert start(tmp_path / "run", origin, tmp_path) is None
    assert StartImages(tmp_path, 32).image(IMAGE) is None  # a folder of another tool
