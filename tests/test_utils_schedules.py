import math

import pytest

from utils import schedules


@pytest.mark.parametrize(("epoch", "factor"), [(0, 1.0), (250, 0.75), (251, 0.1225), (299, 0.0025)])
def test_ssrs_at_the_epochs_of_the_paper(epoch, factor):
    assert schedules.ssrs(epoch, 300, 2.5) == pytest.approx(factor, abs=1e-12)


def test_ssrs_inside_its_cosine_piece():
    # 1/2 (1 + cos(pi 125 / 750)) = 1/2 (1 + cos 30 degrees)
    assert schedules.ssrs(125, 300, 2.5) == pytest.approx(0.5 * (1 + math.sqrt(3) / 2), abs=1e-12)
    # zeta 5: the knee is 1/2 (1 + cos 30 degrees), and the last piece at epoch 299 a 300th of it
    knee = 0.5 * (1 + math.sqrt(3) / 2)
    assert schedules.ssrs(250, 300, 5.0) == pytest.approx(knee, abs=1e-12)
    assert schedules.ssrs(299, 300, 5.0) == pytest.approx(knee / 300, abs=1e-12)


def test_ssrs_continuous_has_no_jump():
    assert schedules.ssrs_continuous(250, 300) == pytest.approx(0.75, abs=1e-12)
    assert schedules.ssrs_continuous(251, 300) == pytest.approx(0.75 * 294 / 300, abs=1e-12)
    assert schedules.ssrs_continuous(299, 300) == pytest.approx(0.75 * 6 / 300, abs=1e-12)
    assert schedules.ssrs_continuous(100, 300) == schedules.ssrs(100, 300)


@pytest.mark.parametrize(("name", "values"), [
    ("cosine", {0: 1.0, 100: 0.75, 150: 0.5, 200: 0.25}),
    ("half_cosine", {0: 1.0, 150: 0.5 * (1 + math.sqrt(0.5)), 200: 0.75}),
    ("linear", {0: 1.0, 150: 0.5, 299: 1 / 300}),
    ("step", {0: 1.0, 99: 1.0, 100: 0.1, 199: 0.1, 200: 0.01, 299: 0.01}),
])
def test_other_schedules_by_hand(name, values):
    for epoch, factor in values.items():
        assert schedules.STUDENT[name](epoch, 300) == pytest.approx(factor, abs=1e-12)


@pytest.mark.parametrize("name", sorted(schedules.STUDENT))
def test_every_schedule_starts_at_one_and_never_rises(name):
    for epochs in (1, 2, 7, 300):
        factors = [schedules.STUDENT[name](epoch, epochs) for epoch in range(epochs)]
        assert factors[0] == 1
        assert factors == sorted(factors, reverse=True)
        assert factors[-1] > 0


def test_recover_steps_of_the_first_slices():
    steps = [schedules.recover_steps(i, 4000) for i in range(10)]
    assert steps == [4000, 3500, 3000, 2500, 2000, 1500, 1000, 500, 4000, 3500]
    assert schedules.recover_steps(5, 4000, varied=False) == 4000
    assert schedules.recover_steps(7, 1) == 1  # never no step at all
    assert schedules.recover_steps(7, 0) == 0


@pytest.mark.parametrize(("ipc", "mean"), [(10, 2550), (50, 2310), (100, 2290)])
def test_mean_recover_steps_of_the_paper(ipc, mean):
    assert sum(schedules.recover_steps(i, 4000) for i in range(ipc)) / ipc == mean


@pytest.mark.parametrize("kind", sorted(schedules.CROP))
def test_crop_curricula_of_cda(kind):
    """linear: 0.08 + 0.92 (1 - t/(mT)). cosine: 0.08 + 0.46 (1 + cos(pi t/(mT))). step: 1.

    From mT on 0.08.
    """
    steps = 4000
    for milestone in (1.0, 0.5, 0.8):
        for t in range(0, steps, 250):
            u = t / (milestone * steps)
            by_hand = {"linear": 0.08 + 0.92 * (1 - u), "step": 1.0, "constant": 0.08,
                       "cosine": 0.08 + 0.46 * (1 + math.cos(math.pi * u))}[kind]
            area = schedules.crop_area(kind, t, steps, 0.08, milestone)
            assert math.isclose(area, by_hand if u < 1 else 0.08, rel_tol=1e-12)


def test_milestones_by_hand():
    thirds = [schedules.milestones(epoch, 100, ((2, 3), (5, 6)), 0.2) for epoch in range(100)]
    assert thirds == pytest.approx([1.0] * 66 + [0.2] * 17 + [0.04] * 17)
    half = [schedules.milestones(epoch, 5, ((1, 2),), 0.1) for epoch in range(5)]
    assert half == pytest.approx([1, 1, 0.1, 0.1, 0.1])
