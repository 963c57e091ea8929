import itertools
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from data.epoch_plan import PlanOptions, draw_plan
from utils.seeding import stream
from validate import views
from validate.views import Views

N, S, CPU = 7, 32, torch.device("cpu")
OPTIONS = PlanOptions(images=N, size=S, batch_size=3)
STRING = "rand-m6-n2-mstd1.0"


@pytest.fixture(scope="module")
def images():
    pixels = torch.randint(0, 256, (N, 3, S, S), generator=stream("views"), dtype=torch.uint8)
    return SimpleNamespace(pixels=pixels, on=lambda device: lambda indices: pixels[indices].to(device))


def whole(images, epoch, randaugment=STRING, parts=1, workers=0, seed=0):
    made, plan = Views(images, OPTIONS, seed, randaugment, parts, workers, CPU), draw_plan(OPTIONS, epoch)
    function = made.epoch(epoch, plan)
    return torch.cat([function(plan.order[at : at + 3]) for at in range(0, N, 3)])


def test_randaugment_string_as_timm_reads_it():
    augment = views.rand_augment(STRING, 224)
    assert augment.num_layers == 2
    assert augment.choice_weights is None
    assert {(op.magnitude, op.magnitude_std, op.magnitude_max, op.prob) for op in augment.ops} == {(6, 1.0, None, 0.5)}
    assert {(op.hparams["translate_const"], op.hparams["img_mean"]) for op in augment.ops} == {(117, (124, 116, 104))}
    assert {op.kwargs["resample"] for op in augment.ops} == {(Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)}
    assert len(augment.ops) == 15
    assert not [op.name for op in augment.ops if op.name.endswith("Increasing")]  # no "inc1" in the string
    assert views.rand_augment(STRING, 32).ops[0].hparams["translate_const"] == 17


@pytest.mark.parametrize("text", ["auto", "rand-m", "rand-z3", "rand--m6", "rand-m6-tnope", "m6-n2", ""])
def test_strings_that_timm_would_skip_or_refuse(text):
    with pytest.raises(ValueError, match="expected timm's string such as rand-m6-n2-mstd1.0"):
        views.rand_augment(text, 224)


def test_plain_views_are_the_images(images):
    assert torch.equal(whole(images, 0, randaugment=None), images.pixels[draw_plan(OPTIONS, 0).order])


def test_randaugment_does_not_depend_on_workers_or_on_the_past(images):
    state, draws = random.getstate(), np.random.get_state()[1].copy()
    first = whole(images, 1)
    assert random.getstate() == state
    assert np.array_equal(np.random.get_state()[1], draws)
    assert torch.equal(whole(images, 1, workers=2), first)
    made = Views(images, OPTIONS, 0, STRING, 1, 2, CPU)  # the same workers over two epochs
    for epoch in (0, 1):
        plan = draw_plan(OPTIONS, epoch)
        function = made.epoch(epoch, plan)
        found = torch.cat([function(None) for _ in range(3)])
    assert torch.equal(found, first)
    plain = images.pixels[draw_plan(OPTIONS, 1).order]
    changed = [not torch.equal(a, b) for a, b in zip(first, plain, strict=True)]
    assert any(changed)
    assert first.shape == plain.shape
    assert not torch.equal(whole(images, 1, seed=1), first)


def test_an_image_draws_anew_in_every_epoch(images):
    shown = []
    for epoch in range(2):
        view = torch.empty_like(images.pixels)
        view[draw_plan(OPTIONS, epoch).order] = whole(images, epoch)
        shown.append(view)
    assert not torch.equal(*shown)


def slow_shuffle(image, rows, columns):
    """Strips as lists of pixel rows and columns; place p shows strip order[p]."""
    def cut(side, parts):
        return [[x for x in range(side) if x * parts // side == part] for part in range(parts)]

    down = [y for strip in rows for y in cut(image.shape[1], len(rows))[strip]]
    across = [x for strip in columns for x in cut(image.shape[2], len(columns))[strip]]
    out = torch.empty_like(image)
    for y, old_y in enumerate(down):
        for x, old_x in enumerate(across):
            out[:, y, x] = image[:, old_y, old_x]
    return out


@pytest.mark.parametrize(("parts", "size"), [(2, (8, 8)), (2, (7, 9)), (3, (10, 8)), (4, (12, 5))])
def test_shuffled_patches_equal_a_slow_loop(parts, size):
    generator = stream("patches", parts)
    pixels = torch.randint(0, 256, (6, 3, *size), generator=generator, dtype=torch.uint8)
    rows, columns = (views.draw_strip_orders(6, parts, generator) for _ in range(2))
    found = views.shuffle_patches(pixels, rows, columns)
    for i in range(6):
        assert torch.equal(found[i], slow_shuffle(pixels[i], rows[i].tolist(), columns[i].tolist()))


def test_two_strips_are_swapped_halves():
    image = torch.arange(16).view(1, 1, 4, 4)
    stay, swap = torch.tensor([[0, 1]]), torch.tensor([[1, 0]])
    assert torch.equal(views.shuffle_patches(image, stay, stay), image)
    assert torch.equal(views.shuffle_patches(image, swap, stay), image.roll(2, 2))
    assert torch.equal(views.shuffle_patches(image, stay, swap), image.roll(2, 3))


def test_strip_orders_are_uniform():
    orders = views.draw_strip_orders(12_000, 3, stream("orders")).tolist()
    for order in itertools.permutations(range(3)):  # 2000 expected, standard deviation 41
        assert abs(sum(tuple(found) == order for found in orders) - 2000) < 170
    halves = views.draw_strip_orders(10_000, 2, stream("halves"))[:, 0].double().mean()
    assert abs(float(halves) - 0.5) < 0.02


def test_patches_in_a_run_are_drawn_per_image_and_epoch(images):
    plain = [whole(images, epoch, randaugment=None) for epoch in (0, 1)]
    shuffled = [whole(images, epoch, randaugment=None, parts=2) for epoch in (0, 1)]
    pairs = list(zip(torch.cat(shuffled), torch.cat(plain), strict=True))
    kinds = {(dy, dx): [torch.equal(s, p.roll((dy, dx), (1, 2))) for s, p in pairs]
             for dy in (0, 16) for dx in (0, 16)}
    assert [sum(flags) for flags in zip(*kinds.values(), strict=True)] == [1] * 14
    assert sum(any(flags) for flags in kinds.values()) >= 3
    assert torch.equal(whole(images, 0, randaugment=None, parts=2), shuffled[0])
    both = whole(images, 0, parts=2)  # RandAugment first, then the patches
    found = [any(torch.equal(b, w.roll((dy, dx), (1, 2))) for dy in (0, 16) for dx in (0, 16))
             for b, w in zip(both, whole(images, 0), strict=True)]
    assert all(found)
