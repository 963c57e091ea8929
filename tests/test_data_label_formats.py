import math

import pytest
import torch

from data.label_formats import label_format, through_format
from data.names import LABEL_FORMATS
from utils.errors import UserError

CLASSES = 40


def logits(rows=9, classes=CLASSES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, classes, generator=generator) * 5 + 3


def make(name, classes=CLASSES, top_k=4):
    return label_format(name, classes, top_k if name == "topk" else None)


def test_floats():
    values = logits()
    assert torch.equal(through_format(values, make("fp32")), values)
    assert torch.equal(through_format(values, make("fp16")), values.half().float())
    assert not torch.equal(through_format(values, make("fp16")), values)


def test_int8_by_hand():
    # Ends -2 and 10.7: offset 4.35, step 12.7 / 254 = 0.05; 0.31 is 80.8 steps below the offset.
    int8 = make("int8", 4)
    stored = int8.encode(torch.tensor([[10.7, -2.0, 4.35, 0.31]]))
    assert stored["logits"].tolist() == [[127, -127, 0, -81]]
    assert stored["offset"].item() == pytest.approx(4.35)
    assert stored["scale"].item() == pytest.approx(0.05)
    assert int8.decode(stored).tolist() == [pytest.approx([10.7, -2.0, 4.35, 0.3], abs=1e-6)]


def test_int8_against_a_slow_loop():
    values = logits()
    decoded = through_format(values, make("int8"))
    for row, back in zip(values.tolist(), decoded.tolist(), strict=True):
        low, high = min(row), max(row)
        offset, scale = (high + low) / 2, (high - low) / 254
        for z, z_back in zip(row, back, strict=True):
            assert z_back == pytest.approx(offset + round((z - offset) / scale) * scale, abs=2e-6)
    half_a_step = (values.amax(1) - values.amin(1)) / 254 / 2
    assert ((decoded - values).abs().amax(1) <= half_a_step * 1.0001).all()
    assert torch.equal(decoded.argmax(1), values.argmax(1))


def test_int8_rows_without_a_range():
    values = torch.tensor([[3.25, 3.25, 3.25], [0.0, 0.0, 0.0], [1e-45, 0.0, 0.0]])
    expected = torch.tensor([[3.25] * 3, [0.0] * 3, [0.0] * 3])
    assert torch.equal(through_format(values, make("int8", 3)), expected)


def test_topk_by_hand():
    # Of the equal 2s the lower class is kept; the others are 2, 1, -9, and their mean is -2.
    topk = make("topk", 6, 3)
    stored = topk.encode(torch.tensor([[1.0, 2.0, 8.0, 2.0, -9.0, 5.0]]))
    assert stored["classes"].tolist() == [[2, 5, 1]]
    assert stored["logits"].tolist() == [[8.0, 5.0, 2.0]]
    assert stored["rest"].tolist() == [-2.0]
    assert topk.decode(stored).tolist() == [[-2.0, 2.0, 8.0, -2.0, -2.0, 5.0]]


@pytest.mark.parametrize("top_k", [1, 4, 39, 40])
def test_topk_against_a_slow_loop(top_k):
    values = logits()
    decoded = through_format(values, make("topk", CLASSES, top_k))
    for row, back in zip(values.half().tolist(), decoded.tolist(), strict=True):
        kept = sorted(range(CLASSES), key=lambda c, row=row: (-row[c], c))[:top_k]
        others = [z for c, z in enumerate(row) if c not in kept]
        rest = math.fsum(others) / len(others) if others else None
        expected = [z if c in kept else pytest.approx(rest, rel=1e-7) for c, z in enumerate(row)]
        assert back == expected
    if top_k == CLASSES:
        assert torch.equal(decoded, through_format(values, make("fp16")))


def test_topk_mean_depends_on_no_order():
    values = logits(4, 3000) * 50
    shuffled = values[:, torch.randperm(3000, generator=torch.Generator().manual_seed(1))]
    stored, other = (make("topk", 3000, 10).encode(v) for v in (values, shuffled))
    assert torch.equal(stored["rest"], other["rest"])
    assert torch.equal(stored["logits"], other["logits"])


@pytest.mark.parametrize(("classes", "dtype"), [(2**15, torch.int16), (2**15 + 1, torch.int32)])
def test_topk_class_numbers_are_wide_enough(classes, dtype):
    values = torch.zeros(1, classes)
    values[0, -1] = 1.0
    stored = make("topk", classes, 1).encode(values)
    assert stored["classes"].item() == classes - 1
    assert stored["classes"].dtype == dtype
    assert torch.equal(make("topk", classes, 1).decode(stored), values)


@pytest.mark.parametrize("name", LABEL_FORMATS)
def test_a_row_does_not_depend_on_its_batch_or_on_threads(name):
    values, number_format = logits(50, 1000), make(name, 1000, 100)
    whole = through_format(values, number_format)
    alone = [through_format(values[i : i + 1], number_format) for i in range(50)]
    assert torch.equal(torch.cat(alone), whole)
    torch.set_num_threads(1)
    assert torch.equal(through_format(values, number_format), whole)
    assert torch.equal(through_format(values.t().contiguous().t(), number_format), whole)


@pytest.mark.gpu
@pytest.mark.parametrize("name", LABEL_FORMATS)
def test_a_gpu_gives_the_same_bits(name):
    values, number_format = logits(50, 1000), make(name, 1000, 100)
    on_gpu = through_format(values.cuda(), number_format).cpu()
    assert torch.equal(on_gpu, through_format(values, number_format))


@pytest.mark.parametrize("name", LABEL_FORMATS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_so(name, bad):
    values = logits(3)
    values[1, 7] = bad
    stored = make(name).encode(values)
    finite = [torch.isfinite(t).view(3, -1).all(1) for t in stored.values()
              if t.is_floating_point()]
    assert torch.stack(finite).all(0).tolist() == [True, False, True]
    decoded = make(name).decode(stored)
    assert torch.isfinite(decoded).all(1).tolist() == [True, False, True]


@pytest.mark.parametrize(("name", "count"),
                         [("fp16", 80), ("fp32", 160), ("int8", 48), ("topk", 20)])
def test_bytes_per_row(name, count):
    stored = make(name).encode(logits())
    assert make(name).bytes_per_row == count
    assert sum(tensor.nbytes for tensor in stored.values()) == 9 * count


def test_errors_fall_with_bytes():
    values = logits(50, 1000)
    error = {name: (through_format(values, make(name, 1000, 500)) - values).norm().item()
             for name in LABEL_FORMATS}
    assert error["fp32"] == 0 < error["fp16"] < error["int8"] < error["topk"]


def test_refused():
    with pytest.raises(UserError, match="how many logits of a row are kept. Give --label-top-k"):
        label_format("topk", 10)
    with pytest.raises(UserError, match="--label-top-k 11: there are 10 classes. Give at most 10"):
        label_format("topk", 10, 11)
    with pytest.raises(UserError, match="--label-top-k 3 is not read with --label-format int8"):
        label_format("int8", 10, 3)
    with pytest.raises(KeyError, match="int4"):
        label_format("int4", 10)
