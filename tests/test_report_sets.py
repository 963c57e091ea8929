import types
from pathlib import Path

import pytest
import tiny
import torch

from data.images import normalise
from report import sets
from utils.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """A run folder, a folder of class folders, and sets that do not belong to them."""
    tiny.image_folder(tmp_path / "train", tiny.WNIDS, 3)
    tiny.distilled_folder(tmp_path / "run", tmp_path / "train", tiny.WNIDS, 3, 32)
    tiny.image_folder(tmp_path / "plain", tiny.WNIDS, 2, (32, 32))
    tiny.image_folder(tmp_path / "numbered", ("new000", "new001", "new002"), 2, (32, 32))
    tiny.image_folder(tmp_path / "two", tiny.WNIDS[:2], 2, (32, 32))
    tiny.image_folder(tmp_path / "other", ("a", "b", "c"), 2, (32, 32))
    tiny.image_folder(tmp_path / "gaps", ("class1", "class3", "class4"), 2, (32, 32))
    tiny.image_folder(tmp_path / "large", tiny.WNIDS, 2, (48, 48))
    return tmp_path


def open_sets(folder, *names):
    return sets.open_sets({name: folder / name for name in names}, workers=1)


def test_runs_and_folders_of_class_folders(folder):
    opened = open_sets(folder, "numbered", "run", "plain")
    assert [len(images) for images in opened.values()] == [6, 9, 6]
    assert sets.class_names(opened) == list(tiny.WNIDS)
    assert sets.class_names(open_sets(folder, "numbered")) == ["new000", "new001", "new002"]


@pytest.mark.parametrize(("name", "message"), [
    ("nothing", "nothing: no such folder. It was given as the set nothing"),
    ("two", "two has 2 classes .*, run has 3"),
    ("other", "other has 3 classes .a, .*, run has 3 .n01440764.*under other names, give the fold"),
    ("gaps", "Only sets of .* compared. The order of the numbered folders class1, class3, class4"),
    ("large", "large has images of 48 px, run of 32 px"),
])
def test_sets_that_do_not_belong_together(folder, name, message):
    with pytest.raises(UserError, match=message):
        open_sets(folder, "run", name)


@pytest.mark.parametrize("name", ["new00{}", "0000{}", "class{}", "{}"])
def test_folders_of_other_tools_that_are_numbered(folder, name, capsys):
    tiny.image_folder(folder / "theirs", [name.format(c) for c in range(3)], 2, (32, 32))
    opened = open_sets(folder, "theirs", "run", "numbered")
    assert sets.class_names(opened) == list(tiny.WNIDS)
    assert opened["theirs"].labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert (f"theirs: the class folders are only numbered, {name.format(0)} is taken to be "
            "n01440764 and") in capsys.readouterr().out


def test_sets_that_name_the_classes_follow_the_order_of_the_first(folder):
    other = tiny.WNIDS[::-1]
    tiny.distilled_folder(folder / "turned", folder / "train", other, 1, 32)
    opened = open_sets(folder, "turned", "plain", "run")
    assert [images.classes for images in opened.values()] == [list(other)] * 3
    assert opened["plain"].labels.tolist() == [2, 2, 1, 1, 0, 0]
    with pytest.raises(UserError, match="the classes are n01484850, .*: which is which cannot be"):
        open_sets(folder, "turned", "numbered")
    with pytest.raises(UserError, match="other has 3 classes .a, ...., plain has 3"):
        open_sets(folder, "numbered", "plain", "other")


def test_ten_classes_by_default():
    assert sets.choose_classes(None, [str(c) for c in range(12)], 20) == list(range(10))
    assert sets.choose_classes(["b", "a"], ["a", "b", "c"], 2) == [1, 0]
    with pytest.raises(UserError, match="found 3 names, expected at most 2"):
        sets.choose_classes(["a", "b", "c"], ["a", "b", "c"], 2)
    with pytest.raises(UserError, match="--classes n9: no such class. The classes are a, b."):
        sets.choose_classes(["n9"], ["a", "b"], 2)


def test_numbers_come_from_file_names_where_they_have_them():
    paths = ["a/class000_id007.png", "a/class000_id009.png", "b/x.png", "b/y.png",
             "c/x_id1.png", "c/y_id1.png", "c/z_id2.png"]
    images = types.SimpleNamespace(paths=[Path(path) for path in paths],
                                   labels=torch.tensor([0, 0, 1, 1, 2, 2, 2]))
    assert sets.of_class(images, 0) == {7: 0, 9: 1}
    assert sets.of_class(images, 1) == {0: 2, 1: 3}
    assert sets.of_class(images, 2) == {0: 4, 1: 5, 2: 6}  # no image is lost to a repeated number


def test_features_do_not_depend_on_batches(folder, monkeypatch):
    images = open_sets(folder, "run")["run"]
    network = types.SimpleNamespace(features=lambda x: x.flatten(1))
    expected = normalise(images.pixels([8, 0, 3, 4, 5])).flatten(1)
    for batch in (2, 250):
        monkeypatch.setattr(sets, "BATCH", batch)
        features = sets.features(images, [8, 0, 3, 4, 5], network, torch.device("cpu"))
        assert torch.equal(features, expected)
