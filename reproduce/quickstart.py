"""Distil images end to end: PRISM beside SRe2L beside random real images, on one page.

    sh quickstart.sh                                            scikit-learn's digits
    sh quickstart.sh --train-dir my/train --val-dir my/test     anybody's images
"""

from dataclasses import dataclass
from pathlib import Path

from data import hugging_face
from reproduce import ROOT
from utils import options
from utils.errors import UserError, run_entry
from utils.options import RoomOptions, option

SIDES = (16, 1024)  # least and largest --image-size
# The primary teacher comes first.
DIGITS_TEACHERS = ("resnet18", "mobilenet_v2", "shufflenet_v2_x0_5", "alexnet")


@dataclass(frozen=True)
class Quickstart:
    """Which images are distilled, and how much time there is."""

    train_dir: Path | None = option(
        None, "training images: one folder per class, or hf:USER/NAME (default: scikit-learn's "
        "digits)", group="data", type=hugging_face.train_images)
    val_dir: Path | None = option(None, "test images, likewise", group="data",
                                  type=hugging_face.test_images)
    output_dir: Path | None = option(
        None, "default: results/NAME, where NAME is digits or that of the images' folder",
        group="data", type=options.path)
    minutes: float | None = option(
        None, "how long the run may take; image size, stem, steps and epochs are chosen so that it "
        "does (with --train-dir; default: 30)", group="size", type=options.positive_float)
    mirror: str = option(
        "auto", "whether a mirrored image shows the same class; auto: yes, but for grey images "
        "below 64 px, which may be letters or digits (with --train-dir)", group="method",
        choices=("auto", "yes", "no"))
    ipc: int | None = option(None, "images per class (default: 10, or as many as there are)",
                             group="size", type=options.positive_int)
    image_size: int | None = option(
        None, "side in pixels (default: the images' own, or less; with --train-dir)", group="size",
        type=options.positive_int)
    seeds: int = option(1, "students per set and kind of label", group="size",
                        type=options.positive_int)
    fast: bool = option(False, "the same path on fewer images, steps and epochs, without accuracy "
                        "gates", group="size")
    dry_run: bool = option(False, "print the plan and the commands, and stop")
    device: str | None = option(
        None, "auto: a GPU if there is one (default: auto, cpu for digits)",
        choices=("auto", "cuda", "cpu"))
    threads: int | None = option(None, "CPU threads (default: PyTorch's choice)",
                                 type=options.thread_count)


@dataclass(frozen=True)
class Options(RoomOptions):
    """All options of the quickstart."""

    quickstart: Quickstart


@dataclass(frozen=True)
class Recipe:
    """What every stage is told.

    name: of the images, for the page. teachers: names, the primary first. ipc, iteration, epochs,
    units_per_step: as the stages' options. train, test: options that name the real images.
    train_dir: of the training images, None for digits. The others: further options of a stage.
    """

    name: str
    teachers: tuple
    ipc: int
    iteration: int
    epochs: int
    units_per_step: int
    train: tuple
    train_dir: Path | None = None
    test: tuple = ()
    squeeze: tuple = ()
    recover: tuple = ()
    views: tuple = ()
    student: tuple = ()


def digits_recipe(fast, ipc=None):
    """The Recipe for scikit-learn's digits."""
    ipc = ipc or (5 if fast else 10)
    sizes = {"iteration": 8, "epochs": 4} if fast else {"iteration": 100, "epochs": 50}
    return Recipe(
        name="Digits", teachers=DIGITS_TEACHERS, ipc=ipc, units_per_step=ipc, **sizes,
        train=("--dataset", "digits"),
        squeeze=("--epochs", "1") if fast else ("--min-accuracy", "95"),
        recover=("--min-teacher-accuracy", "0") if fast else ())


def planned_recipe(o, plan):
    """The Recipe that a Plan gives for folders of images. o: Quickstart."""
    stem, flip = ("--stem", plan.stem), ("--flip-prob", f"{plan.flip_prob:g}")
    return Recipe(
        name=images_name(o), teachers=plan.teachers, ipc=plan.ipc, iteration=plan.iteration,
        epochs=plan.epochs, units_per_step=plan.units_per_step,
        train=("--train-dir", o.train_dir, "--image-size", plan.image_size), train_dir=o.train_dir,
        test=("--val-dir", o.val_dir),
        squeeze=("--epochs", plan.teacher_epochs, "--batch-size", plan.batch_size, "--lr",
                 f"{plan.lr:g}", "--clip-norm", 1, *stem, *flip),
        recover=(*flip, *(("--min-teacher-accuracy", "0") if o.fast else ())), views=flip,
        student=(*stem, "--eval-every", plan.eval_every))


def sets(recipe):
    """{name: (folder, what recover is told for it)}.

    SRe2L has one teacher, its learning rate and constant steps, and the same start images. A real
    subset is recover's start as it is.
    """
    return {"PRISM": ("prism", ("--iteration", recipe.iteration, "--bn-teachers",
                                *recipe.teachers)),
            "SRe2L": ("sre2l", ("--iteration", recipe.iteration, "--preset", "sre2l", "--start",
                                "real")),
            "random real": ("random", ("--start", "random", "--iteration", 0))}


def images_name(o):
    """What the images are called: the name of their folder, or of the one around train/."""
    folder = o.train_dir
    of_parent = folder.name.lower() in ("train", "training") and folder.parent.name
    return of_parent or folder.name or "images"


def main(argv=None):
    o = options.parse(Options, argv, prog="reproduce.quickstart",
                      description="Distil images end to end.").quickstart
    check(o)
    out = o.output_dir or default_folder(o)

    # Imported after the options are read, so that --help answers at once.
    from reproduce.own_images import settle_plan
    from reproduce.steps import Steps

    recipe = digits_recipe(o.fast, o.ipc)
    if o.train_dir is not None:
        recipe = planned_recipe(o, settle_plan(o, out))
    steps = list_steps(recipe, out, o)
    if o.dry_run:
        print_steps(steps)
        return

    runner = Steps(len(steps), out / "timings.json")
    for title, entry, arguments in steps:
        runner.run(title, entry, *arguments)

    write_report(recipe, out, o)


def write_report(recipe, out, o):
    """Write report.html and report.md into `out`: the page about the three sets."""
    from report.options import Page
    from report.page_content import write_page

    folders = {name: out / folder for name, (folder, _) in sets(recipe).items()}
    page = {"dataset_name": recipe.name, "train_dir": recipe.train_dir,
            "network": recipe.teachers[0], "teacher_weights": str(out / "teachers"),
            "device": device_name(o), "threads": o.threads}
    write_page(folders, options.from_values(Page, page), out / "report.html")


def check(o):
    """Raise UserError for options that contradict one another."""
    if (o.train_dir is None) != (o.val_dir is None):
        given, other = ("--train-dir", "--val-dir") if o.train_dir else ("--val-dir", "--train-dir")
        raise UserError(f"{given} was given without {other}. Give both: training images to distil, "
                        "and test images that no network is trained on.")
    of_folders = {"--image-size": o.image_size, "--minutes": o.minutes,
                  "--mirror": o.mirror != "auto"}
    given = [name for name, value in of_folders.items() if value]
    if o.train_dir is None and given:
        raise UserError(f"{given[0]}: digits have a recipe of their own. Give --train-dir and "
                        "--val-dir with it, or leave it out.")
    if o.image_size is not None and not SIDES[0] <= o.image_size <= SIDES[1]:
        raise UserError(f"--image-size {o.image_size}: expected {SIDES[0]} to {SIDES[1]} pixels.")


def default_folder(o):
    """results/NAME."""
    name = "digits" if o.train_dir is None else images_name(o)
    if o.train_dir is not None and name == "digits":
        name = "digits-images"  # results/digits is that of scikit-learn's
    return ROOT / "results" / (f"{name}-fast" if o.fast else name)


def device_name(o):
    """--device of every stage."""
    return o.device or ("cpu" if o.train_dir is None else "auto")


def list_steps(recipe, out, o):
    """[(title, entry module, arguments)] of all stages for all sets, in order."""
    from models import pretrain
    from recover import data_synthesis
    from relabel import generate_soft_label
    from utils.distributed import set_threads
    from validate import train_fkd

    run = ["--device", device_name(o), "--threads", set_threads(o.threads)]
    teachers = out / "teachers"
    folders = {name: out / folder for name, (folder, _) in sets(recipe).items()}

    steps = [("squeeze: train the teachers", pretrain, [
        *recipe.train, *recipe.test, "--teachers", *recipe.teachers, *recipe.squeeze,
        "--output-dir", teachers, *run])]
    for name, (folder, given) in sets(recipe).items():
        steps.append((f"recover: {name}", data_synthesis, [
            *recipe.train, "--teacher-weights", teachers, "--ipc-end", recipe.ipc,
            "--units-per-step", recipe.units_per_step, *recipe.recover, *given,
            "--output-dir", out / folder, *run]))
    for name, folder in folders.items():
        steps.append((f"relabel: {name}", generate_soft_label, [
            "--teachers", *recipe.teachers, "--teacher-weights", teachers, *recipe.views,
            *recipe.test, "--epochs", recipe.epochs, "--output-dir", folder, *run]))

    for name, folder in folders.items():
        for seed in range(o.seeds):
            for kind, labels in (("soft", ()), ("hard", ("--loss-type", "ce", *recipe.views))):
                steps.append((f"validate: {name}, {kind} labels, seed {seed}", train_fkd, [
                    "--student", "resnet18", "--epochs", recipe.epochs, "--seed", seed,
                    *recipe.test, *recipe.student, "--output-dir", folder, *run, *labels,
                    "--student-name", f"{kind}_seed{seed}"]))
    return steps


def print_steps(steps):
    """Print the commands."""
    from reproduce import command_line

    for _, entry, arguments in steps:
        print(command_line(entry.__spec__.name, arguments))


if __name__ == "__main__":
    run_entry(main)
