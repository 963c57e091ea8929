import itertools

import numpy as np
import pytest
import tiny
import torch
from torch.nn import functional as F

from data.image_set import Arrays, ImageSet
from data.images import normalise
from data.opening import open_real
from models.training_data import FolderBatches, MemoryBatches, epoch_order, steps_per_epoch

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Nine real images of three classes."""
    folder = tiny.image_folder(tmp_path_factory.mktemp("data"))
    return open_real("imagefolder", "train", folder, 32)


def numbered(count=10, side=6):
    """Images that differ in every pixel, each of a class of its own."""
    random = np.random.default_rng(0)
    arrays = random.integers(1, 256, (count, side, side, 3), dtype=np.uint8)
    return ImageSet("digits", range(count), range(count), side, Arrays(arrays))


@pytest.mark.parametrize(("count", "size", "batches"), [(10, 4, 2), (12, 4, 3), (3, 4, 1)])
def test_order_is_a_permutation_in_whole_batches(count, size, batches):
    order = epoch_order(count, size, ("k", 0))
    assert len(order) == batches == steps_per_epoch(count, size)
    flat = torch.cat(list(order)).tolist()
    assert len(set(flat)) == len(flat) == min(count, batches * size)
    assert flat != torch.cat(list(epoch_order(count, size, ("k", 1)))).tolist()
    assert flat == torch.cat(list(epoch_order(count, size, ("k", 0)))).tolist()


def windows(pixels):
    """{(top, left, mirrored): view} of all views with shifts of up to 2 pixels."""
    padded, size = F.pad(pixels, [2] * 4), pixels.shape[-1]
    plain = {(top, left): normalise(padded[:, top : top + size, left : left + size])
             for top in range(5) for left in range(5)}
    return {(*corner, mirrored): view.flip(2) if mirrored else view
            for corner, view in plain.items() for mirrored in (False, True)}


def test_memory_views_are_shifted_windows_of_their_own_image():
    images, seen = numbered(), set()
    batches = MemoryBatches(images, 5, pad=2, flip_prob=0.5, device=CPU)
    possible = [windows(image) for image in images.all_pixels]
    for epoch in range(20):
        for views, index in batches.epoch(("k", epoch)):
            assert views.shape == (5, 3, 6, 6)
            for view, i in zip(views, index.tolist(), strict=True):
                equal = [place for place, w in possible[i].items() if torch.equal(view, w)]
                assert len(equal) == 1
                seen.add(equal[0])
    assert len(seen) == 50  # every shift, both ways round


def test_without_flips_and_without_pad_images_come_as_they_are():
    images = numbered()
    batches = MemoryBatches(images, 5, pad=0, flip_prob=0.0, device=CPU)
    for views, index in batches.epoch(("k", 0)):
        assert torch.equal(views, normalise(images.all_pixels[index]))


@pytest.mark.parametrize("workers", [None, 0, 2])
def test_batches_that_are_done_are_left_out_and_not_decoded(images, workers, monkeypatch):
    """workers: of FolderBatches; None for MemoryBatches."""
    if workers is None:
        batches = MemoryBatches(images, 2, pad=4, flip_prob=0.5, device=CPU)
    else:
        batches = FolderBatches(images, 2, 0.5, CPU, workers)
    whole = list(batches.epoch(("k", 1)))
    decoded, picture = [], images.picture
    monkeypatch.setattr(images, "picture", lambda i: (decoded.append(i), picture(i))[1])
    for done in (3, 1, 4):
        decoded.clear()
        left = list(batches.epoch(("k", 1), done))
        assert len(left) == 4 - done
        for (a, b), (c, d) in zip(left, whole[done:], strict=True):
            assert torch.equal(a, c)
            assert torch.equal(b, d)
        assert len(decoded) == (2 * len(left) if workers == 0 else 0)


def test_a_batch_is_timed(images, monkeypatch):
    """By a clock that goes on by a second whenever it is read; three images are timed."""
    seconds = itertools.count()
    monkeypatch.setattr("time.perf_counter", lambda: next(seconds))
    assert MemoryBatches(images, 2, pad=4, flip_prob=0.5, device=CPU).batch_seconds() == 1
    for workers, expected in ((0, 100 / 3), (2, 100 / 6)):
        batches = FolderBatches(images, 100, 0.5, CPU, workers)
        assert batches.batch_seconds() == pytest.approx(expected)


def test_folder_views_do_not_depend_on_workers_or_on_the_batch_before(images):
    alone = list(FolderBatches(images, 4, 0.5, CPU, 0).epoch(("k", 3)))
    workers = FolderBatches(images, 4, 0.5, CPU, 2)
    before, again = list(workers.epoch(("k", 2))), list(workers.epoch(("k", 3)))
    assert len(alone) == len(again) == 2
    for (a, b), (c, d) in zip(alone, again, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)
    assert not torch.equal(before[0][0], again[0][0])
    assert alone[0][0].shape == (4, 3, 32, 32)


@pytest.mark.parametrize("workers", [0, 2])
def test_folder_views_leave_the_global_generator_alone(images, workers):
    before = torch.get_rng_state()
    list(FolderBatches(images, 4, 0.5, CPU, workers).epoch(("k", 0)))
    assert torch.equal(torch.get_rng_state(), before)


def test_given_indices_come_in_their_order_and_all_of_them(images):
    wanted = torch.tensor([8, 0, 3, 5, 4])
    batches = FolderBatches(images, 2, 0.5, CPU, 0, wanted)
    for _ in range(2):
        found = list(batches.epoch(("k",)))
        assert [len(x) for x, _ in found] == [2, 2, 1]
        assert torch.equal(torch.cat([y for _, y in found]), images.labels[wanted])

    def view_of(i):
        return next(iter(FolderBatches(images, 1, 0.5, CPU, 0, torch.tensor([i])).epoch(("k",))))

    alone = torch.cat([view_of(i)[0] for i in wanted.tolist()])
    assert torch.equal(torch.cat([x for x, _ in found]), alone)
