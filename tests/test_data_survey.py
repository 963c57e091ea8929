import tiny
from PIL import Image

from data.survey import survey


def test_photographs_of_mixed_sizes(tmp_path):
    tiny.image_folder(tmp_path, ("a", "b"), 2, size=(80, 64))
    tiny.image_folder(tmp_path, ("c",), 3, size=(300, 200))
    found = survey(tmp_path)
    assert (found.classes, found.counts, found.images) == (("a", "b", "c"), (2, 2, 3), 7)
    assert found.sides == (64, 64, 200)
    assert found.side == 64
    assert not found.alike
    assert not found.grey
    assert found.decode_seconds > 0


def test_grey_squares_are_told_from_coloured_ones(tmp_path):
    for number in range(3):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.new("L", (28, 28), 40 * number).save(tmp_path / f"a/{number}.png")
    assert survey(tmp_path).alike
    assert survey(tmp_path).grey
    Image.new("RGB", (28, 28), (9, 9, 10)).save(tmp_path / "a/3.png")
    assert survey(tmp_path).alike
    assert not survey(tmp_path).grey


def test_one_shape_that_is_no_square_is_not_alike(tmp_path):
    tiny.image_folder(tmp_path, ("a",), 2, size=(80, 64))
    assert not survey(tmp_path).alike
