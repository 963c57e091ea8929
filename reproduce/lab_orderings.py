"""Claims that one row of a laboratory is above another, each with a verdict.

Most are orderings of the paper; some are of rows that it does not have.
"""

from dataclasses import dataclass

from report.verdicts import UNSURE, Verdict, verdict
from reproduce.cells import Cell


@dataclass(frozen=True)
class Ordering:
    """The claim that the cell `higher` is above the cell `lower`.

    student: the word of both cells' student where the rows have several students, else None.
    paper: the difference of the paper's numbers, None where it has none. verdict: what the
    measured numbers say.
    """

    higher: Cell
    lower: Cell
    student: str | None
    paper: float | None
    verdict: Verdict

    @property
    def words(self):
        """"PRISM above SRe2L"."""
        return f"{label(self.higher)} above {label(self.lower)}"

    @property
    def is_smaller(self):
        """Whether nobody can tell which row is higher, but the difference is below the paper's.

        That is so where the whole 95 % confidence interval is below the paper's difference.
        """
        judged = self.verdict
        return (judged.word == UNSURE and judged.interval is not None and self.paper is not None
                and judged.interval[1] < self.paper)


def orderings(table, values):
    """The table's claims about rows that were measured, as Orderings.

    values: {row: top-1 per seed}.
    """
    several = len(students(table, values)) > 1
    judged = []
    for claim in table.claims:
        if claim.higher in values and claim.lower in values:
            higher, lower = table.cell(claim.higher), table.cell(claim.lower)
            paper = None if None in (higher.paper, lower.paper) else higher.paper - lower.paper
            judged.append(Ordering(higher, lower, higher.words["student"] if several else None,
                                   paper, verdict(values[claim.higher], values[claim.lower])))
    return judged


def students(table, values):
    """Words of the students of a table whose sets of images have several; () for others."""
    return tuple(dict.fromkeys(cell.words["student"] for cell in table.cells
                               if cell.name in values and "student" in cell.words))


def by_row(lines, column):
    """{row: numbers of a column, one per seed}, in the order of the lines."""
    values = {}
    for line in lines:
        values.setdefault(line["row"], []).append(line[column])
    return values


def label(cell):
    """What a cell's row is called."""
    return f"{cell.words['panel']}: {cell.title}" if "panel" in cell.words else cell.title
