"""The laboratory on digits: PRISM's Tables 2 and 3, and formats of labels. Imports no PyTorch."""

from dataclasses import replace

from reproduce import table1, table2, table3
from reproduce.cells import Cell, Labels, Student, Table
from reproduce.lab_parts import Laboratory, Part

# Table 3 has soft labels, which saturate above a few images per class. Its 50 images are one batch
# of 50, 64, 128 or 1024 alike, so 16, 32 and 50 are left of panel c.
_LEFT_OUT = ("batch b1024", "batch b64", "batch b128")


def _table(table):
    """The rows of a table that digits can tell apart, with students that digits can train."""
    cells = [table2.for_digits(cell) for cell in table.cells if cell.name not in _LEFT_OUT]
    return replace(table, cells=cells)


# What is stored of the same labels of the same images: title, relabel's options
FORMATS = {
    "fp32": ("fp32", {"label_format": "fp32"}),
    "fp16": ("fp16", {"label_format": "fp16"}),
    "int8": ("int8", {"label_format": "int8"}),
    "topk3": ("the 3 largest of 10 logits", {"label_format": "topk", "label_top_k": 3}),
    "topk1": ("the largest logit alone", {"label_format": "topk", "label_top_k": 1}),
    "none": ("nothing (fp16 on the fly)", {"label_store": "none"}),
}


def _labels():
    recipe = table1.prism_labels("r18").options
    cells = [Cell("labels", {"row": row}, title, 10, table1.prism_images("r18"),
                  Labels(f"prism-{row}", {**recipe, **values}), Student("prism"), None)
             for row, (title, values) in FORMATS.items()]
    return Table("labels", "formats of soft labels, IPC 10", cells)


LABORATORY = Laboratory(
    "digits", "digits", "Digits",
    {"table2": Part(_table(table2.TABLE), ipc=10, iteration=100, epochs=50),
     "table3": Part(_table(table3.TABLE), ipc=5, iteration=100, epochs=60),
     "labels": Part(_labels(), ipc=10, iteration=100, epochs=60, measures_labels=True)},
    test_images="500 test digits", script="sh reproduce/digits.sh")
