import pytest

from recover.teacher_pool import TeacherLaw
from recover.units import (
    build_class_batches,
    build_slices,
    classes_of_slice,
    cut_chunks,
    group_sizes,
    group_units,
    join_steps,
)
from utils.errors import UserError
from utils.schedules import recover_steps

NAMES = [f"c{i}" for i in range(7)]
ALONE = TeacherLaw("p", (), decoupling="single")


def slices(ipc_end=3, batch_size=3, available=None, allow_short=False, law=ALONE):
    return build_slices(ipc_end, batch_size, available, NAMES, allow_short, lambda i: recover_steps(i, 8), law)


def by_class(ipc=3, batch_size=6, available=None, allow_short=False, early_late=0, steps=80):
    return build_class_batches(ipc, batch_size, available, NAMES, allow_short, steps, early_late, ALONE)


def test_chunks_in_class_order():
    assert cut_chunks(list(range(8)), 3) == [(0, 1, 2), (3, 4, 5), (6, 7)]
    assert cut_chunks(list(range(7)), 3) == [(0, 1, 2), (3, 4, 5, 6)]  # no chunk of a single image
    assert cut_chunks(list(range(3)), 1) == [(0,), (1,), (2,)]
    assert cut_chunks([4], 3) == [(4,)]
    assert [len(c) for c in cut_chunks(list(range(1000)), 100)] == [100] * 10


def test_units_number_slices_and_steps():
    found = slices()
    assert [u.name for u in found[:3]] == ["slice00000_chunk000", "slice00000_chunk001", "slice00001_chunk000"]
    assert [u.number for u in found] == list(range(6))
    assert [u.where for u in found[:3]] == [(0, 0), (0, 1), (1, 0)]
    assert [u.steps for u in found] == [8, 8, 7, 7, 6, 6]
    assert found[3].ipc_ids == (1,) * 4
    assert [u.preview for u in found[:3]] == ["slice00000", None, "slice00001"]
    assert sum(u.preview is not None for u in slices(ipc_end=30)) == 20  # a thousand pictures would outweigh the images


def test_short_classes_refused_or_left_out_before_cutting():
    available = [3, 3, 3, 1, 3, 3, 3]
    with pytest.raises(UserError, match="class c3 has 1 images, IPC slice 1 needs 2.*--allow-short-classes"):
        slices(available=available)
    found = slices(available=available, allow_short=True)
    assert found[0].classes == (0, 1, 2)
    assert [u.classes for u in found if u.ipc_ids[0] == 1] == [(0, 1, 2), (4, 5, 6)]
    assert classes_of_slice(9, available, NAMES, True) == []
    with pytest.raises(UserError, match="class c3 has 1 images"):
        by_class(available=available)
    short = by_class(available=available, allow_short=True)
    assert sum(len(u.classes) for u in short) == 6 * 3 + 1


def test_class_batches_are_consecutive_images():
    found = by_class()
    assert [len(u.classes) for u in found] == [6, 6, 6, 3]
    assert found[0].classes == (0, 0, 0, 1, 1, 1)
    assert found[0].ipc_ids == (0, 1, 2, 0, 1, 2)
    assert [u.name for u in found][:2] == ["batch00000", "batch00001"]
    assert found[1].where == ("batch", 1)
    assert {u.steps for u in found} == {80}
    assert {u.joins for u in found} == {None}


def test_early_late_groups_and_join_steps():
    """DELT: 8 groups whose sizes differ by one, larger first; group k joins at step 500 (k - 1) of 4000."""
    assert group_sizes(10, 8) == [2, 2, 1, 1, 1, 1, 1, 1]
    assert group_sizes(50, 8) == [7, 7, 6, 6, 6, 6, 6, 6]
    assert group_sizes(3, 8) == [1, 1, 1, 0, 0, 0, 0, 0]
    assert join_steps(10, 8, 4000) == [0, 0, 500, 500, 1000, 1500, 2000, 2500, 3000, 3500]
    assert join_steps(1, 8, 4000) == [0]  # one image per class: no groups
    assert join_steps(5, 0, 4000) == [0] * 5
    found = by_class(ipc=4, batch_size=6, early_late=4)  # a class that is cut keeps its groups
    assert found[0].joins == (0, 20, 40, 60, 0, 20)
    assert found[1].joins == (40, 60, 0, 20, 40, 60)


def test_each_image_its_own_draw_shares_batches_with_those_that_drew_alike():
    law = TeacherLaw("p", ("a", "b"), drawn_per="image", seed=3)
    found = slices(ipc_end=4, batch_size=2, law=law)
    drawn = {}
    for unit in found:
        for c, i in zip(unit.classes, unit.ipc_ids, strict=True):
            assert unit.fixed == law.at(i, c)
            drawn[c, i] = unit.fixed
    assert len(drawn) == 28
    for i in range(4):  # one unit or more of two classes per set of teachers, whatever the order they were drawn in
        sets = [frozenset(u.fixed.bn) for u in found if u.ipc_ids[0] == i]
        members = {s: sum(frozenset(drawn[c, i].bn) == s for c in range(7)) for s in sets}
        assert len(sets) == sum(len(cut_chunks(range(n), 2)) for n in members.values())
    assert len({drawn[c, 0] for c in range(7)}) > 1
    assert [u.name for u in found if u.ipc_ids[0] == 1][:2] == ["slice00001_chunk000", "slice00001_chunk001"]


def test_groups_do_not_depend_on_the_range_asked_for():
    longer = group_units(slices(ipc_end=4), 3)
    shorter = group_units(slices(ipc_end=3), 3)
    assert [[u.number for u in g] for g in shorter] == [[0, 1, 2], [3, 4, 5]]
    assert longer[:2] == shorter
