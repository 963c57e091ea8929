"""The page of report.page: what it is made of, its sections, its files."""

from dataclasses import dataclass

import torch

from data.image_set import ImageSet
from models.networks import Network, check_name
from models.teachers import load_teachers
from report import document
from report.document import Bullets, Document, Table
from report.page_diversity import diversity_section, has_reals
from report.page_images import images_section
from report.page_records import commands_section, cost_section, made_section
from report.page_students import curves_section, students_csv, students_section
from report.runs import read_run, tell_apart
from report.sets import choose_classes, class_names, open_sets
from utils import distributed, options
from utils.errors import UserError
from utils.files import write_bytes

MOST_SHOWN = 20  # classes on one page


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
                                     len(r.settings), r.settings, r.label_settings))


def read_page(folders, o, work):
    """The Contents of a page. Raises UserError for folders that are no sets of the same classes."""
    distributed.set_threads(o.run.threads)
    device = distributed.choose_device(o.run.device)
    sets = open_sets(folders, o.run.workers)
    if o.reals.val_dir and not has_reals(sets, o.reals):
        raise UserError(f"--val-dir {o.reals.val_dir}: is measured beside the real training images "
                        "alone, and these are not given. Give --train-dir too.")
    runs = tell_apart({name: read_run(name, folders[name], images, work.get(name))
                       for name, images in sets.items()})
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
        for labels in run.labels.values():
            if labels.options.get("teachers") and labels.options["teacher_weights"]:
                return labels.options["teachers"][0], labels.options["teacher_weights"]
        name = run.made.get("options", {}).get("primary_teacher")
        if name and run.made.get("teacher_weights"):
            return name, run.made["teacher_weights"]
    return None, None


# The page

def title(page):
    """The dataset, and to how many images it was distilled."""
    sizes = {len(run.images) for run in page.runs.values() if not run.is_real}
    sizes = sorted(sizes or {len(page.first)})
    count = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    names = {"digits": "Digits", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100",
             "fashion_mnist": "Fashion-MNIST"}
    known = page.options.file.dataset_name or names.get(
        page.first.dataset, f"{len(page.names)} classes")
    return f"{known}, distilled to {count} images"


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
