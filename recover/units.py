"""Units of work: images that are optimised alone, with their own Adam and their own cosine.

slice layout (paper 3.4, "cross-class batch"): an IPC slice, one image of every class, is cut into
units of consecutive classes. class layout (G-VBSM, EDC, DELT): all images of a class, then of the
next, are cut into units.
"""

from dataclasses import dataclass

from recover.teacher_pool import TeacherDraws, Teachers
from utils import schedules
from utils.errors import UserError

PREVIEWS = 20  # slices, or units of the class layout, that get a preview picture
MOST_IMAGES = 10_000_000  # in a plan, which lies in memory: eight times ImageNet


@dataclass(frozen=True)
class Unit:
    """The images of one unit of work.

    name: of its files. number: its place among all units of the run. key: its place in random
    streams, (ipc_id, chunk) or ("batch", number). classes, ipc_ids: of every image. steps: of
    optimisation. draws, drawn_at: its teachers are draws.at(*drawn_at). fixed: its Teachers, None
    where they change from step to step. joins: step at which every image joins (EarlyLate), None
    for 0. preview: name of its preview picture, or None.
    """

    name: str
    number: int
    key: tuple
    classes: tuple
    ipc_ids: tuple
    steps: int
    draws: TeacherDraws
    drawn_at: tuple
    fixed: Teachers | None = None
    joins: tuple | None = None
    preview: str | None = None

    def teachers(self, step):
        """The Teachers of a step."""
        return self.fixed or self.draws.at(*self.drawn_at, step=step)

    def joined(self, step):
        """How many images take part in a step."""
        if self.joins is None:
            return len(self.classes)
        return sum(join <= step for join in self.joins)

    def image_steps(self, first=0):
        """Work from step `first` on: the steps of all images, from when they join."""
        joins = self.joins or (0,) * len(self.classes)
        return sum(max(0, self.steps - max(join, first)) for join in joins)

    @property
    def possible_logit(self):
        """Names of the networks that may be its logit teacher."""
        return {self.fixed.logit} if self.fixed else self.draws.possible_logit

    @property
    def possible_bn(self):
        """Names of the networks that may be its BN teachers."""
        if self.fixed:
            return set(self.fixed.bn)
        alone = self.draws.law.decoupling == "single"
        return self.draws.possible_logit if alone else set(self.draws.law.everyone)


def plan_units(options, available, class_names):
    """The units of a run; a pure function of its arguments.

    options: recover.options.Options. available: start images of each class, None where there is no
    end of them. Slices below ipc_start are left out, but counted in the numbers of the others.
    Raises UserError when nothing is left, and for more than MOST_IMAGES.
    """
    o, draws = options.optimisation, TeacherDraws(options.law, options.run.seed)
    # From the slice on that no class has an image for, all are empty.
    ipc_end = o.ipc_end if available is None else min(o.ipc_end, max(available) + 1)
    if ipc_end * len(class_names) > MOST_IMAGES:
        raise UserError(f"--ipc-end {o.ipc_end}: {ipc_end * len(class_names):,} images of "
                        f"{len(class_names)} classes, expected at most {MOST_IMAGES:,}. Lower it.")
    slices = [classes_of_slice(ipc_id, available, class_names, options.data.allow_short_classes)
              for ipc_id in range(ipc_end)]
    if o.batch_layout == "class":
        units = class_units(slices, o.batch_size, o.iteration, o.early_late, draws)
    else:
        steps = [schedules.recover_steps(ipc_id, o.iteration, o.steps == "varied")
                 for ipc_id in range(ipc_end)]
        units = [unit for unit in slice_units(slices, o.batch_size, steps, draws)
                 if unit.ipc_ids[0] >= o.ipc_start]
    if not units:
        raise UserError(f"--ipc-start {o.ipc_start}: no class has an image for IPC slice "
                        f"{o.ipc_start} or a later one. Lower --ipc-start, or add images.")
    return units


def classes_of_slice(ipc_id, available, names, allow_short):
    """Class indices that have an image for this slice.

    available: number of start images of each class, or None where none are needed. A class with too
    few is refused, or left out of the slice with allow_short (the paper's IPC of about 1200 needs
    it). names: of the classes.
    """
    if available is None:
        return list(range(len(names)))
    enough = [c for c in range(len(names)) if available[c] > ipc_id]
    if len(enough) < len(names) and not allow_short:
        short = next(c for c in range(len(names)) if available[c] <= ipc_id)
        raise UserError(f"class {names[short]} has {available[short]} images, IPC slice {ipc_id} "
                        f"needs {ipc_id + 1}. Lower --ipc-end, add images, or give "
                        "--allow-short-classes to leave such classes out of the slices they cannot "
                        "fill.")
    return enough


def slice_units(slices, batch_size, steps, draws):
    """Units slice by slice. slices: classes of each slice. steps: of each slice.

    Where every image draws its own teachers, images of a slice that drew alike share units.
    """
    units = []
    for ipc_id, classes in enumerate(slices):
        alike = {}
        for c in classes:
            place = (ipc_id, c) if draws.law.drawn_per == "image" else (ipc_id,)
            alike.setdefault(None if draws.change else draws.at(*place), []).append(c)

        chunks = [(teachers, chunk) for teachers, members in alike.items()
                  for chunk in cut(members, batch_size)]
        for chunk, (teachers, members) in enumerate(chunks):
            preview = f"slice{ipc_id:05d}" if chunk == 0 and ipc_id < PREVIEWS else None
            units.append(Unit(
                name=f"slice{ipc_id:05d}_chunk{chunk:03d}", number=len(units),
                key=(ipc_id, chunk), classes=members, ipc_ids=(ipc_id,) * len(members),
                steps=steps[ipc_id], draws=draws, drawn_at=(ipc_id,), fixed=teachers,
                preview=preview))
    return units


def class_units(slices, batch_size, steps, early_late, draws):
    """Units of consecutive images, class by class.

    slices: classes of each slice. early_late: groups of a class that join one after the other, 0
    for none.
    """
    images, joins = [], []
    members = [set(classes) for classes in slices]
    for c in sorted(set().union(*members)):
        ipc_ids = [ipc_id for ipc_id, classes in enumerate(members) if c in classes]
        images += [(c, ipc_id) for ipc_id in ipc_ids]
        joins += join_steps(len(ipc_ids), early_late, steps)

    units, start = [], 0
    for number, pairs in enumerate(cut(images, batch_size)):
        late, start = tuple(joins[start : start + len(pairs)]), start + len(pairs)
        classes, ipc_ids = zip(*pairs, strict=True)
        place, name = ("batch", number), f"batch{number:05d}"
        units.append(Unit(
            name=name, number=number, key=place, classes=classes, ipc_ids=ipc_ids, steps=steps,
            draws=draws, drawn_at=place, fixed=None if draws.change else draws.at(*place),
            joins=late if any(late) else None, preview=name if number < PREVIEWS else None))
    return units


def cut(items, batch_size):
    """Cut items, in order, into tuples of batch_size.

    A last one of a single image has no batch statistics to speak of: it joins the one before it.
    """
    cuts = [tuple(items[i : i + batch_size]) for i in range(0, len(items), batch_size)]
    if len(cuts) > 1 and len(cuts[-1]) == 1 < batch_size:
        cuts[-2:] = [cuts[-2] + cuts[-1]]
    return cuts


def join_steps(count, groups, steps):
    """Step at which each of a class's images joins (EarlyLate, DELT).

    Group k = 1 ... K joins at step (k - 1) steps / K. Groups differ by one image, larger ones
    first. With one image per class, or without groups, all join at step 0.
    """
    if not groups or count == 1:
        return [0] * count
    small, larger = divmod(count, groups)
    sizes = [small + 1] * larger + [small] * (groups - larger)
    return [k * steps // groups for k, size in enumerate(sizes) for _ in range(size)]


def frame_steps(steps, parts):
    """After how many steps the images are kept: 0, and the ends of `parts` equal parts of them.

    None for 0 parts.
    """
    return {part * steps // parts for part in range(parts + 1)} if parts else set()


def in_one_step(units, units_per_step):
    """Lists of units that share forwards, by number: not by ranks, nor by what is finished."""
    together = {}
    for unit in units:
        together.setdefault(unit.number // units_per_step, []).append(unit)
    return list(together.values())
