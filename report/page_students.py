"""The page's sections about students: accuracies with their errors, and curves."""

import csv
import io
import math
import statistics
from collections import Counter

from report import document, page_figures
from report.document import Bullets, Fold, Picture, Pictures, Section, Table, Text
from report.verdicts import LEVEL, sampling_error, spread, standard_error, stats

MOST_SENTENCES = 8  # more are folded away
# The teachers' recipes for digits were chosen by looking at the test digits.
DIGITS_CAVEAT = " (the teachers' recipes were chosen by looking at them)"


def students_section(page):
    """Top-1 of every recipe and set with its spread over seeds, and what the numbers say."""
    runs, recipes = page.runs, page.recipes
    if not recipes:
        return Section("Students", (Text("No student was trained on these images yet. "
                                         "validate.train_fkd and report/compare.sh train them."),))
    table = accuracy_table(runs, recipes)
    blocks = [table, Text(measured_words(runs, recipes))]
    sentences = findings(runs, recipes)
    if sentences:
        told = Bullets(tuple(sentences))
        blocks.insert(1, told if len(sentences) <= MOST_SENTENCES else
                      Fold(f"{len(sentences)} comparisons in words", (told,)))
    return Section("Students", tuple(blocks))


def accuracy_table(runs, recipes):
    """A line per recipe, a column per set; the best of a line stands out.

    So do those that cannot be told from it.
    """
    rows, bold = [], set()
    for r, recipe in enumerate(recipes):
        students = [run.of_recipe(recipe) for run in runs.values()]
        values = [[student.top1 for student in of_set] for of_set in students]
        rows.append((str(recipe), *(spread(v) if v else document.NONE for v in values)))
        best = max(filter(None, values), key=statistics.mean)
        count = next(of_set[0].result["test_images"] for of_set in students if of_set)
        bold |= {(r, c) for c, v in enumerate(values, 1)
                 if len(runs) > 1 and v and not differ(best, v, count)[0]}
    return Table(("top-1 in %", *runs), tuple(rows), frozenset(bold))


def measured_words(runs, recipes):
    """What the numbers of accuracy_table are."""
    students = [student for run in runs.values() for student in run.students]
    results = [student.result for student in students]
    counts = sorted({result["test_images"] for result in results if "test_images" in result})
    every = sorted({result["options"]["eval_every"] for result in results
                    if "eval_every" in result["options"]})
    tests = f" every {' or '.join(map(str, every))} epochs" if every else ""
    digits = any(result["options"].get("dataset") == "digits" for result in results)
    rows = [run.of_recipe(recipe) for run in runs.values() for recipe in recipes]
    most, labels = max(map(len, rows)), any(len({s.fkd_seed for s in row}) > 1 for row in rows)
    seeds = ("one student each, whose spread over seeds is not known" if most == 1 else
             f"mean ± standard deviation over {most} seeds of the student"
             f"{' and of its labels' if labels else ''}")
    soft = ("Soft labels come from the teachers, hard labels are the class alone. "
            if len({recipe.labels for recipe in recipes}) > 1 else "")
    bold = ("Bold: the best, and what a t-test at 5 % cannot tell from it. Its standard error "
            "joins that of the test images and that of the seeds. " * (len(runs) > 1))
    return (f"Top-1 is the best of the tests{tests} on "
            f"{' or '.join(f'{count:,}' for count in counts)} real images that no student was "
            f"trained on{DIGITS_CAVEAT if digits else ''}; {seeds}. {bold}{soft}"
            "Best and last test of every seed are in students.csv.")


def differ(ours, theirs, count):
    """(whether the means of two lists of accuracies differ, the standard error of the difference).

    In per cent, a number per seed, measured on `count` images. The squared error e^2 is the sum of
    each mean's squared sampling error, which more seeds do not make smaller, and of its squared
    standard error s^2 over n seeds. A difference counts where a t-test with e^4 / sum of
    (s^4 / (n - 1)) degrees of freedom gives equal means less than 5 % (Welch's, with an error
    that is known beside the seeds'). It is not paired: the sets may come from anywhere.
    """
    rows = (ours, theirs)
    of_seeds = [(standard_error(row) or 0) ** 2 for row in rows]
    error = math.sqrt(sum(of_seeds) + sum(
        sampling_error(statistics.mean(row), count) ** 2 for row in rows))
    difference = abs(statistics.mean(ours) - statistics.mean(theirs))
    if not error:
        return difference > 0, error

    doubt = sum(part**2 / (len(row) - 1)
                for part, row in zip(of_seeds, rows, strict=True) if part)
    freedom = error**4 / doubt if doubt else math.inf
    return bool(2 * stats().t.sf(difference / error, freedom) < LEVEL), error


def findings(runs, recipes):
    """Sentences that hold the first set beside each other one, for every recipe.

    Differences that are too small are marked as what the numbers cannot tell.
    """
    (first, *others), sentences = runs.values(), []
    alone = Counter(recipe.short for recipe in recipes)
    for recipe in recipes:
        students = first.of_recipe(recipe)
        for other in others:
            ours = [student.top1 for student in students]
            theirs = [student.top1 for student in other.of_recipe(recipe)]
            if not ours or not theirs:
                continue
            count, most = students[0].result["test_images"], max(len(ours), len(theirs))
            clear, error = differ(ours, theirs, count)
            seeds = f" and {most} seeds" if most > 1 else ""
            doubt = "" if clear else (
                f"; {count:,} test images{seeds} cannot tell (standard error {error:.1f})")
            a, b = statistics.mean(ours), statistics.mean(theirs)
            distance = "as good as" if a == b else (
                f"{abs(a - b):.1f} points {'above' if a > b else 'below'}")
            words = recipe.short if alone[recipe.short] == 1 else str(recipe)
            sentences.append(f"{words}: {first.name} is {distance} {other.name}{doubt}.")
    return sentences


def students_csv(runs):
    """A line per student."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["set", "images", "network", "labels", "protocol", "settings", "seed",
                     "best_top1", "last_top1", "test_images", "seconds", "device"])
    for run in runs.values():
        for student in run.students:
            recipe, result = student.recipe, student.result
            writer.writerow([run.name, len(run.images), recipe.network, recipe.labels,
                             recipe.protocol,
                             "; ".join([*recipe.settings, *recipe.label_settings]), student.seed,
                             round(student.top1, 2), round(student.last, 2),
                             *(result.get(name) for name in ("test_images", "seconds", "device"))])
    return text.getvalue()


def curves_section(page):
    """Test accuracy over epochs, a figure per recipe."""
    figures = []
    for i, recipe in enumerate(page.recipes):
        lines = {name: [student.tests for student in run.of_recipe(recipe) if student.tests]
                 for name, run in page.runs.items()}
        lines = {name: seeds for name, seeds in lines.items() if seeds}
        if lines:
            figures.append(Picture(
                f"curve{i}.svg", page_figures.curves(lines, "top-1 on real test images (%)"),
                f"Test accuracy over epochs of {recipe} for {', '.join(lines)}", str(recipe)))
    return Section("Curves", (Pictures(tuple(figures)),) if figures else ())
