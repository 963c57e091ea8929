import math

import numpy as np
import pytest
import torch
from PIL import Image

from data.images import MEAN, STD
from recover import mosaics
from utils.errors import UserError


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def random_image(width, height, seed=0):
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_candidates_without_replacement_or_all():
    drawn = mosaics.draw_candidates(50, 20, stream()).tolist()
    assert len(set(drawn)) == 20
    assert drawn == sorted(drawn)
    assert drawn != list(range(20))
    assert mosaics.draw_candidates(7, 20, stream()).tolist() == list(range(7))
    often = torch.cat([mosaics.draw_candidates(5, 2, stream(s)) for s in range(1000)])
    assert torch.allclose(often.bincount() / 1000, torch.full((5,), 0.4), atol=0.06)


def test_boxes_are_square_within_the_image():
    boxes = mosaics.draw_boxes(random_image(90, 60), 2000, stream())
    assert (boxes[:, 2] == boxes[:, 3]).all()
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 0] + boxes[:, 2] <= 60).all()
    assert (boxes[:, 1] + boxes[:, 3] <= 90).all()
    area = (boxes[:, 2] * boxes[:, 3]).double() / (90 * 60)
    assert 0.07 < area.min() < 0.09
    assert 0.64 < area.max() <= 3600 / 5400  # a square of more does not fit: it is drawn again


def test_cut_antialiases_and_reads_nothing_outside_its_box():
    image = random_image(40, 30)
    box = torch.tensor([5, 8, 20, 20])
    cell = mosaics.cut(image, box, 10)
    pixels = np.array(image)
    pixels[:5], pixels[25:], pixels[:, :8], pixels[:, 28:] = 0, 0, 0, 0
    assert torch.equal(mosaics.cut(Image.fromarray(pixels), box, 10), cell)
    inside = torch.from_numpy(np.array(image))[5:25, 8:28].permute(2, 0, 1).double()
    # Bilinear to half the size is a triangle over +-2 source pixels.
    triangle = torch.zeros(10, 20, dtype=torch.float64)
    for out in range(10):
        for source in range(20):
            triangle[out, source] = max(0, 1 - abs(source + 0.5 - (out + 0.5) * 2) / 2)
    triangle /= triangle.sum(1, keepdim=True)
    exact = triangle @ inside @ triangle.T
    assert (cell.double() - exact).abs().max() <= 1.5  # rounded to 8 bits twice


@pytest.mark.parametrize(("side", "size", "before"), [(4, 8, 2), (3, 6, 1), (2, 6, 2), (5, 5, 0)])
def test_centred_pads_after_normalising(side, size, before):
    crops = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=stream())
    expected = torch.zeros(2, 3, size, size)
    inside = slice(before, before + side)
    for c in range(3):
        expected[:, c, inside, inside] = (crops[:, c] / 255 - MEAN[c]) / STD[c]
    torch.testing.assert_close(mosaics.centred(crops, size), expected)


def test_scores_and_choice_equal_a_slow_loop():
    logits = torch.randn(6 * 4, 3, generator=stream(), dtype=torch.float64)
    values = mosaics.scores(logits, torch.full((24,), 2))
    slow = [-math.log(math.exp(row[2]) / sum(math.exp(v) for v in row)) for row in logits.tolist()]
    assert torch.allclose(values, torch.tensor(slow, dtype=torch.float64), rtol=1e-12)

    best = sorted((min((slow[4 * i + k], k) for k in range(4)), i) for i in range(6))[:5]
    image, crop = mosaics.choose(values.view(6, 4), 5)
    assert list(zip(image.tolist(), crop.tolist(), strict=True)) == [(i, k) for (_, k), i in best]


def test_equal_scores_keep_their_order():
    values = torch.tensor([[2.0, 1.0, 1.0], [1.0, 1.0, 3.0], [0.0, 5.0, 0.0]])
    image, crop = mosaics.choose(values, 3)
    assert image.tolist() == [2, 0, 1]
    assert crop.tolist() == [0, 1, 0]


def test_placement_by_hand():
    ranks = [mosaics.ranks_of(j, 3, 2) for j in range(3)]
    assert ranks == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]
    assert mosaics.ranks_of(1, 2, 3) == [1, 3, 5, 7, 9, 11, 13, 15, 17]
    assert mosaics.ranks_of(4, 5, 1) == [4]
    cells = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 3, 2, 2)
    rows = [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    assert mosaics.compose(cells, 2)[1].tolist() == rows
    cell = torch.arange(3 * 4, dtype=torch.uint8).view(1, 3, 2, 2)
    assert torch.equal(mosaics.compose(cell, 1), cell[0])


def test_a_grid_that_does_not_fit_is_refused():
    assert mosaics.cell_side(224, 2) == 112
    refusal = "--mosaic-grid 3: 32 px cannot be cut .* Choose one of 1, 2, 4, 8, 16, 32,"
    with pytest.raises(UserError, match=refusal):
        mosaics.cell_side(32, 3)


def test_too_few_candidates_are_refused_by_class():
    mosaics.check_candidates("n01440764", 40, 300, ipc=10, grid=2)
    short = (r"class n01440764: 39 candidates .* 10 images of 2x2 crops need 40. "
             r"Lower --ipc-end \(this class is enough for 9\)")
    with pytest.raises(UserError, match=short):
        mosaics.check_candidates("n01440764", 39, 300, ipc=10, grid=2)
    few = "30 candidates .* need 40. Raise --mosaic-candidates to 40 or more"
    with pytest.raises(UserError, match=few):
        mosaics.check_candidates("n01440764", 100, 30, ipc=10, grid=2)
