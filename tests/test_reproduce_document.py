"""The generated parts of docs/results.md."""

import re

import pytest

from reproduce import document
from reproduce.laboratory import LABORATORIES
from utils.errors import UserError


def test_results_md_is_what_the_generator_writes():
    text = document.FILE.read_text()
    made = document.replaced(text, document.measured_parts(), document.FILE.name)
    assert made == text, "run python -m reproduce.document"


@pytest.mark.parametrize(("title", "part", "of_page"), [
    ("PRISM", "methods", "PRISM"), ("SRe2L, from noise", "methods", "SRe2L"),
    ("SRe2L with PRISM's start and rate", "settings", "SRe2L from real images, lr 0.05"),
    ("random real images", "methods", "random real images")])
def test_the_readme_has_the_page_s_numbers(title, part, of_page):
    def numbers(text, row):
        """Both top-1 and the cosine of a table's row."""
        (line,) = re.findall(rf"^\| {re.escape(row)} \|.*$", text, re.M)
        return re.findall(r"\d+\.\d ± \d+\.\d|0\.\d{3}", line)

    of_readme = numbers((document.ROOT / "README.md").read_text(), title)
    assert len(of_readme) == 3
    assert of_readme == numbers(document.measured_parts()[f"fashion-{part}"], of_page)


@pytest.mark.parametrize(("seeds", "variables"), [
    ((0, 1, 2), "CSV_DIR=results/measured"),
    ((2, 0, 1, 3), 'CSV_DIR=results/measured SEEDS="0 1 2 3"')])
def test_a_part_names_the_command_that_made_it(seeds, variables):
    lines = [{"row": "random hard", "seed": seed, "ipc": 10, "iteration": 200, "epochs": 300,
              "best_top1": 73.0, "last_top1": 73.0 + seed} for seed in seeds]
    text = document.laboratory_part(LABORATORIES["fashion_mnist"], "methods", lines)
    assert text.startswith(f"`{variables} sh reproduce/fashion.sh methods`: IPC 10")


def test_parts_are_replaced_and_the_text_around_them_stays():
    text = "a\n<!-- begin x -->\nold\nold\n<!-- end x -->\nb <!-- begin y -->\n<!-- end y -->\n"
    assert document.replaced(text, {"x": "new", "y": "more"}, "page.md") == (
        "a\n<!-- begin x -->\nnew\n<!-- end x -->\nb <!-- begin y -->\nmore\n<!-- end y -->\n")


def test_a_missing_part_is_one_sentence():
    with pytest.raises(UserError, match="page.md: its generated parts are none, expected x, y"):
        document.replaced("# Page\n", {"x": "", "y": ""}, "page.md")
