import os
from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image

from data import images
from data.opening import (
    check_order,
    classes_alone,
    note_enlarged,
    open_distilled,
    open_real,
    open_test,
    typical_side,
)
from utils.errors import UserError
from utils.files import write_json

CLASSES = ("cat", "dog", "owl")


@pytest.fixture
def folder(tmp_path):
    """A folder of 9 images of 24 px in three classes."""
    return tiny.image_folder(tmp_path / "images", CLASSES, 3, size=(24, 24))


def test_classes_without_images():
    alone = classes_alone(("dog", "cat"), 32)
    assert (len(alone), alone.classes, alone.image_size) == (0, ["dog", "cat"], 32)
    assert [len(indices) for indices in alone.by_class] == [0, 0]


# Folders of classes

def test_class_order_may_be_given(folder):
    real = open_real("imagefolder", "test", folder, 32, classes=["owl", "cat", "dog"])
    assert real.paths[0].parent.name == "owl"
    assert real.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(("make", "message"), [
    (lambda _: None, "no such folder. Expected one sub-folder of images per class"),
    (lambda root: root.mkdir(), "found 0 images and no sub-folders"),
    (lambda root: (root / "a").mkdir(parents=True),
     "no images in 1 of 1 class folders, the first is a"),
])
def test_wrong_folders(tmp_path, make, message):
    make(tmp_path / "data")
    with pytest.raises(UserError, match=message):
        open_real("imagefolder", "train", tmp_path / "data")


def replaced(make):
    """A change of a folder: its file dog/img_001.JPEG is gone, make(path) puts something there."""
    def change(folder):
        path = folder / "dog/img_001.JPEG"
        path.unlink()
        make(path)
    return change


@pytest.mark.parametrize(("make", "kind"), [
    (os.mkfifo, "no regular file"),
    (lambda path: path.symlink_to("/dev/zero"), "a link that leads to no file"),
    (lambda path: path.symlink_to(path.parent / "nothing"), "a link that leads to no file"),
    (lambda path: path.symlink_to(path), "a link that leads to no file"),
    (Path.mkdir, "a folder")])
@pytest.mark.parametrize("open_set", [
    open_distilled, lambda folder: open_real("imagefolder", "train", folder)])
def test_what_is_no_file_is_named(folder, make, kind, open_set):
    replaced(make)(folder)
    with pytest.raises(UserError, match=f"dog/img_001.JPEG: is {kind}, expected an image. Remove "
                       "or rename it."):
        open_set(folder)


def test_links_to_files_and_folders_are_images(folder, tmp_path):
    plain = open_distilled(folder)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/cat").symlink_to(folder / "cat")
    (tmp_path / "linked/circle").symlink_to("circle")  # no folder, so no class
    (tmp_path / "linked/dog").mkdir()
    (tmp_path / "linked/dog/other.jpg").symlink_to(folder / "dog/img_000.JPEG")
    linked = open_distilled(tmp_path / "linked")
    assert linked.names == [f"cat/img_00{i}.JPEG" for i in range(3)] + ["dog/other.jpg"]
    assert torch.equal(linked.image(3), plain.image(3))


@pytest.mark.parametrize("name", ["do\udcffg/img.jpg", "dog/img\udcff.jpg"])
def test_names_that_are_not_utf8_are_shown_escaped(folder, name):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")
    found = name if name.startswith("dog") else "do\udcffg"
    found = str(folder / found).replace("\udcff", r"\xff")
    with pytest.raises(UserError) as raised:
        open_distilled(folder)
    assert str(raised.value) == f"{found}: the name is not UTF-8. Rename it."


@pytest.mark.parametrize(("split", "there", "meant"), [
    ("train", ("train", "val"), "train"), ("test", ("train", "val"), "val"),
    ("test", ("test", "train", "val"), "test")])
def test_a_folder_above_the_class_folders(tmp_path, split, there, meant):
    for name in there:
        tiny.image_folder(tmp_path / name, CLASSES, 1)
    with pytest.raises(UserError, match=f"no images in .* Did you mean {tmp_path / meant}."):
        open_real("imagefolder", split, tmp_path)
    with pytest.raises(UserError, match=f"Did you mean {tmp_path / 'train'}."):
        open_distilled(tmp_path)


def test_a_run_folder_in_the_place_of_its_images(folder):
    (folder.parent / "units").mkdir()
    with pytest.raises(UserError, match=f"no images in 2 of 2 .* Did you mean {folder}."):
        open_distilled(folder.parent)


def test_no_folder_names_the_option():
    with pytest.raises(UserError, match="a folder of test images is needed: give --val-dir"):
        open_real("imagefolder", "test")


def test_flat_ilsvrc_validation_folder_is_explained(tmp_path):
    (tmp_path / "ILSVRC2012_val_00000001.JPEG").write_bytes(b"x")
    with pytest.raises(UserError, match="1 validation images of ILSVRC2012 lie in one folder"):
        open_real("imagefolder", "test", tmp_path)


def test_other_classes_than_distilled(folder):
    with pytest.raises(UserError, match="has 3 class folders, expected the 3 that were distilled: "
                       "1 missing .the first is eel., 1 not expected .the first is cat"):
        open_real("imagefolder", "test", folder, classes=["dog", "eel", "owl"])


def test_subset_of_wnids_is_found_in_the_whole_folder(tmp_path):
    root = tiny.image_folder(tmp_path, tiny.WNIDS, per_class=2)
    real = open_real("imagefolder", "test", root, 32, classes=[tiny.WNIDS[2], tiny.WNIDS[0]])
    assert [path.parent.name for path in real.paths] == [tiny.WNIDS[2]] * 2 + [tiny.WNIDS[0]] * 2


# Distilled folders

def test_class_names_and_dataset_come_from_images_json(folder):
    manifest = folder.parent / "images.json"
    write_json(manifest, {"options": {"dataset": "digits"}, "identity": {"classes": list("012")}})
    distilled = open_distilled(folder)
    assert (distilled.dataset, distilled.classes) == ("digits", list("012"))
    assert not distilled.flips

    write_json(manifest, {"options": {"dataset": "digits"}, "identity": {"classes": list("01")}})
    with pytest.raises(UserError, match="found 3 class folders, images.json lists 2 classes"):
        open_distilled(folder)
    write_json(manifest, {"options": {}, "identity": {}})
    with pytest.raises(UserError, match="images.json: damaged .it does not say 'classes'"):
        open_distilled(folder)


def test_a_stopped_recover_is_noticed(folder, capsys):
    manifest = {"options": {"dataset": "imagefolder", "allow_short_classes": False},
                "identity": {"classes": list(CLASSES)}}
    write_json(folder.parent / "images.json", manifest)
    open_distilled(folder)
    assert capsys.readouterr().out == ""
    (folder / "dog/img_001.JPEG").unlink()
    open_distilled(folder)
    assert "dog has 2 images, others up to 3. Was recover stopped" in capsys.readouterr().out

    manifest["options"]["allow_short_classes"] = True
    write_json(folder.parent / "images.json", manifest)
    open_distilled(folder)
    assert capsys.readouterr().out == ""


def test_numbered_folders_are_no_class_names(folder):
    for i, name in enumerate(CLASSES):
        (folder / name).rename(folder / f"new00{i}")
    assert open_distilled(folder).known_classes is None
    (folder / "new001").rename(folder / "tench")
    assert open_distilled(folder).known_classes == ["new000", "new002", "tench"]


FOREIGN = ("new00{}", "0000{}", "class{}", "{}")  # folders of other tools


@pytest.mark.parametrize("name", FOREIGN)
def test_numbered_folders_are_in_the_order_of_the_classes(tmp_path, folder, name, capsys):
    theirs = tiny.image_folder(tmp_path / "theirs", [name.format(c) for c in range(3)], 1, (24, 24))
    images = open_distilled(theirs)
    assert images.known_classes is None
    assert open_test(images, folder).classes == sorted(CLASSES)
    assert (f"note: {theirs}: the class folders are only numbered, {name.format(0)} is taken to be "
            f"cat and {name.format(2)} to be owl.") in capsys.readouterr().out

    # Nothing to say where they are called so themselves, or have the numbers as names.
    open_test(images, theirs)
    open_test(images, tiny.image_folder(tmp_path / "real", "012", 1))
    assert capsys.readouterr().out == ""


def test_where_the_order_of_numbers_is_not_clear_there_is_a_sentence(tmp_path, folder):
    names = sorted(map(str, range(11)))
    real = tiny.image_folder(tmp_path / "real", names, 1, (24, 24))
    assert open_test(open_distilled(real), real).classes == names  # names, though they are numbers

    padded = tiny.image_folder(tmp_path / "padded", [f"{c:02d}" for c in range(11)], 1, (24, 24))
    with pytest.raises(UserError, match="padded: the class folders are only numbered .00, 01, 02, "
                       r"...., the classes are 0, 1, 10, ...: which is which cannot be told"):
        open_test(open_distilled(padded), real)
    with pytest.raises(UserError, match="The order of the numbered folders 0, 1, 10, ... is not"):
        open_test(open_distilled(real), padded)

    numbered = open_distilled(tiny.image_folder(tmp_path / "numbered", "012", 1, (24, 24)))
    with pytest.raises(UserError, match="the classes are dog, cat, bird, ...: which is which can"):
        check_order(numbered, classes_alone(("dog", "cat", "bird"), 24))
    check_order(numbered, open_distilled(folder))


def test_numbers_that_images_json_names_are_names(tmp_path):
    folder = tiny.image_folder(tmp_path / "images", "012", 1, (24, 24))
    write_json(tmp_path / "images.json", {"options": {"dataset": "digits"},
                                          "identity": {"classes": list("012")}})
    assert open_distilled(folder).known_classes == list("012")


def test_numbers_that_are_the_names_of_the_classes_keep_their_meaning(tmp_path):
    images = open_distilled(tiny.image_folder(tmp_path / "images", "012", 1, (24, 24)))
    assert images.ordered_as(list("201")).labels.tolist() == [1, 2, 0]
    assert images.ordered_as(["x", "b", "c"]).labels.tolist() == [0, 1, 2]


def test_images_of_any_size_may_be_opened_at_one(folder):
    Image.new("RGB", (24, 20), "red").save(folder / "cat/img_000.png")
    for size in (16, 24):
        opened = open_distilled(folder, image_size=size)
        assert opened.image_size == size
        assert torch.equal(opened.image(0), images.square_crop(opened.picture(0), size))


# Images that are enlarged

def test_the_typical_side_of_stored_pictures(tmp_path):
    for i, side in enumerate((20, 24, 28, 90)):
        tiny.image_folder(tmp_path / "x", [f"c{i}"], 10, size=(side, side + 7))
    assert typical_side(open_real("imagefolder", "train", tmp_path / "x", 224)) == 26
    (tmp_path / "x/c0/img_000.JPEG").write_bytes(b"no image")
    assert typical_side(open_real("imagefolder", "train", tmp_path / "x", 224)) == 28
    assert typical_side(open_real("digits", "train")) == 8


def test_images_that_are_enlarged_are_noted(tmp_path, capsys):
    root = tiny.image_folder(tmp_path / "x", CLASSES, 3, size=(28, 40))
    for dataset, size, note in (
            ("imagefolder", 224, "about 28 px, --image-size is 224: they are enlarged 8 times. "
             "Give --image-size 28 (or 32)"),
            ("imagefolder", 56, None), ("digits", 32, None),
            ("digits", 64, "about 8 px, --image-size is 64")):
        note_enlarged(open_real(dataset, "train", root, size))
        printed = capsys.readouterr().out
        assert note in printed if note else not printed
