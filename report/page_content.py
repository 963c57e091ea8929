"""The sections of report.page: what finished sets of images are, how good, how diverse, at what
cost."""

import csv
import io
import statistics
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from data.image_set import ImageSet
from data.images import to_pil
from data.names import class_words
from models.networks import Network, check_name
from models.teachers import load_teachers
from report import diversity_report, document, embedding, measures, page_figures
from report.document import (
    Bullets,
    Card,
    Cards,
    Code,
    Document,
    Fold,
    Picture,
    Pictures,
    Section,
    Table,
    Text,
)
from report.runs import read_run
from report.sets import choose_classes, class_names, features, of_class, open_sets
from report.start_grid import StartImages, real_starts
from report.verdicts import spread, standard_error
from utils import distributed, options
from utils.errors import UserError
from utils.files import read_json, write_bytes
from utils.progress import size_words

MOST_SHOWN = 20  # classes on one page
LARGEST_SHOWN = 96  # side of a shown image in pixels
MAP_IMAGES = 100  # of a class and set, in the map
MOST_SENTENCES = 8  # more are folded away
NONE = "–"
# The teachers' recipes for digits were chosen by looking at the test digits.
DIGITS_CAVEAT = " (the teachers' recipes were chosen by looking at them)"


def default_output(folders):
    """report.html in the one run folder that was given, else in the caller's folder."""
    folder = next(iter(folders.values()))
    alone = len(folders) == 1 and (folder / "images").is_dir()
    return folder / "report.html" if alone else options.path("report.html")


def write_page(folders, o, output, work=None, more=()):
    """Write the page about some sets as HTML and as Markdown, and a CSV file of all students.

    folders: {name of a set: folder}. o: report.options.Page. output: path of the HTML file.
    work: {name: folders of its labels and students} (default: its own). more: Sections after the
    first. Prints the table of students. Returns the path.
    """
    page = read_page(folders, o, work or {})
    first, *others = sections(page)
    content = Document(title(page), facts(page), (first, *more, *others))

    pictures = output.with_name(f"{output.stem}_files")
    for picture in document.pictures_of(content):
        write_bytes(pictures / picture.name, picture.data)
    write_bytes(pictures / "students.csv", students_csv(page.runs).encode())
    text = document.as_markdown(content, pictures.name)
    write_bytes(output.with_suffix(".md"), text.encode())
    write_bytes(output, document.as_html(content).encode())

    for block in first.blocks:
        if isinstance(block, Table | Bullets):
            print(f"\n{document.as_text(block)}")
    print(f"\nMarkdown: {output.with_suffix('.md')}\nPage: {output}", flush=True)
    return output


@dataclass(frozen=True)
class Contents:
    """What the page is made of.

    runs: {name: Run}. names: of the classes, in head order. shown: indices of the classes that are
    shown. network: of features on device, or None with the reason why in words.
    """

    runs: dict
    names: list
    shown: list
    options: object
    network: Network | None
    why: str
    device: torch.device

    @property
    def first(self) -> ImageSet:
        """The images of the first set."""
        return next(iter(self.runs.values())).images

    @property
    def recipes(self):
        """The recipes of all students, in order."""
        return sorted({student.recipe for run in self.runs.values() for student in run.students},
                      key=lambda r: (r.network, r.labels != "soft", r.protocol,
                                     len(r.settings), r.settings))


def read_page(folders, o, work):
    """The Contents of a page. Raises UserError for folders that are no sets of the same classes."""
    distributed.set_threads(o.run.threads)
    device = distributed.choose_device(o.run.device)
    sets = open_sets(folders, o.run.workers)
    runs = {name: read_run(name, folders[name], images, work.get(name))
            for name, images in sets.items()}
    names = class_names(sets)
    network, why = open_network(runs, o.features, device)
    shown = choose_classes(o.classes.classes, names, MOST_SHOWN)
    return Contents(runs, names, shown, o, network, why, device)


def open_network(runs, wanted, device):
    """(network of features, "") or (None, why not). wanted: report.options.PageFeatures."""
    name, weights = wanted.network, wanted.teacher_weights
    if name == "none":
        return None, ""
    if name is None:
        name, recorded = _recorded_teacher(runs)
        weights = weights or recorded
    if name is None:
        return None, ("No record names a network, so neither diversity nor a map is shown. Give "
                      "--network and --teacher-weights.")
    check_name(name)
    size = next(iter(runs.values())).images.image_size
    try:
        return load_teachers([name], weights or "IMAGENET1K_V1", None, device, size)[name], ""
    except UserError as error:
        if wanted.network is not None:
            raise
        return None, (f"Neither diversity nor a map is shown: {error}")


def _recorded_teacher(runs):
    """(name, weights) of the primary teacher of the first set whose records name one."""
    for run in runs.values():
        teachers, weights = run.labels.get("options", {}).get("teachers"), run.labels.get(
            "teacher_weights")
        if teachers and weights:
            return teachers[0], weights
        name = run.made.get("options", {}).get("primary_teacher")
        if name and run.made.get("teacher_weights"):
            return name, run.made["teacher_weights"]
    return None, None


# The page

def title(page):
    """The dataset, and to how many images it was distilled."""
    sizes = {len(run.images) for run in page.runs.values() if not real_images(run)}
    sizes = sorted(sizes or {len(page.first)})
    count = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    names = {"digits": "Digits", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100",
             "fashion_mnist": "Fashion-MNIST"}
    known = page.options.file.dataset_name or names.get(
        page.first.dataset, f"{len(page.names)} classes")
    return f"{known}, distilled to {count} images"


def real_images(run):
    """Whether the images of a run are real ones as they are."""
    return run.made.get("options", {}).get("iteration") == 0


def facts(page):
    """Short words below the title."""
    ipc = list(dict.fromkeys(run.ipc for run in page.runs.values()))
    return (f"{len(page.names)} classes", f"{' or '.join(ipc)} images per class",
            f"{page.first.image_size} × {page.first.image_size} px", ", ".join(page.runs))


def sections(page):
    """The Sections of the page; the first is about students."""
    return (students_section(page), images_section(page), curves_section(page),
            diversity_section(page), made_section(page), cost_section(page),
            commands_section(page))


# Students

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
        rows.append((str(recipe), *(spread(v) if v else NONE for v in values)))
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
    most = max(len(run.of_recipe(recipe)) for run in runs.values() for recipe in recipes)
    seeds = ("one student each, whose spread over seeds is not known" if most == 1 else
             f"mean ± standard deviation over {most} seeds of the student")
    soft = ("Soft labels come from the teachers, hard labels are the class alone. "
            if len({recipe.labels for recipe in recipes}) > 1 else "")
    bold = "Bold: the best, and what cannot be told from it. " * (len(runs) > 1)
    return (f"Top-1 is the best of the tests{tests} on "
            f"{' or '.join(f'{count:,}' for count in counts)} real images that no student was "
            f"trained on{DIGITS_CAVEAT if digits else ''}; {seeds}. {bold}{soft}"
            "Best and last test of every seed are in students.csv.")


def sampling_error(percent, count):
    """Standard error of a proportion measured on `count` images, all in per cent.

    100 sqrt(p (1 - p) / n).
    """
    return 100 * (percent / 100 * (1 - percent / 100) / count) ** 0.5


def differ(ours, theirs, count):
    """(whether the means of two lists of accuracies differ, the standard error of the difference).

    In per cent, a number per seed, measured on `count` images. A difference counts from two
    standard errors of it: the root of the sum of squares of each mean's sampling error, which more
    seeds do not make smaller, and of its standard error over the seeds.
    """
    errors = [error for values in (ours, theirs)
              for error in (sampling_error(statistics.mean(values), count),
                            standard_error(values) or 0)]
    error = sum(error ** 2 for error in errors) ** 0.5
    return abs(statistics.mean(ours) - statistics.mean(theirs)) > 2 * error, error


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
                             recipe.protocol, "; ".join(recipe.settings), student.seed,
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


# Images

def images_section(page):
    """The first images of some classes: where they started, and what they became."""
    count = page.options.file.images_shown
    starts = {name: _starts(run, page.options.reals.train_dir) for name, run in page.runs.items()}
    cards = tuple(class_card(page, starts, label, count) for label in page.shown)

    shown = "all classes" if len(page.shown) == len(page.names) else (
        f"{len(page.shown)} of {len(page.names)} classes")
    words = f"The first images of {shown}, up to {count} of each set."
    if any(words == "start" or words.startswith("start of") for card in cards
           for words, _ in card.rows):
        words += " A row \"start\" shows the real images that the sets below it started from."
    else:
        words += (" Start images could not be found again; those that are files are looked for in "
                  "--train-dir.")
    return Section("Images", (Text(words), Cards(cards)))


def _starts(run, train_dir):
    """The StartImages of a run; None where its images are real ones as they are."""
    if real_images(run):
        return None
    return StartImages(run.folder, run.images.image_size, train_dir)


def class_card(page, starts, label, count):
    """The Card of a class: a row of images per set, below the row that they started from.

    Sets that started from the same images share that row. starts: {set: StartImages, or None}.
    """
    rows, seen = [], set()
    title = class_words(page.names[label])
    for position, (name, run) in enumerate(page.runs.items()):
        indices = list(of_class(run.images, label).values())[:count]
        paths = [f"images/{run.images.names[index]}" for index in indices]
        known = starts[name]
        origins = tuple(known.origins.get(path) for path in paths) if known else ()
        if known and origins not in seen:
            images = [known.image(path) for path in paths]
            if images and all(image is not None for image in images):
                words = "start" if not seen else f"start of {name}"
                rows.append((words, _strip(images, f"class{label:03d}_start{position}",
                                           f"Start images of {name}, class {title}")))
                seen.add(origins)
        images = [run.images.image(index) for index in indices]
        rows.append((name, _strip(images, f"class{label:03d}_set{position}",
                                  f"{name}: {len(images)} images of class {title}")))
    return Card(title, tuple(rows))


def _strip(images, stem, alt):
    """Images uint8 [3, S, S] side by side as a Picture; large ones are reduced and made a JPEG."""
    pictures = [to_pil(image) for image in images]
    side, small = min(pictures[0].width, LARGEST_SHOWN), pictures[0].width <= LARGEST_SHOWN
    strip = Image.new("RGB", (side * len(pictures), side))
    for i, picture in enumerate(pictures):
        strip.paste(picture if small else picture.resize((side, side), Image.Resampling.LANCZOS),
                    (i * side, 0))
    data = io.BytesIO()
    strip.save(data, "PNG" if small else "JPEG", quality=88, optimize=True)
    return Picture(f"{stem}.{'png' if small else 'jpg'}", data.getvalue(), alt, pixels=side < 64)


# Diversity

def diversity_section(page):
    """How alike the images of a class are, how close to real ones, and a map of all."""
    if page.network is None:
        return Section("Diversity", (Text(page.why),) if page.why else ())
    measured = measure(page)
    beside_reals = any(d.reals for d in measured.values())
    blocks = [diversity_table(measured), Text(diversity_words(page, measured))]
    panels = [("cosines", diversity_report.draw_cosines, "Cosines of all pairs of images of a "
               "class", any(d.cosines for d in measured.values())),
              ("distances", diversity_report.draw_distances, "Share of images over the distance to "
               "the nearest real image of the class", beside_reals)]
    names = {page_figures.plain(name): d for name, d in measured.items()}
    blocks.append(Pictures(tuple(
        Picture(f"{stem}.svg", page_figures.panel(draw, names), f"{words}, {', '.join(measured)}")
        for stem, draw, words, known in panels if known)))
    pictures = map_pictures(page)
    if pictures:
        blocks += [Pictures(pictures), Text(
            "Each point is an image: t-SNE of the features by cosine distance, of "
            f"{len(page.shown)} classes, all sets embedded together.")]
    return Section("Diversity", tuple(blocks))


def measure(page):
    """{set: report.measures.Diversity}; with real images where they are given or in memory."""
    o, images = page.options, {name: run.images for name, run in page.runs.items()}
    network, device = page.network, page.device
    dataset = o.reals.dataset or page.first.dataset
    if o.reals.train_dir is None and dataset != "digits":
        return {name: measures.measure_alone(own, network, device) for name, own in images.items()}
    real, held_out = diversity_report.open_reals(images, o.reals, o.run.workers)
    sets = {name: (own, own.by_class) for name, own in images.items()}
    if held_out is not None:
        sets[diversity_report.HELD_OUT] = (
            held_out, diversity_report.as_many(held_out, page.first))
    origins = {name: real_starts(run.folder) for name, run in page.runs.items()}
    return measures.measure_sets(sets, real, network, device, origins, o.neighbours)


def diversity_table(measured):
    """A line per measure, a column per set; without the measures that no set has."""
    rows = (("mean cosine of a class's pairs", [_number(d.mean_cosine) for d in measured.values()]),
            ("median distance to the nearest real image",
             [f"{d.median_distance:.3g}" if d.reals else NONE for d in measured.values()]),
            ("nearest to its own start",
             [NONE if d.own_start_share is None else f"{100 * d.own_start_share:.0f} %"
              for d in measured.values()]),
            ("coverage of the real images", [_number(d.mean_coverage) for d in measured.values()]))
    return Table(("", *measured), tuple((name, *cells) for name, cells in rows
                                        if set(cells) != {NONE}))


def diversity_words(page, measured):
    """What the numbers of diversity_table are."""
    words = (f"In {page.network.name}'s penultimate features. The cosine is the mean over all "
             "pairs of images of a class, then over the classes; lower is more diverse.")
    first = next(iter(measured.values()))
    if not first.reals:
        return words + " With --train-dir the sets are also held beside the real images."
    words += (f" Distances and coverage are {diversity_report.compared(first, per_class(page))}: a "
              "real image is covered when an image of the set is no farther than its "
              f"{first.k}th nearest real neighbour. Coverage grows with the number of images.")
    if diversity_report.HELD_OUT in measured:
        words += " Held-out real images, as many per class, are what a set of new ones would be."
    return words


def per_class(page):
    """Real images of a class that are compared, None for all."""
    return page.options.neighbours.real_per_class


def _number(value):
    return NONE if value is None else f"{value:.3f}"


def map_pictures(page):
    """A picture per set of its features in two dimensions; () for too few images."""
    indices = {name: torch.tensor([index for label in page.shown for index in
                                   list(of_class(run.images, label).values())[:MAP_IMAGES]])
               for name, run in page.runs.items()}
    if sum(map(len, indices.values())) < embedding.LEAST:
        return ()
    parts = [features(run.images, indices[name], page.network, page.device)
             for name, run in page.runs.items()]
    points = embedding.embed(torch.cat(parts), "tsne", seed=0).numpy()
    low, high = points.min(0), points.max(0)
    margin = 0.04 * (high - low)
    limits = tuple(zip(low - margin, high + margin, strict=True))
    names, pictures, done = {label: class_words(page.names[label]) for label in page.shown}, [], 0
    for i, (name, run) in enumerate(page.runs.items()):
        own, labels = points[done : done + len(indices[name])], run.images.labels[indices[name]]
        done += len(own)
        pictures.append(Picture(f"map{i}.svg", page_figures.scatter(own, labels.numpy(), names,
                                                                     limits),
                                f"Map of the images of {name} by class", name))
    return tuple(pictures)


# How they were made

def made_section(page):
    """What each set is and how it was made; all options are folded away."""
    runs = page.runs.values()
    rows = [("images", [f"{len(run.images):,}" for run in runs]),
            ("per class", [run.ipc for run in runs]),
            ("method", [method_words(run) for run in runs]),
            ("start", [_option(run.made, "start") for run in runs]),
            ("steps", [_option(run.made, "iteration") for run in runs]),
            ("teachers of the images", [_teachers(run.made) for run in runs]),
            ("teachers of the labels", [_teachers(run.labels) for run in runs]),
            ("seed of images, labels", [f"{_option(run.made, 'seed')}, "
                                        f"{_option(run.labels, 'fkd_seed')}" for run in runs]),
            ("made with", [_versions(run) for run in runs])]
    table = Table(("", *page.runs), tuple((name, *cells) for name, cells in rows), words=True)
    folds = [Fold(title, (option_table(columns),)) for title, columns in (
        ("All options of the images", {run.name: run.made.get("options", {}) for run in runs}),
        ("All options of the labels", {run.name: run.labels.get("options", {}) for run in runs}),
        ("All options of the students", student_options(page))) if any(columns.values())]
    return Section("How they were made", (table, *folds))


def method_words(run):
    """The preset of a set, and how many of its options differ."""
    if not run.made:
        return "not known"
    if real_images(run):
        return "none: real images"
    preset, changed = run.made.get("preset") or "no preset", run.made.get("preset_changed")
    return f"{preset}, {len(changed)} options changed" if changed else preset


def _option(manifest, name):
    value = manifest.get("options", {}).get(name)
    return NONE if value is None else str(value)


def _teachers(manifest):
    """The networks of images.json or labels.json, with their accuracy where a record says it."""
    measured = manifest.get("teachers", {})  # of the images, those that took part
    weights = Path(manifest.get("teacher_weights") or "")
    words = []
    for name in measured or manifest.get("options", {}).get("teachers") or ():
        record = weights / f"{name.replace('/', '_')}.json"
        top1 = (measured.get(name) or {}).get("top1")
        if record.is_file():
            top1 = read_json(record, "models.pretrain").get("result", {}).get("top1", top1)
        words.append(name if top1 is None else f"{name} ({top1:.1f} %)")
    return ", ".join(words) or NONE


def _versions(run):
    return ", ".join(f"{name} {version}" for name, version in
                     run.made.get("versions", {}).items()) or "not known"


def student_options(page):
    """{recipe: options} of the first student of each recipe."""
    columns = {}
    for recipe in page.recipes:
        student = next(s for run in page.runs.values() for s in run.of_recipe(recipe))
        columns[str(recipe)] = {name: value for name, value in student.result["options"].items()
                                if name != "seed"}
    return columns


def option_table(columns):
    """A line per option, a column per {option: value}."""
    names = dict.fromkeys(name for values in columns.values() for name in values)
    rows = tuple((name, *(_value(values.get(name)) for values in columns.values()))
                 for name in names)
    return Table(("option", *columns), rows, words=True)


def _value(value):
    if value is None:
        return NONE
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


# Cost

def cost_section(page):
    """Bytes, seconds and devices of each set."""
    rows = {"images on disk": [], "labels on disk": [], "seconds of the images": [],
            "seconds of the labels": [], "seconds of a student": [], "device of the students": []}
    for run in page.runs.values():
        seconds = [student.result["seconds"] for student in run.students]
        labelled = [step["seconds"] for step in run.steps.values()
                    if "relabel.generate_soft_label" in step["command"]]
        devices = dict.fromkeys(student.result.get("device") for student in run.students)
        cells = (size_words(run.image_bytes),
                 size_words(run.label_bytes) if run.label_bytes else NONE, _seconds(run.seconds),
                 _seconds(statistics.mean(labelled) if labelled else None),
                 _seconds(statistics.mean(seconds) if seconds else None),
                 ", ".join(filter(None, devices)) or NONE)
        for row, cell in zip(rows.values(), cells, strict=True):
            row.append(cell)
    return Section("Cost", (Table(("", *page.runs), tuple(
        (name, *cells) for name, cells in rows.items())),))


def _seconds(value):
    return NONE if value is None else f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def commands_section(page):
    """The recorded commands, each once, with the seconds that they took."""
    steps = {title: step for run in page.runs.values() for title, step in run.steps.items()}
    if not steps:
        return Section("Commands", ())
    steps = dict(sorted(steps.items(), key=lambda item: item[1]["place"]))
    total = sum(step["seconds"] for step in steps.values())
    rows = tuple((title, f"{step['seconds']:,.1f}") for title, step in steps.items())
    return Section("Commands", (
        Code(tuple(step["command"] for step in steps.values())),
        Fold(f"Seconds of each step, {total:,.0f} together", (
            Table(("step", "seconds"), rows),))))
