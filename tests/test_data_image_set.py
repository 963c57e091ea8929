
import pytest
import tiny
import torch
from PIL import Image

from data import images
from data.image_set import Arrays, Files, ImageSet
from data.names import CROPS
from data.opening import open_distilled, open_real
from utils.errors import UserError

CLASSES = ("cat", "dog", "owl")


@pytest.fixture
def folder(tmp_path):
    """A folder of 9 images of 24 px in three classes."""
    return tiny.image_folder(tmp_path / "images", CLASSES, 3, size=(24, 24))


# One class for real and distilled images

def test_real_and_distilled_images_have_the_same_members(folder):
    real = open_real("imagefolder", "train", folder, 24)
    distilled = open_distilled(folder)
    assert (real.dataset, real.classes, real.flips) == ("imagefolder", list(CLASSES), True)
    for name in ("dataset", "classes", "image_size", "flips", "folder", "paths", "names",
                 "known_classes", "identity"):
        assert getattr(real, name) == getattr(distilled, name), name
    assert len(real) == len(distilled) == 9
    assert torch.equal(real.labels, distilled.labels)
    assert real.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [own.tolist() for own in distilled.by_class] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert real.contents_hash() == distilled.contents_hash()
    assert real.origin(4) == distilled.origin(4) == "dog/img_001.JPEG"
    assert real.names[4] == "dog/img_001.JPEG"


@pytest.mark.parametrize(("crop", "size", "how"), [
    ("auto", 16, images.square_crop), ("auto", 63, images.square_crop),
    ("auto", 64, images.centre_crop), ("validation", 16, images.centre_crop),
    ("square", 64, images.square_crop)])
def test_files_of_another_size_are_cropped(folder, crop, size, how):
    """Real images, and distilled ones that are given another size, alike."""
    real = open_real("imagefolder", "test", folder, size, crop=crop)
    distilled = open_distilled(folder, image_size=size, crop=crop)
    assert real.crop == distilled.crop == how.__name__.replace("centre", "validation").split("_")[0]
    assert torch.equal(real.image(3), how(real.picture(3), size))
    assert torch.equal(distilled.image(3), real.image(3))


@pytest.mark.parametrize("crop", CROPS)
def test_files_of_the_right_size_are_taken_as_they_are(folder, crop):
    real = open_real("imagefolder", "test", folder, 24, crop=crop)
    assert torch.equal(real.image(3), images.to_tensor(real.picture(3)))
    distilled = open_distilled(folder, image_size=24, crop=crop)
    assert torch.equal(distilled.image(3), real.image(3))


def test_distilled_images_of_their_own_size_are_not_cropped(folder):
    distilled = open_distilled(folder)
    assert distilled.crop is None
    assert distilled.image_size == 24
    assert torch.equal(distilled.image(3), images.to_tensor(Image.open(distilled.paths[3])))


def test_images_in_memory_are_resized_alone():
    digits = open_real("digits", "train", image_size=12)
    expected = digits.picture(5).resize((12, 12), Image.Resampling.BILINEAR)
    assert torch.equal(digits.image(5), images.to_tensor(expected))
    whole = open_real("digits", "train", image_size=8)
    assert torch.equal(whole.image(5), images.to_tensor(Image.fromarray(whole.source.arrays[5])))
    assert digits.origin(5) == "digits train image 5"
    assert open_real("digits", "train", crop="validation").crop is None


def test_many_pixels_do_not_depend_on_threads(folder):
    alone, threaded = (open_real("imagefolder", "train", folder, 16, workers=n) for n in (0, 3))
    pixels = alone.pixels([4, 0, 2])
    assert (pixels.shape, pixels.dtype) == ((3, 3, 16, 16), torch.uint8)
    assert torch.equal(pixels[0], alone.image(4))
    assert torch.equal(threaded.pixels([4, 0, 2]), pixels)
    assert torch.equal(threaded.all_pixels[torch.tensor([4, 0, 2])], pixels)
    cache = threaded.cache_on(torch.device("cpu"))
    assert torch.equal(cache[torch.tensor([4, 0, 2])], pixels)


def test_more_than_half_of_the_memory_is_mapped_from_a_file(folder, monkeypatch):
    plain = open_distilled(folder).all_pixels
    monkeypatch.setattr("data.image_set.os.sysconf", lambda _: 8)  # 64 bytes of memory
    assert torch.equal(open_distilled(folder).all_pixels, plain)
    assert [path.name for path in folder.parent.iterdir()] == ["images"]  # the file has no name
    monkeypatch.setattr("data.image_set.free_bytes", lambda _: 10)
    with pytest.raises(UserError, match="more than half of the memory, and the disk has 0 GB free"):
        _ = open_distilled(folder).all_pixels


# Knowing images again

def renamed(folder):
    (folder / "dog/img_001.JPEG").rename(folder / "dog/img_007.JPEG")


def moved(folder):
    (folder / "dog/img_001.JPEG").rename(folder / "owl/img_007.JPEG")


def added(folder):
    Image.new("RGB", (24, 24)).save(folder / "dog/extra.png")


def removed(folder):
    (folder / "dog/img_001.JPEG").unlink()


def changed(folder):
    file = folder / "dog/img_001.JPEG"
    file.write_bytes(file.read_bytes() + b"\0")


@pytest.mark.parametrize("change", [renamed, moved, added, removed, changed])
def test_identity_notices_one_image(folder, change):
    before = open_distilled(folder)
    assert before.identity["count"] == 9
    contents = before.contents_hash()
    change(folder)
    after = open_distilled(folder)
    assert after.identity["files"] != before.identity["files"]
    assert after.contents_hash() != contents


def test_contents_of_a_large_set_are_sampled_evenly(folder, monkeypatch):
    """Of nine files three are read; one more, one less or another name is noticed all the same."""
    monkeypatch.setattr("data.image_set._HASHED", 3)
    monkeypatch.setattr("data.image_set._BLOCK", 2)
    read, sha256 = [], Files.sha256
    monkeypatch.setattr(Files, "sha256", lambda self, i: read.append(i) or sha256(self, i))
    before = open_distilled(folder)
    assert before.contents_hash() == before.contents_hash()
    assert sorted(read) == [0, 3, 6]
    changed(folder)  # number 4, which is not read
    assert open_distilled(folder).contents_hash() == before.contents_hash()
    renamed(folder)
    assert open_distilled(folder).contents_hash() != before.contents_hash()


def test_contents_hash_counts_classes_and_their_order(folder):
    orders = [open_real("imagefolder", "train", folder, 24, classes=order).contents_hash()
              for order in (None, CLASSES, CLASSES[::-1])]
    assert orders[0] == orders[1] != orders[2]


def test_identity_of_images_in_memory():
    train, test = (open_real("digits", split) for split in ("train", "test"))
    assert train.identity == open_real("digits", "train").identity
    assert train.identity["files"] != test.identity["files"]
    assert train.contents_hash() != test.contents_hash()
    last = train.source.arrays.copy()
    last[-1, 0, 0] ^= 1
    other = ImageSet("digits", train.classes, train.labels, 32, Arrays(last, "digits train"))
    assert other.contents_hash() != train.contents_hash()


def test_unequal_and_oblong_images(folder, tmp_path):
    Image.new("RGB", (20, 20)).save(folder / "cat/z.png")
    with pytest.raises(UserError, match="z.png: 20x20 pixels, the others have 24x24"):
        _ = open_distilled(folder).all_pixels
    oblong = tiny.image_folder(tmp_path / "oblong", ("x",), 1, size=(24, 20))
    with pytest.raises(UserError, match="24x20 pixels, expected a square image"):
        open_distilled(oblong)


def test_a_strip_that_cannot_be_resized_is_named(folder):
    Image.new("L", (60_000, 1)).save(folder / "cat/z.png")
    assert (folder / "cat/z.png").stat().st_size < 1000
    with pytest.raises(UserError, match="cat/z.png: 60000x1 pixels would be resized to 256 by "
                       "15360000, more than 178956970 in all. Cut off the ends"):
        open_real("imagefolder", "train", folder, 224).image(3)


def test_other_order_of_the_same_classes(folder):
    distilled = open_distilled(folder)
    _ = distilled.by_class, distilled.identity
    other = distilled.ordered_as(["owl", "cat", "dog"])
    assert other.labels.tolist() == [1, 1, 1, 2, 2, 2, 0, 0, 0]
    assert other.by_class[0].tolist() == [6, 7, 8]
    assert other.identity["classes"] == ["owl", "cat", "dog"]
    assert torch.equal(other.image(2), distilled.image(2))
    with pytest.raises(UserError, match="has 3 classes .*, the training images have 2"):
        distilled.ordered_as(["owl", "cat"])
