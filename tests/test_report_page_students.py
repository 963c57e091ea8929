import math
from dataclasses import replace

from report import page_students
from report.runs import Recipe, Run, Student

SOFT = Recipe("resnet18", "soft", "prism", ())
HARD = Recipe("resnet18", "hard", "prism", ())


def a_run(name, soft, hard):
    """A Run with these top-1 per seed, on 500 test images."""
    result = {"test_images": 500, "options": {"eval_every": 10, "dataset": "imagefolder"}}
    students = [Student(recipe, seed, top1, top1 - 1, (), result)
                for recipe, values in ((SOFT, soft), (HARD, hard))
                for seed, top1 in enumerate(values)]
    return Run(name, None, None, {}, {}, tuple(students), 0, None, ())


RUNS = {run.name: run for run in (a_run("PRISM", [90.0, 92.0], [80.0, 80.0]),
                                  a_run("other", [50.0, 50.0], [81.0, 81.0]))}


def test_findings_say_what_the_test_images_cannot_tell():
    assert page_students.findings(RUNS, [SOFT, HARD]) == [
        "resnet18, soft labels: PRISM is 41.0 points above other.",
        "resnet18, hard labels: PRISM is 1.0 points below other; 500 test images and 2 seeds "
        "cannot tell (standard error 2.5)."]


def test_recipes_that_share_their_words_are_told_apart():
    plain = replace(HARD, settings=("augment none",))
    run = replace(RUNS["PRISM"], students=(
        *RUNS["PRISM"].students, *(replace(student, recipe=plain)
                                   for student in RUNS["PRISM"].students)))
    sentences = page_students.findings({"PRISM": run, "B": replace(run, name="B")}, [HARD, plain])
    assert [text.split(":")[0] for text in sentences] == [
        "resnet18, hard labels (prism)", "resnet18, hard labels (prism, augment none)"]


def test_a_difference_counts_beside_the_test_images_and_beside_the_seeds():
    clear, error = page_students.differ([90.0], [86.0], 400)
    assert math.isclose(error, (1.5 ** 2 + 1.7349 ** 2) ** 0.5, rel_tol=1e-4)
    assert not clear
    assert page_students.differ([90.0, 90.0], [80.0, 80.0], 400)[0]
    # The seeds of the second set give 80 with a standard error of 10.
    clear, error = page_students.differ([90.0, 90.0], [70.0, 90.0], 400)
    assert not clear
    assert math.isclose(error, (1.5 ** 2 + 2.0 ** 2 + 10 ** 2) ** 0.5)


def test_few_seeds_tell_less_than_many():
    """Welch's degrees of freedom: with one, Student's t is 12.7 at 5 %; with eight, 2.31."""
    assert not page_students.differ([50.0, 52.0], [56.0], 10**9)[0]  # t = 5 / 1
    assert page_students.differ([50.0, 52.0], [64.0], 10**9)[0]  # t = 13
    many = [50.0, 52.0] * 4 + [51.0]  # s^2 = 1, n = 9: an error of 1/3
    for other, clear in ((51.76, False), (51.78, True)):  # t = 2.28 and 2.34
        assert page_students.differ(many, [other], 10**9)[0] is clear
    assert page_students.differ([100.0], [100.0], 400) == (False, 0)
    assert page_students.differ([100.0], [0.0], 400) == (True, 0)


def test_the_table_has_mean_and_spread_and_marks_what_is_as_good_as_the_best():
    table = page_students.accuracy_table(RUNS, [SOFT, HARD])
    assert table.header == ("top-1 in %", "PRISM", "other")
    assert table.rows == (("resnet18, soft labels (prism)", "91.0 ± 1.4", "50.0 ± 0.0"),
                          ("resnet18, hard labels (prism)", "80.0 ± 0.0", "81.0 ± 0.0"))
    assert table.bold == {(0, 1), (1, 1), (1, 2)}


def test_a_recipe_that_a_set_lacks_is_a_dash():
    runs = {**RUNS, "other": replace(RUNS["other"], students=())}
    table = page_students.accuracy_table(runs, [SOFT])
    assert table.rows == (("resnet18, soft labels (prism)", "91.0 ± 1.4", "–"),)
    assert page_students.findings(runs, [SOFT]) == []


def test_words_of_the_numbers_are_those_of_the_results():
    words = page_students.measured_words(RUNS, [SOFT, HARD])
    assert words.startswith("Top-1 is the best of the tests every 10 epochs on 500 real images")
    assert "over 2 seeds of the student" in words
    assert "looking at them" not in words


def test_seeds_of_labels_are_named_where_they_differ():
    students = [replace(student, result={**student.result, "identity": {
        "labels": {"options": {"fkd_seed": 42 + i}}}})
        for i, student in enumerate(RUNS["PRISM"].of_recipe(SOFT))]
    runs = {"PRISM": replace(RUNS["PRISM"], students=tuple(students))}
    assert "of its labels" not in page_students.measured_words(RUNS, [SOFT])
    assert "over 2 seeds of the student and of its labels." in page_students.measured_words(
        runs, [SOFT])
