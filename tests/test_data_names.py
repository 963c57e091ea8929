import pytest

from data.names import (
    class_words,
    counts_up,
    crop_rule,
    digits,
    image_name,
    is_numbered,
    numbered,
    numbers_advice,
)


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


def test_names_of_distilled_images_sort_as_their_numbers():
    assert [digits(count) for count in (1, 1000, 1001, 10_000, 10_001)] == [3, 3, 4, 4, 5]
    assert image_name(0, 7) == "new000/class000_id007"
    assert image_name(12, 1000, 4, 5) == "new0012/class0012_id01000"


def test_our_class_folders_are_three_digits_wide_or_more():
    assert numbered(2) == ["new000", "new001"]
    assert numbered(1001)[::1000] == ["new0000", "new1000"]
    assert is_numbered(numbered(12))
    for names in (["new000", "new002"], ["new0", "new1"], ["000", "001"]):
        assert not is_numbered(names)


@pytest.mark.parametrize(("names", "clear"), [
    (["new000", "new001"], True), (["00000", "00001", "00002"], True), (["class0", "class1"], True),
    (["class_01", "class_02"], True), (list("0123456789"), True),
    (sorted(map(str, range(12))), False), (["class0", "class1", "class10"], False),
    (["new000", "new002"], False), (["2", "3"], False)])
def test_numbered_folders_must_sort_in_their_order(names, clear):
    assert counts_up(names) == clear
    assert numbers_advice(names).startswith(" The order of the numbered folders") == (not clear)


@pytest.mark.parametrize("names", [["cat", "dog"], ["class0", "new1"], ["n01440764", "n01443537"]])
def test_names_are_no_numbers(names):
    assert not counts_up(names)
    assert numbers_advice(names) == ""
