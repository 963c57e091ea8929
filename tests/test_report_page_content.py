import math
import re
from dataclasses import replace

import pytest
import tiny
from PIL import Image

from report import page_content
from report.options import Page
from report.runs import Recipe, Run, Student
from utils import options
from utils.errors import UserError

SOFT = Recipe("resnet18", "soft", "prism", ())
HARD = Recipe("resnet18", "hard", "prism", ())


def a_run(name, soft, hard):
    """A Run with these top-1 per seed, on 500 test images."""
    result = {"test_images": 500, "options": {"eval_every": 10, "dataset": "imagefolder"}}
    students = [Student(recipe, seed, top1, top1 - 1, (), result)
                for recipe, values in ((SOFT, soft), (HARD, hard))
                for seed, top1 in enumerate(values)]
    return Run(name, None, None, {}, {}, tuple(students), 0, 0, None, {})


RUNS = {run.name: run for run in (a_run("PRISM", [90.0, 92.0], [80.0, 80.0]),
                                  a_run("other", [50.0, 50.0], [81.0, 81.0]))}


def test_sampling_error_by_hand():
    assert math.isclose(page_content.sampling_error(90.0, 400), 1.5)


def test_findings_say_what_the_test_images_cannot_tell():
    assert page_content.findings(RUNS, [SOFT, HARD]) == [
        "resnet18, soft labels: PRISM is 41.0 points above other.",
        "resnet18, hard labels: PRISM is 1.0 points below other; 500 test images and 2 seeds "
        "cannot tell (standard error 2.5)."]


def test_recipes_that_share_their_words_are_told_apart():
    plain = replace(HARD, settings=("augment none",))
    run = replace(RUNS["PRISM"], students=(
        *RUNS["PRISM"].students, *(replace(student, recipe=plain)
                                   for student in RUNS["PRISM"].students)))
    sentences = page_content.findings({"PRISM": run, "B": replace(run, name="B")}, [HARD, plain])
    assert [text.split(":")[0] for text in sentences] == [
        "resnet18, hard labels (prism)", "resnet18, hard labels (prism, augment none)"]


def test_a_difference_counts_beside_the_test_images_and_beside_the_seeds():
    clear, error = page_content.differ([90.0], [86.0], 400)
    assert math.isclose(error, (1.5 ** 2 + 1.7349 ** 2) ** 0.5, rel_tol=1e-4)
    assert not clear
    assert page_content.differ([90.0, 90.0], [80.0, 80.0], 400)[0]
    # The seeds of the second set give 80 with a standard error of 10.
    clear, error = page_content.differ([90.0, 90.0], [70.0, 90.0], 400)
    assert not clear
    assert math.isclose(error, (1.5 ** 2 + 2.0 ** 2 + 10 ** 2) ** 0.5)


def test_the_table_has_mean_and_spread_and_marks_what_is_as_good_as_the_best():
    table = page_content.accuracy_table(RUNS, [SOFT, HARD])
    assert table.header == ("top-1 in %", "PRISM", "other")
    assert table.rows == (("resnet18, soft labels (prism)", "91.0 ± 1.4", "50.0 ± 0.0"),
                          ("resnet18, hard labels (prism)", "80.0 ± 0.0", "81.0 ± 0.0"))
    assert table.bold == {(0, 1), (1, 1), (1, 2)}


def test_a_recipe_that_a_set_lacks_is_a_dash():
    runs = {**RUNS, "other": replace(RUNS["other"], students=())}
    table = page_content.accuracy_table(runs, [SOFT])
    assert table.rows == (("resnet18, soft labels (prism)", "91.0 ± 1.4", "–"),)
    assert page_content.findings(runs, [SOFT]) == []


def test_words_of_the_numbers_are_those_of_the_results():
    words = page_content.measured_words(RUNS, [SOFT, HARD])
    assert words.startswith("Top-1 is the best of the tests every 10 epochs on 500 real images")
    assert "over 2 seeds of the student" in words
    assert "looking at them" not in words


# A whole page

CLASSES = ("<b>&\"cat\"", "dog $x$", "newt|")


@pytest.fixture
def out(tmp_path):
    """Two run folders and a folder of another tool, of classes that are named badly."""
    tiny.image_folder(tmp_path / "train", CLASSES, 4)
    tiny.teacher_folder(tmp_path / "teachers", ["resnet18"], CLASSES)
    for name, top1 in (("prism", 90.0), ("random", 50.0)):
        folder = tiny.distilled_folder(tmp_path / name, tmp_path / "train", CLASSES, 4)
        tiny.finished_student(folder, "soft_seed0", top1=top1, labels={"options": {}})
    tiny.image_folder(tmp_path / "plain", CLASSES, 4, (32, 32))
    return tmp_path


def write(out, *names, **given):
    o = options.from_values(Page, {"device": "cpu", "network": "resnet18",
                                   "teacher_weights": str(out / "teachers"), **given})
    path = page_content.write_page({name: out / name for name in names}, o, out / "page.html")
    return path.read_text(), path.with_suffix(".md").read_text()


def test_a_page_of_runs_and_of_a_plain_folder(out, capsys):
    html, markdown = write(out, "prism", "random", "plain", images_shown=2, dataset_name="Pets",
                           network="none")
    assert "<h1>Pets, distilled to 12 images</h1>" in html
    assert "&lt;b&gt;&amp;&quot;cat&quot;" in html
    assert "<b>" not in html
    assert "prism is 40.0 points above random." in html
    for heading in ("Students", "Images", "Curves", "How they were made", "Cost"):
        assert f"## {heading}\n" in markdown
    assert "| resnet18, soft labels (prism, epochs 2) | **90.0** | 50.0 | – |" in markdown
    assert Image.open(out / "page_files/class002_set1.png").size == (2 * 32, 32)
    assert (out / "page_files/students.csv").read_text().splitlines()[2] == (
        "random,12,resnet18,soft,prism,epochs 2,0,50.0,49.0,500,2.5,cpu")
    printed = capsys.readouterr().out
    assert f"Page: {out / 'page.html'}" in printed
    assert "| prism | random | plain |" in printed


def test_the_same_command_writes_the_same_bytes(out):
    first, second = (write(out, "prism", "plain", network="none") for _ in range(2))
    assert first == second


def test_with_real_images_the_page_says_how_close_the_sets_are_to_them(out):
    tiny.image_folder(out / "more", CLASSES, 4, (32, 32))  # the images of plain
    _, markdown = write(out, "plain", "prism", train_dir=out / "more")
    assert re.search(r"\| median distance to the nearest real image \| 0 \| \d", markdown)
    assert "beside all real images of an image's class (12 in all)" in markdown
    assert "(page_files/distances.svg)" in markdown
    assert "(page_files/map1.svg)" in markdown
    assert "nearest to its own start" not in markdown  # no record says what they started from


def test_without_a_network_there_is_no_diversity_and_the_page_says_why(out):
    html, _ = write(out, "plain", network=None, teacher_weights=None)
    assert "No record names a network, so neither diversity nor a map is shown." in html
    assert "No student was trained on these images yet." in html
    html, _ = write(out, "plain", network="none", teacher_weights=None)
    assert "Diversity" not in html


def test_start_images_of_a_run_are_above_its_own(out):
    from utils.files import write_json

    starts = {f"images/new{c:03d}/class{c:03d}_id{i:03d}.png": f"{name}/img_{i:03d}.JPEG"
              for c, name in enumerate(CLASSES) for i in range(4)}
    write_json(out / "prism/units/u.json", {"start": starts})
    html, markdown = write(out, "prism", "random", train_dir=out / "train", network="none")
    assert markdown.count("_start0.png") == 3
    assert "A row &quot;start&quot; shows the real images" in html
    _, markdown = write(out, "prism", "random", network="none")
    assert "_start" not in markdown
    assert "looked for in --train-dir" in markdown


def test_another_network_must_be_there(out):
    with pytest.raises(UserError, match="no alexnet.safetensors"):
        write(out, "prism", network="alexnet")


def test_large_images_are_reduced(tmp_path):
    tiny.image_folder(tmp_path / "plain", ("a", "b"), 3, (224, 224))
    write(tmp_path, "plain", network="none")
    strip = Image.open(tmp_path / "page_files/class001_set0.jpg")
    assert strip.size == (3 * 96, 96)
    assert strip.format == "JPEG"


def test_the_page_of_one_run_is_in_its_folder(out, monkeypatch):
    monkeypatch.setenv("CALLER_DIR", str(out / "here"))
    assert page_content.default_output({"a": out / "prism"}) == out / "prism/report.html"
    assert page_content.default_output({"a": out / "plain"}) == out / "here/report.html"
    assert page_content.default_output({"a": out / "prism", "b": out / "random"}) == (
        out / "here/report.html")
