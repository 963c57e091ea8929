import pytest

from data.names import class_words, crop_rule


def test_wnids_are_called_by_their_first_english_name():
    assert [class_words(name) for name in ("n01440764", "n01484850")] == [
        "tench", "great white shark"]
    assert class_words("n00004475") == "organism"  # of ImageNet-21k alone
    assert [class_words(name) for name in ("cat", "7", "n99999999", "new000")] == [
        "cat", "7", "n99999999", "new000"]


@pytest.mark.parametrize(("crop", "size", "expected"), [
    ("auto", 63, "square"), ("auto", 64, "validation"), ("validation", 32, "validation"),
    ("square", 224, "square")])
def test_small_images_keep_their_whole_short_side(crop, size, expected):
    assert crop_rule(crop, size) == expected
    assert crop_rule(expected, size) == expected
    assert crop_rule(crop, size, "cifar10") is crop_rule(crop, size, "fashion_mnist") is None
