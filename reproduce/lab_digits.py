"""The laboratory on digits: PRISM's Tables 2 and 3. Imports no PyTorch."""

from dataclasses import replace

from reproduce import table2, table3
from reproduce.lab_parts import Laboratory, Part

# Table 3 has soft labels, which saturate above a few images per class. Its 50 images are one batch
# of 50, 64, 128 or 1024 alike, so 16, 32 and 50 are left of panel c.
_LEFT_OUT = ("batch b1024", "batch b64", "batch b128")


def _table(table):
    """The rows of a table that digits can tell apart, with students that digits can train."""
    cells = [table2.for_digits(cell) for cell in table.cells if cell.name not in _LEFT_OUT]
    return replace(table, cells=cells)


LABORATORY = Laboratory(
    "digits", "digits", "Digits",
    {"table2": Part(_table(table2.TABLE), ipc=10, iteration=100, epochs=50),
     "table3": Part(_table(table3.TABLE), ipc=5, iteration=100, epochs=60)},
    test_images="500 test digits", script="sh reproduce/digits.sh")
