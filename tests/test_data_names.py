import pytest

from data.names import crop_rule


@pytest.mark.parametrize(("crop", "size", "expected"), [
    ("auto", 63, "square"), ("auto", 64, "validation"), ("validation", 32, "validation"),
    ("square", 224, "square")])
def test_small_images_keep_their_whole_short_side(crop, size, expected):
    assert crop_rule(crop, size) == expected
    assert crop_rule(expected, size) == expected
    assert crop_rule(crop, size, "cifar10") is None
