"""Stage 1: for each unit of work (IPC slice, class chunk) of this rank: start, synthesize, save.

    python -m recover.data_synthesis --train-dir imagenet/train --output-dir results/prism_r18_ipc10
"""

from models.bn_statistics import has_batch_norm
from models.networks import check_name, fingerprint
from models.teachers import load_teachers
from recover.args import get_args_parser
from recover.estimate import seconds_per_image_step
from recover.group_run import GroupRun
from recover.start import check_teacher
from recover.synthesize import Recipe
from recover.teacher_pool import bn_teachers_of_slice, without_primary
from recover.unit_files import RESTART, UnitFiles
from recover.units import build_units, group_units
from utils import datasets, distributed, options, run_folder, schedules
from utils.errors import UserError, run_entry
from utils.progress import duration, progress_bar


def main(argv=None):
    args = get_args_parser().parse_args(argv)
    if args.ipc_start >= args.ipc_end:
        raise UserError(f"--ipc-start {args.ipc_start} --ipc-end {args.ipc_end}: no slice in between. Raise --ipc-end.")
    threads, device = options.set_threads(args.threads), distributed.choose_device(args.device)
    real = datasets.open_images(args.dataset, "train", args.train_dir, args.image_size)
    settings = resolve(args, real)
    for name in [settings["primary_teacher"], *settings["bn_teachers"]]:  # also those that no slice draws
        check_name(name)
    recipe = make_recipe(settings)
    options.print_options("recover", {**settings, "teacher_weights": args.teacher_weights, "classes": len(real.classes),
                                      "ipc": f"{args.ipc_start} to {args.ipc_end - 1}", "device": device, "threads": threads,
                                      "output_dir": args.output_dir})
    run_folder.check_writable(args.output_dir)
    run_folder.remove_leftovers(args.output_dir)

    units = [unit for unit in plan_units(settings, real, args.ipc_end) if unit.ipc_id >= args.ipc_start]
    if not units:
        raise UserError(f"--ipc-start {args.ipc_start}: no class has an image for IPC slice {args.ipc_start} or a later one. Lower "
                        "--ipc-start, or add images.")
    networks = load_networks(units, settings, args.teacher_weights, real.classes, device)
    weights = {name: fingerprint(network) for name, network in networks.items()}
    files = UnitFiles(args.output_dir, len(real.classes), args.ipc_end, settings["image_format"])
    mine = my_groups(group_units(units, args.units_per_step), files, weights)
    primary = networks.get(settings["primary_teacher"])
    if mine and primary is not None and args.min_teacher_accuracy != 0:
        check_teacher(primary, real, units, settings, args.min_teacher_accuracy, device, args.workers)
    manifest = {"options": settings, "teacher_weights": str(args.teacher_weights), "threads": threads,
                "versions": run_folder.versions(), "id_digits": files.id_digits,
                "identity": {"classes": real.classes, "train_images": real.fingerprint(),
                             "primary_weights": weights.get(settings["primary_teacher"])}}
    run_folder.settle_manifest(files.manifest, manifest, RESTART)
    print_plan(units, mine, networks, real, recipe, device)
    total = sum(map(image_steps, mine))
    with progress_bar(total, "recover", " image-steps", unit_scale=True) as bar:
        for group in mine:
            GroupRun(group, args, settings, real, networks, weights, files, device, bar).run(recipe)
    distributed.print0(f"recover: done; images lie in {args.output_dir / 'images'}")


def resolve(args, real):
    """The options that change pixels, with defaults that depend on the data filled in."""
    size = real.image_size
    image_format = args.image_format
    if image_format == "auto":
        image_format = "png" if size < 64 else "jpg"
    return {
        "dataset": args.dataset, "image_size": size, "start": args.start, "allow_short_classes": args.allow_short_classes,
        "image_format": image_format, "primary_teacher": args.primary_teacher,
        "bn_teachers": without_primary(args.bn_teachers, args.primary_teacher), "bn_slots": args.bn_slots,
        "bn_slot_prob": args.bn_slot_prob, "r_bn": args.r_bn,
        "first_bn_multiplier": args.first_bn_multiplier, "tv_l2": args.tv_l2, "l2_scale": args.l2_scale,
        "batch_size": args.batch_size, "iteration": args.iteration, "steps": args.steps, "lr": args.lr,
        "min_scale_crops": args.min_scale_crops,
        "flip_prob": (0.5 if real.flips else 0.0) if args.flip_prob is None else args.flip_prob,
        "jitter": 32 * size // 224 if args.jitter is None else args.jitter,
        "units_per_step": args.units_per_step, "seed": args.seed,
    }


def make_recipe(settings):
    return Recipe(lr=settings["lr"], r_bn=settings["r_bn"], first_bn_multiplier=settings["first_bn_multiplier"],
                  min_area=settings["min_scale_crops"], flip=settings["flip_prob"], jitter=settings["jitter"],
                  tv=settings["tv_l2"], l2=settings["l2_scale"], seed=settings["seed"])


def plan_units(settings, real, ipc_end):
    """All units up to ipc_end; a pure function of the options and of the number of images per class."""
    primary, varied = settings["primary_teacher"], settings["steps"] == "varied"
    available = None if settings["start"] == "noise" else [len(files) for files in real.by_class]
    return build_units(
        ipc_end, settings["batch_size"], available, real.classes, settings["allow_short_classes"],
        steps_of=lambda i: schedules.recover_steps(i, settings["iteration"], varied),
        teachers_of=lambda i: (primary, bn_teachers_of_slice(primary, settings["bn_teachers"], settings["bn_slots"],
                                                             settings["bn_slot_prob"], settings["seed"], i)))


def load_networks(units, settings, weights, classes, device):
    """Load each net that will run, once: the primary, and those BN teachers drawn that have BatchNorm. None for 0 steps."""
    if settings["iteration"] == 0:
        return {}
    primary = settings["primary_teacher"]
    drawn = {name for unit in units for name in unit.bn_teachers}
    names = [primary] + [n for n in settings["bn_teachers"] if n in drawn and has_batch_norm(n)]
    return load_teachers(names, weights, classes, device, settings["image_size"])


def image_steps(group):
    """Work in a group of units: images times steps."""
    return sum(len(unit.classes) * unit.steps for unit in group)


def my_groups(groups, files, weights):
    """What is left to do on this rank, as groups of units that share forwards.

    Groups are dealt out whole and by their work, before looking at what is finished: ranks that start at different times
    deal alike. Finished units are checked to come from these teachers' weights ({name: fingerprint}).
    """
    left = []
    for group in distributed.share_by_cost(groups, image_steps):
        unfinished = [unit for unit in group if not files.is_finished(unit, weights)]
        if unfinished:
            left.append(unfinished)
    return left


def print_plan(units, mine, networks, real, recipe, device):
    """Say how much there is to do and about how long it will take."""
    todo = [unit for group in mine for unit in group]
    text = f"recover: {len(todo)} of {len(units)} units to do on this rank, {sum(map(image_steps, mine)):,} image-steps"
    if networks and todo:
        together = sum(len(unit.classes) for unit in mine[0])
        seconds = seconds_per_image_step(networks, together, real.image_size, recipe, device)
        whole = sum(image_steps([u]) * sum(seconds[n] for n in networks if n in (u.logit_teacher, *u.bn_teachers)) for u in todo)
        text += f", about {duration(whole)} (timed on one step of each teacher)"
    distributed.print0(text)


if __name__ == "__main__":
    run_entry(main)
