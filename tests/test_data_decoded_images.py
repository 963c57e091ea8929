import errno
import multiprocessing
import os
import time

import pytest
import tiny
import torch
from PIL import Image

from data import decoded_images
from data.datasets import FolderImages
from utils.errors import UserError


@pytest.fixture
def folder(tmp_path):
    return tiny.image_folder(tmp_path / "val", ("cat", "dog"), 4, size=(40, 30))


def real(folder, side=24):
    return FolderImages(folder, side)


def files(cache):
    return sorted(f.name for f in cache.iterdir())


def decoding(monkeypatch):
    """Counts how often images are decoded."""
    calls, pixels = [], FolderImages.pixels
    monkeypatch.setattr(FolderImages, "pixels", lambda self, *args: calls.append(1) or pixels(self, *args))
    return calls


def test_same_pixels_decoded_once(folder, tmp_path, monkeypatch, capsys):
    expected, calls = real(folder).pixels(range(8)), decoding(monkeypatch)
    monkeypatch.setattr(decoded_images, "_AT_ONCE", 3)  # blocks of 3, 3 and 2
    first = decoded_images.decoded(real(folder), tmp_path / "cache")
    assert len(calls) == 3
    assert torch.equal(first, expected)
    assert "later runs read" in capsys.readouterr().out
    again = decoded_images.decoded(real(folder), tmp_path / "cache")
    assert len(calls) == 3
    assert torch.equal(again, expected)
    assert (first.shape, first.dtype) == ((8, 3, 24, 24), torch.uint8)
    (name,) = files(tmp_path / "cache")  # nothing temporary is left
    assert (tmp_path / "cache" / name).stat().st_size == 8 * (3 * 24 * 24 + 4)
    assert files(folder) == ["cat", "dog"]  # nothing beside the user's data


def changed(folder):
    file = folder / "cat/img_001.JPEG"
    Image.new("RGB", (40, 30), "red").save(file)


def touched(folder):  # same size in bytes, other pixels: only the time tells
    file = folder / "cat/img_001.JPEG"
    data = bytearray(file.read_bytes())
    data[-10] ^= 1
    time.sleep(0.01)
    file.write_bytes(data)


def added(folder):
    Image.new("RGB", (40, 30)).save(folder / "dog/img_900.png")


def removed(folder):
    (folder / "dog/img_000.JPEG").unlink()


def renamed(folder):
    (folder / "dog/img_000.JPEG").rename(folder / "dog/img_999.JPEG")


@pytest.mark.parametrize("change", [changed, touched, added, removed, renamed])
def test_another_set_of_images_is_noticed(folder, tmp_path, change):
    decoded_images.decoded(real(folder), tmp_path / "cache")
    change(folder)
    found = decoded_images.decoded(real(folder), tmp_path / "cache")
    assert torch.equal(found, real(folder).pixels(range(len(real(folder)))))
    assert len(files(tmp_path / "cache")) == 2


def test_another_size_or_choice_of_classes_is_another_file(folder):
    keys = {decoded_images.key(images) for images in (real(folder), real(folder, 32))}
    for name in ("n01440764", "n01443537"):
        (folder / ("cat" if name == "n01440764" else "dog")).rename(folder / name)
    keys |= {decoded_images.key(FolderImages(folder, 24, classes)) for classes in (["n01440764"], ["n01443537", "n01440764"])}
    assert len(keys) == 4


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data + b"x", lambda data: bytes([data[0] ^ 1]) + data[1:],
                                    lambda data: data[:-1] + bytes([data[-1] ^ 1])])
def test_a_damaged_file_is_made_anew(folder, tmp_path, damage):
    expected = decoded_images.decoded(real(folder), tmp_path / "cache").clone()
    (name,) = files(tmp_path / "cache")
    path = tmp_path / "cache" / name
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert path.read_bytes() != whole
    assert torch.equal(decoded_images.decoded(real(folder), tmp_path / "cache"), expected)
    assert path.read_bytes() == whole


def test_a_full_disk_leaves_nothing(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(decoded_images, "free_bytes", lambda _: 100)
    with pytest.raises(OSError, match="space") as found:
        decoded_images.decoded(real(folder), tmp_path / "cache")
    assert found.value.errno == errno.ENOSPC
    assert files(tmp_path / "cache") == []


def test_an_unreadable_image_is_named_and_leaves_nothing(folder, tmp_path):
    (folder / "cat/img_002.JPEG").write_bytes(b"no image")
    with pytest.raises(UserError, match="img_002.JPEG: not a readable image"):
        decoded_images.decoded(real(folder), tmp_path / "cache")
    assert files(tmp_path / "cache") == []


def test_an_image_that_changes_meanwhile(folder, tmp_path, monkeypatch):
    pixels = FolderImages.pixels

    def slow(self, *args):
        found = pixels(self, *args)
        changed(folder)
        return found

    monkeypatch.setattr(FolderImages, "pixels", slow)
    with pytest.raises(UserError, match="changed while it was decoded"):
        decoded_images.decoded(real(folder), tmp_path / "cache")
    assert files(tmp_path / "cache") == []


def test_leftovers_of_a_killed_process_are_removed(folder, tmp_path):
    (tmp_path / "cache").mkdir()
    host = decoded_images.remove_leftovers.__globals__["_HOST"]
    (tmp_path / f"cache/.decoded_x.uint8.{host}.999999.tmp").write_bytes(b"half")
    decoded_images.decoded(real(folder), tmp_path / "cache")
    assert len(files(tmp_path / "cache")) == 1


def _work(folder, cache, log):
    pixels = FolderImages.pixels

    def logged(self, *args):
        with open(log, "a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.2)
        return pixels(self, *args)

    FolderImages.pixels = logged
    assert len(decoded_images.decoded(FolderImages(folder, 24), cache)) == 8


def test_processes_side_by_side_decode_once(folder, tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_work, args=(folder, tmp_path / "cache", tmp_path / "log")) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len((tmp_path / "log").read_text().split()) == 1
    assert len(files(tmp_path / "cache")) == 1
