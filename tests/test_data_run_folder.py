import json

import pytest
import timm

from data.run_folder import (
    check_apart,
    manifest_hash,
    read_manifest,
    settle_manifest,
    versions,
)
from utils.errors import UserError

CONTENT = {"options": {"lr": 0.1, "names": ("a",)}, "identity": {"n": 3}, "versions": {"torch": 1}}


def settle(path, **changed):
    return settle_manifest(path, {**CONTENT, **changed}, "Start afresh.")


def test_a_manifest_is_written_once(tmp_path):
    path = tmp_path / "m.json"
    assert settle(path)["options"] == {"lr": 0.1, "names": ["a"]}
    before = path.read_bytes()
    assert settle(path, versions={"torch": 2})["versions"] == {"torch": 1}
    assert path.read_bytes() == before


def test_what_was_asked_for_is_widened(tmp_path):
    path = tmp_path / "m.json"
    settle(path)
    for asked, stored in (((1, 3), [1, 3]), ((2, 3), [1, 3]), ((0, 2), [0, 3]), ((4, 9), [0, 9])):
        assert settle(path, asked=asked)["asked"] == stored
        assert read_manifest(path, "recover")["asked"] == stored
    assert settle(path)["asked"] == [0, 9]
    assert read_manifest(path, "recover")["versions"] == {"torch": 1}


@pytest.mark.parametrize(("changed", "message"), [
    ({"options": {"lr": 0.2, "names": ["a"]}}, "was made with lr = 0.1, now lr = 0.2"),
    ({"options": {"lr": 0.1}}, r"was made with names = \[\"a\"\], now names = null"),
    ({"identity": {"n": 3, "more": 1}}, "was made with more = null, now more = 1"),
])
def test_another_option_or_fact_is_named(tmp_path, changed, message):
    settle(tmp_path / "m.json")
    with pytest.raises(UserError, match=f"m.json: {message}. Start afresh."):
        settle(tmp_path / "m.json", **changed)


@pytest.mark.parametrize(("name", "words"), [
    ("train_images", "training images"), ("test_set", "test images"),
    ("start_images", "start images")])
def test_other_images_are_said_in_words(tmp_path, name, words):
    settle(tmp_path / "m.json", identity={name: "a" * 64})
    with pytest.raises(UserError, match=f"m.json: was made with other {words} than those given now:"
                       f" .*contents differ .{name} was a{{12}}, is b{{12}}.. Start afresh."):
        settle(tmp_path / "m.json", identity={name: "b" * 64})
    with pytest.raises(UserError, match=f"was made with {name} = \"a+\", now {name} = null"):
        settle(tmp_path / "m.json", identity={name: None})


@pytest.mark.parametrize(("folder", "apart"), [
    ("train", False), ("train/n01440764/new", False), ("link", False), ("run", True),
    ("", True), ("train2", True)])
def test_a_folder_among_the_images_is_refused(tmp_path, folder, apart):
    (tmp_path / "train").mkdir()
    (tmp_path / "link").symlink_to("train")
    if apart:
        check_apart("--output-dir", tmp_path / folder, tmp_path / "train")
        check_apart("--output-dir", tmp_path / folder, None)
        return
    sentence = (f"--output-dir: found {tmp_path / folder}, expected a folder outside the images in "
                f"{tmp_path / 'train'}, where it would pass for a class. Choose another one.")
    with pytest.raises(UserError, match=sentence):
        check_apart("--output-dir", tmp_path / folder, tmp_path / "train")


def test_the_hash_is_of_what_changes_numbers():
    content = json.loads(json.dumps(CONTENT))
    assert manifest_hash(CONTENT) == manifest_hash(content)
    assert manifest_hash({**content, "versions": {}}) == manifest_hash(content)
    for part in ("options", "identity"):
        assert manifest_hash({**content, part: {}}) != manifest_hash(content)


def test_versions_name_every_library_that_makes_numbers():
    assert set(versions()) == {"python", "torch", "torchvision", "timm"}
    assert versions()["timm"] == timm.__version__


@pytest.mark.parametrize(("text", "message"), [
    ('{"options": []}', "options is not an object"),
    ('{"asked": [0, "9"]}', "asked is not a range of two numbers"),
    ('{"asked": 9}', "asked is not a range of two numbers")])
def test_a_damaged_manifest(tmp_path, text, message):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(UserError, match=f"m.json: damaged .{message}"):
        read_manifest(tmp_path / "m.json", "recover")
