"""The generated parts of docs/results.md."""

import pytest

from reproduce import document
from utils.errors import UserError


def test_results_md_is_what_the_generator_writes():
    text = document.FILE.read_text()
    made = document.replaced(text, document.measured_parts(), document.FILE.name)
    assert made == text, "run python -m reproduce.document"


def test_parts_are_replaced_and_the_text_around_them_stays():
    text = "a\n<!-- begin x -->\nold\nold\n<!-- end x -->\nb <!-- begin y -->\n<!-- end y -->\n"
    assert document.replaced(text, {"x": "new", "y": "more"}, "page.md") == (
        "a\n<!-- begin x -->\nnew\n<!-- end x -->\nb <!-- begin y -->\nmore\n<!-- end y -->\n")


def test_a_missing_part_is_one_sentence():
    with pytest.raises(UserError, match="page.md: its generated parts are none, expected x, y"):
        document.replaced("# Page\n", {"x": "", "y": ""}, "page.md")
