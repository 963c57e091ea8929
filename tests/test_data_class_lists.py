"""Lists of classes, checked against ImageNet's own order of labels."""

import pytest
from timm.data import ImageNetInfo

from data.class_lists import class_list, class_names, known_lists
from utils.errors import UserError

# Label of ImageNet-1K of every class, in the order of the list.
LABELS = {
    "imagenette": [0, 217, 482, 491, 497, 566, 569, 571, 574, 701],
    "imagewoof": [193, 182, 258, 162, 155, 167, 159, 273, 207, 229],
    "imageidc": [452, 64, 374, 236, 993, 176, 882, 904, 503, 74],
}


@pytest.mark.parametrize("name", LABELS)
def test_a_list_has_the_papers_classes_in_their_order(name):
    assert name in known_lists()
    wnids = ImageNetInfo("imagenet-1k").label_names()
    assert class_list(name) == tuple(wnids[label] for label in LABELS[name])


def test_a_file_of_ones_own(tmp_path):
    (tmp_path / "mine.txt").write_text("shoes  what is worn\n\nbags\n")
    assert class_list(str(tmp_path / "mine.txt")) == ("shoes", "bags")


def test_names_with_commas_between_them():
    assert class_list("shoes,bags, hats") == ("shoes", "bags", "hats")
    assert class_list("red shoes, bags,") == class_names("red shoes,bags") == ("red shoes", "bags")
    with pytest.raises(UserError, match="a,b,a: found a twice, expected every class folder once"):
        class_list("a,b,a")


@pytest.mark.parametrize(("content", "words"), [(None, "cannot be read"), ("", "no line"),
                                                ("a\nb\na\n", "a twice")])
def test_a_list_that_is_none_is_refused(tmp_path, content, words):
    file = tmp_path / "mine.txt"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=words):
        class_list(str(file))


def test_lines_of_names_are_whole_unless_they_begin_with_wnids(tmp_path):
    (tmp_path / "mine.txt").write_text("great white shark\n\n tench \n")
    assert class_names(str(tmp_path / "mine.txt")) == ("great white shark", "tench")
    (tmp_path / "wnids.txt").write_text("n01484850 great white shark\nn01440764 tench\n")
    assert class_names(str(tmp_path / "wnids.txt")) == ("n01484850", "n01440764")
    assert class_names("imagenette") == class_list("imagenette")
