import pytest

from recover.units import build_units, classes_of_slice, cut_chunks, group_units
from utils.errors import UserError
from utils.schedules import recover_steps

NAMES = [f"c{i}" for i in range(7)]


def units(ipc_end=3, batch_size=3, available=None, allow_short=False):
    return build_units(ipc_end, batch_size, available, NAMES, allow_short, lambda i: recover_steps(i, 8), lambda _: ("p", ["p"]))


def test_chunks_in_class_order():
    assert cut_chunks(list(range(8)), 3) == [(0, 1, 2), (3, 4, 5), (6, 7)]
    assert cut_chunks(list(range(7)), 3) == [(0, 1, 2), (3, 4, 5, 6)]  # no chunk of a single image
    assert cut_chunks(list(range(3)), 1) == [(0,), (1,), (2,)]
    assert cut_chunks([4], 3) == [(4,)]
    assert [len(c) for c in cut_chunks(list(range(1000)), 100)] == [100] * 10


def test_units_number_slices_and_steps():
    found = units()
    assert [u.name for u in found[:3]] == ["slice00000_chunk000", "slice00000_chunk001", "slice00001_chunk000"]
    assert [u.number for u in found] == list(range(6))
    assert [u.steps for u in found] == [8, 8, 7, 7, 6, 6]


def test_short_classes_refused_or_left_out_before_cutting():
    available = [3, 3, 3, 1, 3, 3, 3]
    with pytest.raises(UserError, match="class c3 has 1 images, IPC slice 1 needs 2.*--allow-short-classes"):
        units(available=available)
    found = units(available=available, allow_short=True)
    assert found[0].classes == (0, 1, 2)
    assert [u.classes for u in found if u.ipc_id == 1] == [(0, 1, 2), (4, 5, 6)]
    assert classes_of_slice(9, available, NAMES, True) == []


def test_groups_do_not_depend_on_the_range_asked_for():
    longer = group_units(units(ipc_end=4), 3)
    shorter = group_units(units(ipc_end=3), 3)
    assert [[u.number for u in g] for g in shorter] == [[0, 1, 2], [3, 4, 5]]
    assert longer[:2] == shorter
