"""The quickstart's plan for folders of images: made once, printed, kept and found again."""

import functools
from dataclasses import asdict, replace

from data.image_set import is_wnids
from data.run_folder import settle_manifest
from data.survey import survey
from reproduce import plan as planning
from reproduce.plan import Plan, Wishes
from reproduce.speed import image_seconds
from utils import distributed, options
from utils.errors import UserError
from utils.files import check_writable
from utils.progress import duration

_FAST = {"ipc": 2, "iteration": 8, "epochs": 4, "eval_every": 2, "teacher_epochs": 1}


def settle_plan(o, out):
    """The Plan for the images of --train-dir, printed; that of an earlier start where there is one.

    o: reproduce.quickstart.Quickstart. out: the folder that keeps plan.json. Raises UserError for
    images that cannot be distilled, a budget that is too small, and other options than before.
    """
    train, test = survey(o.train_dir, 4), survey(o.val_dir, 4)
    check_classes(o, train, test)
    device = distributed.choose_device(o.device or "auto")
    threads = distributed.set_threads(o.threads)

    file, content = out / "plan.json", describe(o, train, test)
    if file.exists():
        content = settle_manifest(file, content, "Give the same options, or another --output-dir.")
        plan = Plan(**content["plan"])
    else:
        plan = make(o, train, test, device)
        if not o.dry_run:
            check_writable(out)
            settle_manifest(file, {**content, "plan": asdict(plan)}, "")
    print_plan(o, train, test, plan, f"{device.type} with {threads} threads")
    return plan


def check_classes(o, train, test):
    """Raise UserError unless both folders hold the same classes, two or more."""
    if len(train.classes) < 2:
        raise UserError(f"{o.train_dir}: has one class folder, {train.classes[0]}. A classifier "
                        "needs two or more.")
    other = sorted(set(train.classes) ^ set(test.classes))
    if other:
        place = o.train_dir if other[0] in train.classes else o.val_dir
        raise UserError(f"{other[0]} is a class in {place} alone: {o.train_dir} has "
                        f"{len(train.classes)} class folders, {o.val_dir} has {len(test.classes)}. "
                        "Both must have the same ones.")
    if o.ipc is not None and o.ipc > min(train.counts):
        least = min(train.counts)
        name = train.classes[train.counts.index(least)]
        raise UserError(f"--ipc {o.ipc}: class {name} has {least} training images to start from. "
                        f"Give --ipc {least}, or add images.")


def describe(o, train, test):
    """What the plan depends on, for plan.json: options and images."""
    keep = ("minutes", "mirror", "ipc", "image_size", "seeds", "fast")
    return {"options": {name: getattr(o, name) for name in keep},
            "identity": {"train": [list(train.classes), list(train.counts)],
                         "test": list(test.counts)}}


def make(o, train, test, device):
    """The Plan, by this machine's speed."""
    wishes = Wishes(o.minutes, o.seeds, o.ipc, o.image_size, o.mirror)
    print("Timing a few steps of each network ...", flush=True)
    speed = functools.partial(image_seconds, classes=len(train.classes), device=device)
    try:
        plan = planning.choose(train, test.images, wishes, speed)
    except planning.TooShort as error:
        raise UserError(f"--minutes {o.minutes:g}: {train.images} images of {train.side} px need "
                        f"about {error.minutes} minutes at least on this machine. Give --minutes "
                        f"{error.minutes}, a smaller --image-size, or fewer images.") from None
    if not o.fast:
        return plan
    plan = replace(plan, **{**_FAST, "ipc": min(plan.ipc, _FAST["ipc"])})
    return replace(plan, seconds=planning.estimate(plan, train, test.images, wishes, speed))


def print_plan(o, train, test, plan, machine):
    """Print what was found and what was chosen, each with its reason."""
    least, most = min(train.counts), max(train.counts)
    counts = f"{least}" if least == most else f"{least} to {most}"
    options.print_options(f"{o.train_dir}", {
        "images": f"{len(train.classes)} classes, {counts} images each, {test.images} to test",
        "short side": f"{side_words(train.sides)} px" + (", grey" if train.grey else "")})

    seconds = {stage: f"about {duration(spent)}" for stage, spent in plan.seconds.items()}
    options.print_options(f"The plan for --minutes {o.minutes:g} on {machine}", {
        "image size": f"{plan.image_size} px, stem {plan.stem}{better_words(plan)}",
        "mirroring": mirror_words(o.mirror, plan.flip_prob),
        "teachers": f"{' '.join(plan.teachers)}, {plan.teacher_epochs} epochs, batch "
                    f"{plan.batch_size}, {seconds['squeeze']}",
        "images": f"{plan.ipc} per class, {plan.iteration} steps, {plan.units_per_step} slices in "
                  f"a step, {seconds['recover']}",
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
