"""What a cell of one of the paper's tables is, and how cells are picked by words."""

from dataclasses import dataclass, field

from utils.errors import UserError


@dataclass(frozen=True)
class Images:
    """Distilled images: the name of a run folder and the options of the stage that makes them.

    IPC and seed are appended to the name. start: images of another method, made first, that these
    start from. stage: "recover" or "dap".
    """

    name: str
    options: dict = field(default_factory=dict)
    start: "Images | None" = None
    stage: str = "recover"


@dataclass(frozen=True)
class Labels:
    """Soft labels of some images: the name of their folder and relabel's options."""

    name: str
    options: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Student:
    """A student: the name of its protocol, its network, and the options of its stage.

    stage: "validate", or "hard" for the protocols of train_hard.
    """

    name: str
    net: str = "resnet18"
    options: dict = field(default_factory=dict)
    stage: str = "validate"


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    words: {kind: word} that pick the cell, in the table's order of kinds. labels: None where the
    protocol reads no labels folder. paper, std: what the paper reports in per cent, None for "-".
    note: what the sources leave unsaid. stands_for: the paper's cell, where this one replaces it
    for a dataset that cannot make it. decimals: of the paper's number.
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
    decimals: int = 1

    @property
    def name(self):
        """The words that pick the cell, as one types them."""
        return " ".join(self.words.values())

    @property
    def paper_words(self):
        """The paper's number with the digits that the paper gives it, "–" where it has none."""
        if self.paper is None:
            return "–"
        std = "" if self.std is None else f" ± {self.std:.1f}"
        return f"{self.paper:.{self.decimals}f}{std}"


@dataclass(frozen=True)
class Claim:
    """An ordering to judge, mostly one of the paper: cell `higher` is above cell `lower`."""

    higher: str
    lower: str


@dataclass(frozen=True)
class Table:
    """A table of the paper.

    ipc_can_change: whether its one IPC may be replaced (--ipc). claims: its orderings.
    """

    name: str
    caption: str
    cells: list
    ipc_can_change: bool = False
    claims: tuple = ()

    def cell(self, name):
        """The cell that is picked by exactly these words."""
        return next(cell for cell in self.cells if cell.name == name)


def pick(table, words):
    """The cells of a table that fit the words. Without words these are all cells.

    Words of one kind are alternatives ("r18 r50"). Raises UserError for an unknown word, and for
    words that no cell has together.
    """
    kinds = {}
    for cell in table.cells:
        for kind, word in cell.words.items():
            kinds.setdefault(kind, {})[word] = True
    known = "; ".join(f"{kind}: {', '.join(choices)}" for kind, choices in kinds.items())

    wanted = {}
    for word in words:
        fitting = [kind for kind, choices in kinds.items() if word in choices]
        if not fitting:
            raise UserError(f"{word!r}: {table.name} has no such word. It has {known}.")
        for kind in fitting:
            wanted.setdefault(kind, set()).add(word)

    cells = [cell for cell in table.cells
             if all(cell.words.get(kind) in choices for kind, choices in wanted.items())]
    if not cells:
        raise UserError(f"{' '.join(words)}: no cell of {table.name} has all of these words. "
                        f"It has {known}.")
    return cells


def columns(rows):
    """Rows of strings as lines whose columns are aligned."""
    widths = [max(len(text) for text in column) for column in zip(*rows, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
            for row in rows]
