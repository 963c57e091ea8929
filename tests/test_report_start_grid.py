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
    """The path of a real image of 32 px in a class folder."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    (tmp_path / "cat").mkdir()
    Image.fromarray(pixels).save(tmp_path / "cat/square.png")
    return tmp_path / "cat/square.png"


def start(run, origin, train_dir=None, dataset="imagefolder", start_images=None):
    """The start image of a run with one image, whose record says `origin`."""
    write_json(run / "images.json", {"options": {"dataset": dataset},
                                     "identity": {"start_images": start_images}})
    write_json(run / "units/slice00000_chunk000.json",
               {"files": {IMAGE: "hash"}, "start": {IMAGE: origin}})
    assert start_origins(run) == {IMAGE: origin}
    return StartImages(run, 32, train_dir).image(IMAGE)


def test_a_number_in_a_dataset(tmp_path):
    image = start(tmp_path / "run", "digits train image 17", dataset="digits")
    assert torch.equal(image, open_real("digits", "train").image(17))


def test_a_real_file_is_cropped(tmp_path, square):
    expected = images.centre_crop(Image.open(square), 32)
    assert torch.equal(start(tmp_path / "run", "cat/square.png", tmp_path), expected)
    assert start(tmp_path / "run", "cat/square.png") is None
    assert start(tmp_path / "run", "cat/square.png", tmp_path / "elsewhere") is None
    # Records of before have whole paths.
    assert torch.equal(start(tmp_path / "run", str(square)), expected)


def test_an_image_of_start_dir_is_taken_as_it_is(tmp_path, square):
    expected = images.to_tensor(Image.open(square))
    image = start(tmp_path / "run", "cat/square.png", tmp_path, start_images="hash")
    assert torch.equal(image, expected)


@pytest.mark.parametrize("origin", ["noise", "mosaic of 4 crops", "/gone.png", "cat/gone.png"])
def test_what_cannot_be_found_again(tmp_path, origin):
    assert start(tmp_path / "run", origin, tmp_path) is None
    assert StartImages(tmp_path, 32).image(IMAGE) is None  # a folder of another tool
