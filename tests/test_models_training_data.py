import numpy as np
import tiny
import torch
from torch.nn import functional as F

from data.datasets import open_images
from data.images import normalise
from models.training_data import FolderBatches, MemoryBatches, epoch_order, steps_per_epoch

CPU = torch.device("cpu")


def numbered(count=10, side=6):
    """Images that differ in every pixel."""
    return torch.from_numpy(np.random.default_rng(0).integers(1, 256, (count, 3, side, side), dtype=np.uint8))


def test_order_is_a_permutation_in_whole_batches():
    for count, size, batches in ((10, 4, 2), (12, 4, 3), (3, 4, 1)):
        order = epoch_order(count, size, ("k", 0))
        assert len(order) == batches == steps_per_epoch(count, size)
        flat = torch.cat(list(order)).tolist()
        assert len(set(flat)) == len(flat) == min(count, batches * size)
        assert flat != torch.cat(list(epoch_order(count, size, ("k", 1)))).tolist()
        assert flat == torch.cat(list(epoch_order(count, size, ("k", 0)))).tolist()


def test_memory_views_are_shifted_windows_of_their_own_image():
    pixels, labels = numbered(), torch.arange(10)
    seen = set()
    for epoch in range(20):
        for views, index in MemoryBatches(pixels, labels, 5, pad=2, flips=True, device=CPU).epoch(("k", epoch)):
            assert views.shape == (5, 3, 6, 6)
            for view, i in zip(views, index.tolist(), strict=True):
                padded = F.pad(pixels[i], [2] * 4)
                found = [(top, left, flip) for top in range(5) for left in range(5) for flip in (False, True)
                         if torch.equal(view, normalise(padded[:, top : top + 6, left : left + 6].flip(2) if flip else
                                                        padded[:, top : top + 6, left : left + 6]))]
                assert len(found) == 1
                seen.add(found[0])
    assert len(seen) == 50  # every shift, both ways round


def test_without_flips_and_without_pad_images_come_as_they_are():
    pixels = numbered()
    for views, index in MemoryBatches(pixels, torch.arange(10), 5, pad=0, flips=False, device=CPU).epoch(("k", 0)):
        assert torch.equal(views, normalise(pixels[index]))


def test_folder_views_do_not_depend_on_workers_or_on_the_batch_before(tmp_path):
    images = open_images("imagefolder", "train", tiny.image_folder(tmp_path), 32)
    alone = list(FolderBatches(images, 4, True, CPU, 0).epoch(("k", 3)))
    workers = FolderBatches(images, 4, True, CPU, 2)
    first = list(workers.epoch(("k", 2)))
    again = list(workers.epoch(("k", 3)))
    assert len(alone) == len(again) == 2
    for (a, b), (c, d) in zip(alone, again, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)
    assert not torch.equal(first[0][0], again[0][0])
    assert alone[0][0].shape == (4, 3, 32, 32)


def test_folder_views_leave_the_global_generator_alone(tmp_path):
    images = open_images("imagefolder", "train", tiny.image_folder(tmp_path), 32)
    states = []
    for workers in (0, 2):
        torch.manual_seed(0)
        list(FolderBatches(images, 4, True, CPU, workers).epoch(("k", 0)))
        states.append(torch.get_rng_state())
    torch.manual_seed(0)
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], torch.get_rng_state())


def test_given_indices_come_in_their_order_and_all_of_them(tmp_path):
    images = open_images("imagefolder", "train", tiny.image_folder(tmp_path), 32)
    wanted = torch.tensor([8, 0, 3, 5, 4])
    batches = FolderBatches(images, 2, True, CPU, 0, wanted)
    for _ in range(2):
        found = list(batches.epoch(("k",)))
        assert [len(x) for x, _ in found] == [2, 2, 1]
        assert torch.cat([y for _, y in found]).tolist() == images.labels[wanted].tolist()
    whole = {int(i): x for i in range(9) for x, _ in FolderBatches(images, 1, True, CPU, 0, torch.tensor([i])).epoch(("k",))}
    assert torch.equal(torch.cat([x for x, _ in found]), torch.cat([whole[i] for i in wanted.tolist()]))
