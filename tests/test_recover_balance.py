from types import SimpleNamespace

import pytest

from recover import balance
from recover.options import Losses
from recover.teacher_pool import Teachers


def test_mean_addends_of_steps_with_other_teachers():
    rows = [{"a": 2.0, "b": 1.0}, {"a": 4.0}, {"c": 3.0}]
    assert balance.mean_addends(rows) == {"a": 2.0, "b": pytest.approx(1 / 3), "c": 1.0}
    assert balance.mean_addends([]) == {}


def test_addends_are_weighted_as_in_the_loss():
    terms = {"ce": 2.0, "bn a": 300.0, "bn b": 50.0, "density": 9.0}
    assert balance.bn_addends(terms, Losses(r_bn=0.01), 4) == pytest.approx(
        {"a": 0.75, "b": 0.125})
    assert balance.bn_addends(terms, Losses(r_bn=0.01, bn_terms="sum"), 4) == pytest.approx(
        {"a": 3.0, "b": 0.5})


@pytest.mark.parametrize(("ce", "bn", "outweighs"), [
    (2.8, 49.0, True), (2.8, 40.0, False), (0.6, 71.0, True),
    (0.05, 5.0, False),  # a hundred times as much, but of images that are recognised
])
def test_the_bn_term_outweighs_the_cross_entropy(ce, bn, outweighs):
    assert balance.bn_outweighs(ce, bn) == outweighs


@pytest.mark.parametrize(("bn", "largest"), [
    ({}, None), ({"a": 5.0}, None), ({"a": 14.0, "b": 1.0}, None),
    ({"a": 1.0, "b": 31.0, "c": 1.0}, "b"), ({"a": 29.0, "b": 1.0, "c": 1.0}, None),
])
def test_a_teacher_outweighs_all_others(bn, largest):
    assert balance.dominant(bn) == largest


def noted(ce, distances, **weights):
    """The note for a unit whose steps all have these terms."""
    teachers = Teachers("lite", tuple(distances))
    terms = {"ce": ce, **{f"bn {name}": value for name, value in distances.items()}}
    state = SimpleNamespace(unit=SimpleNamespace(teachers=lambda _: teachers),
                            log=SimpleNamespace(latest=[(8, terms), (9, terms)]))
    alignments = {name: SimpleNamespace(layers=50) for name in distances}
    return balance.note(state, alignments, Losses(**weights))


def test_the_note_gives_the_numbers_and_names_the_options():
    assert noted(2.8, {"lite": 200.0}) is None
    heavy = noted(2.8, {"lite": 4900.0})
    assert "the BN term is 49.0 and the cross-entropy 2.8" in heavy
    assert "--bn-normalise layers divides" in heavy
    assert "--r-bn (found 0.01)" in heavy
    assert "--bn-normalise" not in noted(2.8, {"lite": 4900.0}, bn_normalise="layers")
    lone = noted(0.5, {"lite": 4200.0, "resnet18": 60.0, "alexnet": 0.0})
    assert "the BN term of lite is 14 and that of all other teachers 0.2," in lone
    assert "leave it out of --bn-teachers" in lone
