"""A cell of one of the paper's tables: which images, labels and student make it, what the paper reports, how it is named."""

from dataclasses import dataclass, field

from utils.errors import UserError


@dataclass(frozen=True)
class Images:
    """Distilled images: a run folder (IPC and seed are appended to its name) and recover's options.

    start: images of another method that these start from (--start-dir), made first.
    """

    name: str
    options: dict = field(default_factory=dict)
    start: "Images | None" = None


@dataclass(frozen=True)
class Labels:
    """Soft labels of some images: their folder's name and relabel's options."""

    name: str
    options: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Student:
    """A student: its protocol's name, the net, and validate's options."""

    name: str
    net: str = "resnet18"
    options: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    words: {kind: word}, what the cell is picked by, in the table's order of kinds. labels: None where the protocol needs no
    labels folder. paper, std: what the paper reports in per cent, None for "-". note: what the sources leave unsaid. stands_for:
    the paper's cell, where this one replaces it for a dataset that cannot make it.
    Options are keyed by their long name with _ for -; a list is several values, True a bare flag.
    """

    table: str
    words: dict
    title: str
    ipc: int
    images: Images
    labels: Labels | None
    student: Student
    paper: float | None
    std: float | None = None
    note: str = ""
    stands_for: "Cell | None" = None

    @property
    def name(self):
        """The words one picks it by, as one types them."""
        return " ".join(self.words.values())


@dataclass(frozen=True)
class Claim:
    """An ordering that the paper's numbers state: the cell named `higher` is above the cell named `lower`."""

    higher: str
    lower: str


@dataclass(frozen=True)
class Table:
    """A table of the paper. ipc_can_change: whether its one IPC may be replaced (--ipc); claims: its orderings."""

    name: str
    caption: str
    cells: list
    ipc_can_change: bool = False
    claims: tuple = ()

    def cell(self, name):
        """The cell that is picked by exactly these words."""
        return next(cell for cell in self.cells if cell.name == name)


def pick(table, words):
    """The cells of a table that fit all kinds of words given; words of one kind are alternatives (r18 r50). None: all cells.

    Raises UserError, listing the words there are, for an unknown word or words that no cell has together.
    """
    kinds = {}
    for cell in table.cells:
        for kind, word in cell.words.items():
            kinds.setdefault(kind, {})[word] = True
    known = "; ".join(f"{kind}: {', '.join(own)}" for kind, own in kinds.items())
    wanted = {}
    for word in words:
        own = [kind for kind, theirs in kinds.items() if word in theirs]
        if not own:
            raise UserError(f"{word!r}: {table.name} has no such word. It has {known}.")
        for kind in own:
            wanted.setdefault(kind, set()).add(word)
    cells = [cell for cell in table.cells if all(cell.words.get(kind) in theirs for kind, theirs in wanted.items())]
    if not cells:
        raise UserError(f"{' '.join(words)}: no cell of {table.name} has all of these words. It has {known}.")
    return cells


def as_arguments(options):
    """{"bn_teachers": ["a", "b"], "allow_short_classes": True} as --bn-teachers a b --allow-short-classes, a list of strings."""
    arguments = []
    for name, value in options.items():
        arguments.append("--" + name.replace("_", "-"))
        if value is not True:
            arguments += [str(v) for v in value] if isinstance(value, (list, tuple)) else [str(value)]
    return arguments
