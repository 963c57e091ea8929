import pytest
import torch

from benchmarks.label_formats import label_errors
from data.label_formats import label_format, through_format


@pytest.mark.parametrize(("name", "top_k"), [("int8", None), ("topk", 2)])
def test_label_errors_against_a_slow_loop(name, top_k):
    z = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)) * 9
    decoded, kl = through_format(z, label_format(name, 6, top_k)), 0.0
    for row, decoded_row in zip(z.double(), decoded.double(), strict=True):
        p, q = (row / 20).softmax(0), (decoded_row / 20).softmax(0)
        kl += sum(float(a * (a / b).log()) for a, b in zip(p, q, strict=True)) / 4

    errors = label_errors(z, decoded, temperature=20.0)
    assert errors["kl"] == pytest.approx(kl, rel=1e-6)
    squares = ((decoded.double() - z.double()) ** 2).sum()
    assert errors["mse"] == pytest.approx(float(squares) / 24)
    assert errors["relative"] == pytest.approx(float(squares.sqrt() / z.norm()), rel=1e-5)
    assert errors["top1"] == 1.0
