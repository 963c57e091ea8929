import errno
import multiprocessing
import os
import time

import pytest
import tiny
import torch
from PIL import Image

from data import decoded_images
from data.image_set import ImageSet
from data.opening import open_real
from utils.errors import UserError


@pytest.fixture
def folder(tmp_path):
    return tiny.image_folder(tmp_path / "val", ("cat", "dog"), 4, size=(40, 30))


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def real(folder, size=24):
    return open_real("imagefolder", "test", folder, size)


def decode(folder, cache):
    return decoded_images.decoded(real(folder), cache)


def files(cache):
    """What lies in a cache, apart from its lock."""
    return [path for path in sorted(cache.iterdir()) if path.name != ".decoding.lock"]


def test_the_same_pixels_are_decoded_once(folder, cache, monkeypatch, capsys):
    expected, calls, pixels = real(folder).all_pixels, [], ImageSet.pixels
    monkeypatch.setattr(ImageSet, "pixels", lambda *args: calls.append(1) or pixels(*args))
    monkeypatch.setattr(decoded_images, "_AT_ONCE", 3)  # blocks of 3, 3 and 2

    first = decode(folder, cache)
    assert torch.equal(first, expected)
    assert "later runs read" in capsys.readouterr().out
    assert torch.equal(decode(folder, cache), expected)
    assert len(calls) == 3

    (path,) = files(cache)  # nothing temporary is left
    assert path.stat().st_size == first.nbytes == 8 * 3 * 24 * 24
    assert sorted(path.name for path in folder.iterdir()) == ["cat", "dog"]


def changed(folder):
    Image.new("RGB", (40, 30), "red").save(folder / "cat/img_001.JPEG")


def touched(folder):
    """The size in bytes stays, other pixels: only the time tells."""
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
def test_another_set_of_images_is_noticed(folder, cache, change):
    decode(folder, cache)
    change(folder)
    assert torch.equal(decode(folder, cache), real(folder).all_pixels)
    assert len(files(cache)) == 2


def test_another_size_crop_or_class_order_is_another_file(folder):
    other_order = open_real("imagefolder", "test", folder, 24, classes=["dog", "cat"])
    square = open_real("imagefolder", "test", folder, 24, crop="validation")
    sets = [real(folder), real(folder, 32), other_order, square]
    assert len({decoded_images.key(images) for images in sets}) == 4


def test_a_truncated_file_is_made_anew(folder, cache):
    expected = decode(folder, cache).clone()
    (path,) = files(cache)
    path.write_bytes(path.read_bytes()[:-1])
    assert torch.equal(decode(folder, cache), expected)


def test_a_full_disk_leaves_nothing(folder, cache, monkeypatch):
    monkeypatch.setattr(decoded_images, "free_bytes", lambda _: 100)
    with pytest.raises(OSError, match="space") as raised:
        decode(folder, cache)
    assert raised.value.errno == errno.ENOSPC
    assert files(cache) == []


def test_an_unreadable_image_is_named_and_leaves_nothing(folder, cache):
    (folder / "cat/img_002.JPEG").write_bytes(b"no image")
    with pytest.raises(UserError, match="img_002.JPEG: not a readable image"):
        decode(folder, cache)
    assert files(cache) == []


def test_an_image_that_changes_meanwhile(folder, cache, monkeypatch):
    pixels = ImageSet.pixels

    def slow(self, *args):
        decoded = pixels(self, *args)
        changed(folder)
        return decoded

    monkeypatch.setattr(ImageSet, "pixels", slow)
    with pytest.raises(UserError, match="changed while it was decoded"):
        decode(folder, cache)
    assert files(cache) == []


def test_leftovers_of_a_killed_process_are_removed(folder, cache):
    from utils.files import _HOST

    cache.mkdir()
    (cache / f".decoded_x.uint8.{_HOST}.999999999.tmp").write_bytes(b"half")
    decode(folder, cache)
    assert len(files(cache)) == 1


def _decode_slowly(folder, cache, log):
    pixels = ImageSet.pixels

    def logged(self, *args):
        with open(log, "a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.2)
        return pixels(self, *args)

    ImageSet.pixels = logged
    assert len(decode(folder, cache)) == 8


def test_processes_side_by_side_decode_once(folder, cache, tmp_path):
    context, log = multiprocessing.get_context("fork"), tmp_path / "log"
    processes = [context.Process(target=_decode_slowly, args=(folder, cache, log))
                 for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(log.read_text().split()) == 1
    assert len(files(cache)) == 1
