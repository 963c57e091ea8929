"""Units of work: batches of images that are optimised alone, each with its own Adam and its own cosine.

slice layout (paper 3.4, "cross-class batch"): an IPC slice, one image of every class, cut into chunks of classes.
class layout (G-VBSM, EDC, DELT): all images of a class, then of the next, cut into batches.
"""

from dataclasses import dataclass

from recover.teacher_pool import TeacherLaw, Teachers
from utils.errors import UserError

PREVIEWS = 20  # slices, or batches of the class layout, that get a preview; pictures of a thousand would outweigh the images


@dataclass(frozen=True)
class Unit:
    """A batch of images.

    name: of its files. number: its place among all units of the run. where: of its random streams, (ipc_id, chunk) or
    ("batch", number). classes, ipc_ids: of every image. joins: step at which every image joins (EarlyLate), None for 0.
    steps: of optimisation. fixed: its Teachers, None where they change from step to step: then law and drawn_at decide.
    preview: name of its preview picture, or None.
    """

    name: str
    number: int
    where: tuple
    classes: tuple
    ipc_ids: tuple
    steps: int
    law: TeacherLaw
    drawn_at: tuple
    fixed: Teachers | None = None
    joins: tuple | None = None
    preview: str | None = None

    def teachers(self, step):
        """The Teachers of a step."""
        return self.fixed or self.law.at(*self.drawn_at, step=step)

    def joined(self, step):
        """How many images take part in a step."""
        return len(self.classes) if self.joins is None else sum(join <= step for join in self.joins)

    def image_steps(self, first=0):
        """Work from step `first` on: the steps of all images, from when they join."""
        return sum(max(0, self.steps - max(join, first)) for join in self.joins or (0,) * len(self.classes))

    @property
    def possible(self):
        """Names of all nets that may guide it; those it cannot use are among them where teachers change from step to step."""
        return {self.fixed.logit, *self.fixed.bn} if self.fixed else set(self.law.everyone)


def cut_chunks(items, batch_size):
    """Cut items, in order, into chunks of batch_size.

    A last chunk of a single image has no batch statistics to speak of: it joins the chunk before it.
    """
    chunks = [tuple(items[i : i + batch_size]) for i in range(0, len(items), batch_size)]
    if len(chunks) > 1 and len(chunks[-1]) == 1 < batch_size:
        chunks[-2:] = [chunks[-2] + chunks[-1]]
    return chunks


def classes_of_slice(ipc_id, available, names, allow_short):
    """Class indices that have an image for this slice.

    available: number of start images per class, or None where none are needed. A class with too few is refused, or left
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


def build_slices(ipc_end, batch_size, available, names, allow_short, steps_of, law):
    """Units of the slices 0 ... ipc_end - 1, slice by slice. steps_of(ipc_id) -> steps.

    Where every image draws its own teachers, images of a slice that drew alike share batches.
    """
    units = []
    for ipc_id in range(ipc_end):
        classes, alike = classes_of_slice(ipc_id, available, names, allow_short), {}
        for c in classes:
            drawn_at = (ipc_id, c) if law.drawn_per == "image" else (ipc_id,)
            alike.setdefault(None if law.changes else law.at(*drawn_at), []).append(c)
        chunks = [(teachers, chunk) for teachers, members in alike.items() for chunk in cut_chunks(members, batch_size)]
        for chunk, (teachers, members) in enumerate(chunks):
            units.append(Unit(f"slice{ipc_id:05d}_chunk{chunk:03d}", len(units), (ipc_id, chunk), members,
                              (ipc_id,) * len(members), steps_of(ipc_id), law, (ipc_id,), teachers,
                              preview=f"slice{ipc_id:05d}" if chunk == 0 and ipc_id < PREVIEWS else None))
    return units


def build_class_batches(ipc, batch_size, available, names, allow_short, steps, early_late, law):
    """Units of consecutive images, class by class. early_late: groups of a class that join one after the other, 0 for none."""
    images, joins = [], []
    enough = [set(classes_of_slice(i, available, names, allow_short)) for i in range(ipc)]
    for c in range(len(names)):
        ids = [i for i in range(ipc) if c in enough[i]]
        images += [(c, i) for i in ids]
        joins += join_steps(len(ids), early_late, steps)
    units, start = [], 0
    for number, chunk in enumerate(cut_chunks(images, batch_size)):
        late, start = tuple(joins[start : start + len(chunk)]), start + len(chunk)
        units.append(Unit(f"batch{number:05d}", number, ("batch", number), tuple(c for c, _ in chunk), tuple(i for _, i in chunk),
                          steps, law, ("batch", number), None if law.changes else law.at("batch", number),
                          late if any(late) else None, preview=f"batch{number:05d}" if number < PREVIEWS else None))
    return units


def group_sizes(count, groups):
    """Sizes of the groups that a class's images are split into: they differ by one, larger first (DELT)."""
    small, larger = divmod(count, groups)
    return [small + 1] * larger + [small] * (groups - larger)


def join_steps(count, groups, steps):
    """Step at which each of a class's images joins: group k = 1 ... K at step (k - 1) steps / K (EarlyLate, DELT).

    With one image per class, or without groups, all join at step 0.
    """
    if not groups or count == 1:
        return [0] * count
    return [k * steps // groups for k, size in enumerate(group_sizes(count, groups)) for _ in range(size)]


def group_units(units, units_per_step):
    """Units that share forwards, by their number: the groups do not depend on ranks or on what is finished already."""
    groups = {}
    for unit in units:
        groups.setdefault(unit.number // units_per_step, []).append(unit)
    return list(groups.values())
