import pytest

from recover.options import Options, TeacherLaw
from recover.presets import PRESETS
from recover.teacher_pool import TeacherDraws
from recover.units import (
    classes_of_slice,
    cut,
    frame_steps,
    in_one_step,
    join_steps,
    plan_units,
)
from utils.errors import UserError
from utils.options import from_values

NAMES = [f"c{i}" for i in range(7)]
LAW = {"primary_teacher": "p", "bn_teachers": (), "decoupling": "single"}


def slices(ipc_end=3, batch_size=3, available=None, allow_short=False, **law):
    options = {**LAW, **law, "ipc_end": ipc_end, "batch_size": batch_size, "iteration": 8,
               "allow_short_classes": allow_short}
    return plan_units(from_values(Options, options, PRESETS), available, NAMES)


def by_class(ipc=3, batch_size=6, available=None, allow_short=False, early_late=0):
    options = {**LAW, "ipc_end": ipc, "batch_size": batch_size, "iteration": 80,
               "allow_short_classes": allow_short, "early_late": early_late,
               "batch_layout": "class", "steps": "constant"}
    return plan_units(from_values(Options, options, PRESETS), available, NAMES)


def test_units_are_cut_in_class_order():
    assert cut(list(range(8)), 3) == [(0, 1, 2), (3, 4, 5), (6, 7)]
    assert cut(list(range(7)), 3) == [(0, 1, 2), (3, 4, 5, 6)]  # no chunk of a single image
    assert cut(list(range(3)), 1) == [(0,), (1,), (2,)]
    assert cut([4], 3) == [(4,)]
    assert [len(c) for c in cut(list(range(1000)), 100)] == [100] * 10


def test_units_number_slices_and_steps():
    units = slices()
    names = ["slice00000_chunk000", "slice00000_chunk001", "slice00001_chunk000"]
    assert [u.name for u in units[:3]] == names
    assert [u.number for u in units] == list(range(6))
    assert [u.key for u in units[:3]] == [(0, 0), (0, 1), (1, 0)]
    assert [u.steps for u in units] == [8, 8, 7, 7, 6, 6]
    assert units[3].ipc_ids == (1,) * 4
    assert [u.preview for u in units[:3]] == ["slice00000", None, "slice00001"]
    assert sum(u.preview is not None for u in slices(ipc_end=30)) == 20


def test_short_classes_refused_or_left_out_before_cutting():
    available = [3, 3, 3, 1, 3, 3, 3]
    message = "class c3 has 1 images, IPC slice 1 needs 2.*--allow-short-classes"
    with pytest.raises(UserError, match=message):
        slices(available=available)
    units = slices(available=available, allow_short=True)
    assert units[0].classes == (0, 1, 2)
    assert [u.classes for u in units if u.ipc_ids[0] == 1] == [(0, 1, 2), (4, 5, 6)]
    assert classes_of_slice(9, available, NAMES, True) == []
    with pytest.raises(UserError, match="class c3 has 1 images"):
        by_class(available=available)
    short = by_class(available=available, allow_short=True)
    assert sum(len(u.classes) for u in short) == 6 * 3 + 1


def test_class_units_are_consecutive_images():
    units = by_class()
    assert [len(u.classes) for u in units] == [6, 6, 6, 3]
    assert units[0].classes == (0, 0, 0, 1, 1, 1)
    assert units[0].ipc_ids == (0, 1, 2, 0, 1, 2)
    assert [u.name for u in units][:2] == ["batch00000", "batch00001"]
    assert units[1].key == ("batch", 1)
    assert {u.steps for u in units} == {80}
    assert {u.joins for u in units} == {None}


def test_early_late_groups_and_join_steps():
    """DELT: 8 groups, larger ones first; group k joins at step 500 (k - 1) of 4000."""
    assert join_steps(3, 8, 4000) == [0, 500, 1000]
    assert [join_steps(50, 8, 4000).count(500 * k) for k in range(8)] == [7, 7, 6, 6, 6, 6, 6, 6]
    assert join_steps(10, 8, 4000) == [0, 0, 500, 500, 1000, 1500, 2000, 2500, 3000, 3500]
    assert join_steps(1, 8, 4000) == [0]  # one image per class: no groups
    assert join_steps(5, 0, 4000) == [0] * 5
    units = by_class(ipc=4, batch_size=6, early_late=4)  # a class that is cut keeps its groups
    assert units[0].joins == (0, 20, 40, 60, 0, 20)
    assert units[1].joins == (40, 60, 0, 20, 40, 60)


def test_images_that_drew_alike_share_units():
    law = TeacherLaw("p", ("a", "b"), drawn_per="image")
    draws = TeacherDraws(law, 3)
    units = slices(ipc_end=4, batch_size=2, bn_teachers=("a", "b"), decoupling="multi",
                   drawn_per="image", seed=3)
    drawn = {}
    for unit in units:
        for c, i in zip(unit.classes, unit.ipc_ids, strict=True):
            assert unit.fixed == draws.at(i, c)
            drawn[c, i] = unit.fixed
    assert len(drawn) == 28
    for i in range(4):  # units of two classes per set of teachers, in whatever order it was drawn
        sets = [frozenset(u.fixed.bn) for u in units if u.ipc_ids[0] == i]
        members = {s: sum(frozenset(drawn[c, i].bn) == s for c in range(7)) for s in sets}
        assert len(sets) == sum(len(cut(range(n), 2)) for n in members.values())
    assert len({drawn[c, 0] for c in range(7)}) > 1
    names = [u.name for u in units if u.ipc_ids[0] == 1]
    assert names[:2] == ["slice00001_chunk000", "slice00001_chunk001"]


def test_units_in_one_step_do_not_depend_on_the_range_asked_for():
    longer = in_one_step(slices(ipc_end=4), 3)
    shorter = in_one_step(slices(ipc_end=3), 3)
    assert [[u.number for u in g] for g in shorter] == [[0, 1, 2], [3, 4, 5]]
    assert longer[:2] == shorter


def test_absurd_numbers_of_images_are_refused_at_once():
    message = "--ipc-end 1000000000: 7,000,000,000 images of 7 classes, expected at most 10,000,000"
    for plan in (lambda: slices(ipc_end=10**9), lambda: by_class(ipc=10**9)):
        with pytest.raises(UserError, match=message):
            plan()
    with pytest.raises(UserError, match="class c0 has 2 images, IPC slice 2 needs 3"):
        slices(ipc_end=10**9, available=[2] * 7)
    short = slices(ipc_end=10**9, available=[2] * 6 + [1], allow_short=True)
    assert short == slices(ipc_end=2, available=[2] * 6 + [1], allow_short=True)


def test_frames_are_evenly_spaced():
    assert frame_steps(100, 4) == {0, 25, 50, 75, 100}
    assert frame_steps(7, 3) == {0, 2, 4, 7}
    assert frame_steps(2, 5) == {0, 1, 2}
    assert frame_steps(0, 5) == {0}
    assert frame_steps(100, 0) == set()
