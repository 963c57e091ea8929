"""Units of work: images of one class that a process samples together."""

from dataclasses import dataclass

PREVIEWS = 20  # units that get a preview picture


@dataclass(frozen=True)
class DapUnit:
    """Some images of a class.

    label: of the class. ipc_ids: which of its images. preview: name of its preview, or None.
    """

    label: int
    ipc_ids: tuple
    preview: str | None = None

    @property
    def name(self):
        """Of its record."""
        return f"class{self.label:05d}_id{self.ipc_ids[0]:05d}_to_{self.ipc_ids[-1]:05d}"

    @property
    def classes(self):
        """The class of every image."""
        return (self.label,) * len(self.ipc_ids)


def plan_units(class_count, images):
    """The units of a run: blocks of unit_images images of a class, cut at multiples of it.

    class_count: classes. images: recover.dap.options.Images. The blocks do not depend on what is
    finished, so processes that start at different times deal alike.
    """
    size, units = images.unit_images, []
    for label in range(class_count):
        for first in range(images.ipc_start // size * size, images.ipc_end, size):
            ids = range(max(first, images.ipc_start), min(first + size, images.ipc_end))
            first_block = label < PREVIEWS and first == images.ipc_start // size * size
            units.append(DapUnit(label, tuple(ids), f"class{label:05d}" if first_block else None))
    return units


def unfinished(unit, groups, exists):
    """What is left to do of a unit, as a list of units.

    groups: images (label, ipc_id) that were sampled together, tuples. exists: function of an image.
    A group that has lost an image is sampled again as a whole, because an image's last bits depend
    on those beside it. The others are those that no group holds.
    """
    own = [group for group in groups if group[0][0] == unit.label]
    kept = {ipc_id for group in own for _, ipc_id in group}
    lost = [group for group in own if group[0][1] in unit.ipc_ids and not all(map(exists, group))]
    left = [tuple(ipc_id for _, ipc_id in group) for group in lost]
    left.append(tuple(ipc_id for ipc_id in unit.ipc_ids if ipc_id not in kept))
    return [DapUnit(unit.label, ipc_ids, unit.preview) for ipc_ids in left if ipc_ids]
