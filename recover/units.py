"""Units of work: an IPC slice cut into chunks of classes, each optimised alone ("cross-class batch", paper 3.4)."""

from dataclasses import dataclass

from utils.errors import UserError


@dataclass(frozen=True)
class Unit:
    """One image of each of some classes.

    ipc_id: the slice. chunk: its number in the slice. number: its place among all units of the run, slice by slice.
    classes: class indices in class order. steps: of optimisation. bn_teachers: theta_1 first.
    """

    ipc_id: int
    chunk: int
    number: int
    classes: tuple
    steps: int
    logit_teacher: str
    bn_teachers: tuple

    @property
    def name(self):
        return f"slice{self.ipc_id:05d}_chunk{self.chunk:03d}"


def cut_chunks(classes, batch_size):
    """Cut class indices, in order, into chunks of batch_size.

    A last chunk of a single image has no batch statistics to speak of: it joins the chunk before it.
    """
    chunks = [tuple(classes[i : i + batch_size]) for i in range(0, len(classes), batch_size)]
    if len(chunks) > 1 and len(chunks[-1]) == 1 < batch_size:
        chunks[-2:] = [chunks[-2] + chunks[-1]]
    return chunks


def classes_of_slice(ipc_id, available, names, allow_short):
    """Class indices that have an image for this slice.

    available: number of real images per class, or None where none are needed. A class with too few is refused, or left
    out of the slice with allow_short (the paper's IPC of about 1200 needs it). names: of the classes.
    """
    if available is None:
        return list(range(len(names)))
    enough = [c for c in range(len(names)) if available[c] > ipc_id]
    if len(enough) < len(names) and not allow_short:
        short = next(c for c in range(len(names)) if available[c] <= ipc_id)
        raise UserError(f"class {names[short]} has {available[short]} images, IPC slice {ipc_id} needs {ipc_id + 1}. "
                        "Lower --ipc-end, add images, or give --allow-short-classes to leave such classes out of the "
                        "slices they cannot fill.")
    return enough


def build_units(ipc_end, batch_size, available, names, allow_short, steps_of, teachers_of):
    """All units of the slices 0 ... ipc_end - 1, slice by slice.

    steps_of(ipc_id) -> steps; teachers_of(ipc_id) -> (logit_teacher, bn_teachers).
    """
    units = []
    for ipc_id in range(ipc_end):
        logit_teacher, bn_teachers = teachers_of(ipc_id)
        chunks = cut_chunks(classes_of_slice(ipc_id, available, names, allow_short), batch_size)
        for chunk, classes in enumerate(chunks):
            units.append(Unit(ipc_id, chunk, len(units), classes, steps_of(ipc_id), logit_teacher, tuple(bn_teachers)))
    return units


def group_units(units, units_per_step):
    """Units that share forwards, by their number: the groups do not depend on ranks or on what is finished already."""
    groups = {}
    for unit in units:
        groups.setdefault(unit.number // units_per_step, []).append(unit)
    return list(groups.values())
