"""What a laboratory is made of. Imports no PyTorch."""

from dataclasses import dataclass

from reproduce.cells import Table


@dataclass(frozen=True)
class Part:
    """Cells that one command makes on a small dataset.

    table: with the cells that the dataset can make, and the paper's orderings of them. ipc: images
    per class; None where the cells have an IPC each. iteration: steps that replace 4000. epochs:
    of labels and students; None where the cells say their own. judged: which test counts, "best"
    or "last". measures_images: whether diversity and distance from the start are measured too.
    measures_labels: whether the bytes of the label files are.
    note: a paragraph below the table.
    """

    table: Table
    ipc: int | None
    iteration: int
    epochs: int | None
    judged: str = "best"
    measures_images: bool = False
    measures_labels: bool = False
    note: str = ""

    @property
    def cells(self):
        return self.table.cells


@dataclass(frozen=True)
class Laboratory:
    """Parts on a dataset.

    name: of its files. parts: {name: Part}. test_images: words for what it is tested on. script:
    what makes it. teachers: names of those that the part "teachers" trains, before all others;
    without them there is no such part. further: names of parts that are made only where they are
    named.
    """

    name: str
    dataset: str
    title: str
    parts: dict
    test_images: str
    script: str
    teachers: tuple = ()
    further: tuple = ()

    @property
    def words(self):
        """Names of what can be asked for."""
        return [*(["teachers"] if self.teachers else []), *self.parts]

    @property
    def defaults(self):
        """Names of what is made where nothing is named."""
        return [name for name in self.words if name not in self.further]
