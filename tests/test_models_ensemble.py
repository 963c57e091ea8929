import pytest
import torch

from models.ensemble import RULES, Ensemble, equal_energy, mean, primary_half, single
from models.names import ENSEMBLE_RULES
from models.networks import build
from utils.errors import UserError
from utils.precision import Arithmetic


def logits(teachers=3, images=4, classes=5):
    Z = torch.randn(teachers, images, classes, dtype=torch.float64,
                    generator=torch.Generator().manual_seed(0))
    return Z * torch.tensor([1.0, 7.0, 0.3], dtype=torch.float64)[:teachers].view(-1, 1, 1)


def close(found, expected):
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12,
                               atol=1e-12)


def test_the_names_that_options_offer_are_the_rules():
    assert tuple(RULES) == ENSEMBLE_RULES


def test_equal_energy_against_a_slow_loop():
    Z = logits()
    K, B, C = Z.shape
    n = [sum(float(z) ** 2 for z in Z[k].flatten()) ** 0.5 for k in range(K)]
    close(equal_energy(Z), [[sum(float(Z[k, b, c]) * (sum(n) / K) / n[k] for k in range(K)) / K
                             for c in range(C)] for b in range(B)])


def test_equal_energy_by_hand():
    # norms 5 and 10, mean 7.5: (3, 4) * 1.5 = (4.5, 6) and (0, 10) * 0.75 = (0, 7.5)
    Z = torch.tensor([[[3.0, 4.0]], [[0.0, 10.0]]], dtype=torch.float64)
    assert equal_energy(Z).tolist() == [[2.25, 6.75]]


def test_primary_half_against_a_slow_loop():
    Z = logits()
    K, B, C = Z.shape
    w = [[float(Z[0, b, c]) / 2 + sum(float(Z[k, b, c]) for k in range(1, K)) / (2 * (K - 1))
          for c in range(C)] for b in range(B)]
    n = [sum(v * v for v in row) ** 0.5 for row in w]
    close(primary_half(Z), [[v * (sum(n) / B) / n[b] for v in w[b]] for b in range(B)])


def test_primary_half_by_hand():
    Z = torch.tensor([[[6.0, 0.0], [18.0, 0.0]], [[0.0, 6.0], [0.0, 18.0]],
                      [[0.0, 10.0], [0.0, 30.0]]], dtype=torch.float64)
    # w_0 = (6, 0)/2 + ((0, 6) + (0, 10))/4 = (3, 4), norm 5; w_1 = (9, 12), norm 15; mean norm 10
    close(primary_half(Z), [[6.0, 8.0], [6.0, 8.0]])


def test_mean_and_single_and_order():
    Z = logits()
    torch.testing.assert_close(mean(Z), (Z[0] + Z[1] + Z[2]) / 3)
    assert torch.equal(single(Z), Z[0])
    swapped = Z[[1, 0, 2]]
    torch.testing.assert_close(equal_energy(swapped), equal_energy(Z))
    assert not torch.allclose(primary_half(swapped), primary_half(Z))


@pytest.fixture(scope="module")
def teachers():
    return [build("shufflenet_v2_x0_5", 4, seed=("ensemble", i)).eval() for i in range(3)]


@pytest.fixture(scope="module")
def batch():
    return torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("rule", RULES)
def test_an_ensemble_applies_its_rule_to_the_whole_batch(teachers, batch, rule):
    labels = Ensemble(teachers, rule)(batch)
    with torch.no_grad():
        expected = RULES[rule](torch.stack([t(batch) for t in teachers]))
    assert labels.dtype == torch.float32
    assert not labels.requires_grad
    torch.testing.assert_close(labels, expected)


def test_each_teacher_runs_once_and_single_runs_the_primary_alone(teachers, batch):
    calls = []
    hooks = [t.register_forward_hook(lambda *_, i=i: calls.append(i))
             for i, t in enumerate(teachers)]
    Ensemble(teachers, "mean")(batch)
    Ensemble(teachers, "single")(batch)
    for hook in hooks:
        hook.remove()
    assert calls == [0, 1, 2, 0]


def test_bf16_is_autocast_and_fp32_stays_so_inside_of_it(teachers, batch):
    plain = Ensemble(teachers, "mean")(batch)
    bf16 = Ensemble(teachers, "mean", Arithmetic("bf16"))(batch)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = torch.stack([t(batch) for t in teachers]).float().mean(0)
        assert torch.equal(Ensemble(teachers, "mean")(batch), plain)
    assert bf16.dtype == torch.float32
    assert torch.equal(bf16, expected)
    assert not torch.equal(bf16, plain)


def test_bad_ensembles(teachers):
    with pytest.raises(UserError, match="equal_energy, primary_half, mean, single"):
        Ensemble(teachers, "average")
    with pytest.raises(UserError, match="at least two"):
        Ensemble(teachers[:1], "primary_half")
    with pytest.raises(UserError, match="found none"):
        Ensemble([], "mean")
    with pytest.raises(UserError, match=r"shufflenet_v2_x0_5 4, .* shufflenet_v2_x0_5 3"):
        Ensemble([*teachers, build("shufflenet_v2_x0_5", 3)], "mean")
