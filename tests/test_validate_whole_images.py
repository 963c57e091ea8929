import itertools
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from data.epoch_plan import PlanOptions, draw_plan
from data.image_set import PixelCache
from utils.seeding import stream
from validate import whole_images
from validate.options import Views
from validate.whole_images import WholeImages

N, S, CPU = 7, 32, torch.device("cpu")
PLAN = PlanOptions(images=N, size=S, batch_size=3)
STRING = "rand-m6-n2-mstd1.0"


@pytest.fixture(scope="module")
def images():
    pixels = torch.randint(0, 256, (N, 3, S, S), generator=stream("whole"), dtype=torch.uint8)
    return SimpleNamespace(all_pixels=pixels, image_size=S,
                           cache_on=lambda device: PixelCache(pixels, device))


def made(images, randaugment=STRING, patches=1, workers=0, seed=0):
    views = Views(randaugment=randaugment, shuffle_patches=patches)
    return WholeImages(images, views, seed, workers, CPU)


def shown(whole, epoch):
    """All whole images of an epoch, in the order of its plan."""
    return torch.cat(list(whole.epoch(epoch, draw_plan(PLAN, epoch))))


def test_randaugment_string_as_timm_reads_it():
    augment = whole_images.rand_augment(STRING, 224)
    assert augment.num_layers == 2
    assert augment.choice_weights is None
    magnitudes = {(op.magnitude, op.magnitude_std, op.magnitude_max, op.prob)
                  for op in augment.ops}
    assert magnitudes == {(6, 1.0, None, 0.5)}
    settings = {(op.hparams["translate_const"], op.hparams["img_mean"]) for op in augment.ops}
    assert settings == {(117, (124, 116, 104))}
    assert {op.kwargs["resample"] for op in augment.ops} == {
        (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)}
    assert len(augment.ops) == 15
    assert not [op.name for op in augment.ops if op.name.endswith("Increasing")]  # no "inc1"
    assert whole_images.rand_augment(STRING, 32).ops[0].hparams["translate_const"] == 17


def test_plain_images_come_in_the_order_of_the_plan(images):
    plan = draw_plan(PLAN, 0)
    batches = list(made(images, randaugment=None).epoch(0, plan))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert torch.equal(torch.cat(batches), images.all_pixels[plan.order])


def test_randaugment_does_not_depend_on_workers_or_on_the_past(images):
    state, draws = random.getstate(), np.random.get_state()[1].copy()
    first = shown(made(images), 1)
    assert random.getstate() == state
    assert np.array_equal(np.random.get_state()[1], draws)

    several = made(images, workers=2)
    shown(several, 0)
    assert torch.equal(shown(several, 1), first)  # the same workers, an epoch later

    assert first.shape == images.all_pixels.shape
    assert not torch.equal(first, images.all_pixels[draw_plan(PLAN, 1).order])
    assert not torch.equal(shown(made(images, seed=1), 1), first)


def test_an_image_is_drawn_anew_in_every_epoch(images):
    views = [torch.empty_like(images.all_pixels) for _ in range(2)]
    for epoch, view in enumerate(views):
        view[draw_plan(PLAN, epoch).order] = shown(made(images), epoch)
    assert not torch.equal(*views)


def slow_shuffle(image, down, across):
    """Strips as lists of pixel rows and columns; place p shows strip order[p]."""
    def cut(side, strips):
        return [[x for x in range(side) if x * strips // side == strip]
                for strip in range(strips)]

    rows = [y for strip in down for y in cut(image.shape[1], len(down))[strip]]
    columns = [x for strip in across for x in cut(image.shape[2], len(across))[strip]]
    out = torch.empty_like(image)
    for y, old_y in enumerate(rows):
        for x, old_x in enumerate(columns):
            out[:, y, x] = image[:, old_y, old_x]
    return out


@pytest.mark.parametrize(("strips", "size"),
                         [(2, (8, 8)), (2, (7, 9)), (3, (10, 8)), (4, (12, 5))])
def test_shuffled_patches_equal_a_slow_loop(strips, size):
    generator = stream("patches", strips)
    pixels = torch.randint(0, 256, (6, 3, *size), generator=generator, dtype=torch.uint8)
    down, across = (whole_images.draw_strip_orders(6, strips, generator) for _ in range(2))
    shuffled = whole_images.shuffle_patches(pixels, down, across)
    for i in range(6):
        expected = slow_shuffle(pixels[i], down[i].tolist(), across[i].tolist())
        assert torch.equal(shuffled[i], expected)


def test_two_strips_are_swapped_halves():
    image = torch.arange(16).view(1, 1, 4, 4)
    stay, swap = torch.tensor([[0, 1]]), torch.tensor([[1, 0]])
    assert torch.equal(whole_images.shuffle_patches(image, stay, stay), image)
    assert torch.equal(whole_images.shuffle_patches(image, swap, stay), image.roll(2, 2))
    assert torch.equal(whole_images.shuffle_patches(image, stay, swap), image.roll(2, 3))


def test_strip_orders_are_uniform():
    orders = whole_images.draw_strip_orders(12_000, 3, stream("orders")).tolist()
    for order in itertools.permutations(range(3)):  # 2000 expected, standard deviation 41
        assert abs(sum(tuple(drawn) == order for drawn in orders) - 2000) < 170


def test_patches_are_drawn_per_image_and_epoch_after_randaugment(images):
    def swaps(shuffled, plain):
        """Which halves of an image changed places."""
        return [(dy, dx) for dy in (0, 16) for dx in (0, 16)
                if torch.equal(shuffled, plain.roll((dy, dx), (1, 2)))]

    found = []
    for epoch in (0, 1):
        pairs = zip(shown(made(images, None, patches=2), epoch), shown(made(images, None), epoch),
                    strict=True)
        found += [swaps(*pair) for pair in pairs]
    assert [len(swap) for swap in found] == [1] * 14
    assert len({swap[0] for swap in found}) >= 3
    both = zip(shown(made(images, patches=2), 0), shown(made(images), 0), strict=True)
    assert all(swaps(*pair) for pair in both)
