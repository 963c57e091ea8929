"""The quickstart's plan for folders of images: made once, printed, kept and found again."""

import functools
import os
from dataclasses import asdict, replace

from data.names import is_wnids
from data.run_folder import check_apart, settle_manifest
from data.survey import survey
from reproduce import plan as planning
from reproduce.plan import Plan, Wishes
from reproduce.speed import image_seconds
from utils import distributed, options
from utils.errors import UserError
from utils.files import check_writable, damaged
from utils.progress import duration

MINUTES = 30  # by default
FAST_IPC, FAST = 2, {"iteration": 8, "epochs": 4, "eval_every": 2, "teacher_epochs": 1}


def settle_plan(o, out):
    """The Plan for the images of --train-dir, printed; that of an earlier start where there is one.

    o: reproduce.quickstart.Quickstart. out: the folder that keeps plan.json. Raises UserError for
    images that cannot be distilled, a budget that is too small, and other options than before.
    """
    if o.train_dir.resolve() == o.val_dir.resolve():
        raise UserError(f"--val-dir {o.val_dir}: is the folder of the training images. Give images "
                        "that no network is trained on.")
    for folder in (o.train_dir, o.val_dir):
        check_apart("--output-dir", out, folder)
    train, test = survey(o.train_dir, ("train",)), survey(o.val_dir, ("test", "val"))
    check_classes(o, train, test)
    device = distributed.choose_device(o.device or "auto")
    machine = f"{device.type} with {distributed.set_threads(o.threads)} threads"

    file, content = out / "plan.json", describe(o, train, test)
    if file.exists():
        content = settle_manifest(file, content, "Give the same options, or another --output-dir.")
    else:
        content |= {"plan": asdict(make(o, train, test, device)), "machine": machine}
    try:
        plan = Plan(**content["plan"])
        print_plan(o, train, count_tests(train, test), plan, content["machine"])
    except (KeyError, TypeError) as error:
        raise damaged(file, "the same command", error) from None

    if not (o.dry_run or file.exists()):
        check_writable(out)
        settle_manifest(file, content, "")
    return plan


def count_tests(train, test):
    """Number of test images of the training images' classes."""
    return sum(count for name, count in zip(test.classes, test.counts, strict=True)
               if name in train.classes)


def check_classes(o, train, test):
    """Raise UserError unless both folders hold the same classes, two or more.

    Further wnids among the test images are left alone, as the stages do.
    """
    if len(train.classes) < 2:
        raise UserError(f"{o.train_dir}: has one class folder, {train.classes[0]}. A classifier "
                        "needs two or more.")
    other = set(train.classes) ^ set(test.classes)
    if is_wnids(train.classes):
        other -= set(test.classes)
    if other:
        name = min(other)
        place = o.train_dir if name in train.classes else o.val_dir
        raise UserError(f"{name} is a class in {place} alone: {o.train_dir} has "
                        f"{len(train.classes)} class folders, {o.val_dir} has {len(test.classes)}. "
                        "Both must have the same ones.")
    if o.ipc is not None and o.ipc > min(train.counts):
        least = min(train.counts)
        name = train.classes[train.counts.index(least)]
        raise UserError(f"--ipc {o.ipc}: class {name} has {least} training images to start from. "
                        f"Give --ipc {least}, or add images.")


def describe(o, train, test):
    """What the plan depends on, for plan.json: options and images. Students may be added."""
    keep = ("minutes", "mirror", "ipc", "image_size", "fast")
    return {"options": {name: getattr(o, name) for name in keep},
            "identity": {"train": [list(train.classes), list(train.counts)],
                         "test": list(test.counts)}}


def make(o, train, test, device):
    """The Plan, by this machine's speed; with --fast the cheapest one, cut short."""
    wishes = Wishes(o.minutes or MINUTES, o.seeds, o.ipc, o.image_size, o.mirror)
    tests = count_tests(train, test)
    print("Timing a few steps of each network ...", flush=True)
    if device.type == "cpu":
        note_load(os.getloadavg()[0], os.cpu_count())
    speed = functools.partial(image_seconds, classes=len(train.classes), device=device)
    if o.fast:
        return fast(train, tests, wishes, speed)
    try:
        return planning.choose(train, tests, wishes, speed)
    except planning.TooShort as error:
        raise UserError(f"--minutes {wishes.minutes:g}: {train.images} images of {train.side} px "
                        f"need {error.minutes} minutes at least on this machine. Give --minutes "
                        f"{error.minutes}, or fewer images.") from None


def note_load(load, cores):
    """Print a note where other programs slow the timing. load: mean number of busy threads."""
    if load > cores / 2:
        print(f"note: other programs use this machine, whose {cores} cores had a load of "
              f"{load:.1f} in the last minute. The plan takes it to be as slow as it is now; on an "
              "idle machine it would find time for more.", flush=True)


def fast(train, tests, wishes, speed):
    """The Plan of --fast: a few steps and epochs at the cheapest size."""
    plan, _ = planning.fill(train, tests, wishes,
                            *planning.candidates(train, wishes.image_size)[-1], speed)
    ipc = plan.ipc if wishes.ipc else min(plan.ipc, FAST_IPC)
    plan = replace(plan, ipc=ipc, units_per_step=min(ipc, plan.units_per_step), **FAST)
    return replace(plan, seconds=planning.estimate(plan, train, tests, wishes, speed))


def print_plan(o, train, tests, plan, machine):
    """Print what was found and what was chosen, each with its reason. tests: how many images."""
    least, most = min(train.counts), max(train.counts)
    counts = f"{least}" if least == most else f"{least} to {most}"
    options.print_options(f"{o.train_dir}", {
        "images": f"{len(train.classes)} classes, {counts} images each, {tests} to test",
        "short side": f"{side_words(train.sides)} px" + (", grey" if train.grey else "")})

    seconds = {stage: f"about {duration(spent)}" for stage, spent in plan.seconds.items()}
    options.print_options(f"The plan for --minutes {o.minutes or MINUTES:g} on {machine}", {
        "image size": f"{plan.image_size} px{side_reason(train, plan)}, stem {plan.stem}"
                      f"{better_words(plan)}",
        "mirroring": mirror_words(o.mirror, plan.flip_prob),
        "teachers": f"{' '.join(plan.teachers)}, {plan.teacher_epochs} epochs, batch "
                    f"{plan.batch_size}, {seconds['squeeze']}",
        "images": f"{plan.ipc} per class{ipc_words(o, plan, least)}, {plan.iteration} steps, "
                  f"{plan.units_per_step} slices in a step, {seconds['recover']}",
        "labels": f"{plan.epochs} epochs, {seconds['relabel']}",
        "students": f"{2 * 3 * o.seeds} of {planning.STUDENT}, {plan.epochs} epochs, "
                    f"{seconds['validate']}",
        "together": f"about {duration(plan.total)}"})
    if is_wnids(train.classes):
        distributed.print0("note: the classes are ImageNet's, for which published teachers need no "
                           "training. docs/data.md says how the stages use them.")


def side_words(sides):
    """(least, median, most) as words."""
    least, median, most = sides
    return f"{least}" if least == most else f"{least} to {most}, median {median}"


def side_reason(train, plan):
    """Why images are enlarged, if they are."""
    enlarged = plan.image_size == planning.LEAST_SIDE > train.side
    return " (the least that the networks take)" if enlarged else ""


def ipc_words(o, plan, least):
    """Why there are fewer images per class than usual, if there are."""
    limited = o.ipc is None and not o.fast and plan.ipc == least
    return " (all that the smallest class has)" if limited else ""


def better_words(plan):
    """What a larger budget would buy."""
    if plan.better is None:
        return ""
    size, stem, minutes = plan.better
    return f" (with --minutes {minutes}: {size} px, stem {stem})"


def mirror_words(wish, flip_prob):
    """Whether images are mirrored, and why."""
    if wish != "auto":
        return f"{wish}, as --mirror says"
    if flip_prob:
        return "yes (--mirror no where a mirrored image shows another class, such as text)"
    return "no (small grey images may be letters; --mirror yes where they are not)"
