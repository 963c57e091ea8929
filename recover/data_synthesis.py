"""Stage 1: for each unit of work (IPC slice, class chunk) of this rank: start, synthesize, save.

    python -m recover.data_synthesis --train-dir imagenet/train --output-dir results/prism_r18_ipc10
"""

import torch

from data import datasets, run_folder
from models.networks import check_name, fingerprint
from models.teachers import load_teachers
from recover import alignment, ranking
from recover.args import get_args_parser
from recover.estimate import propose_units, seconds_per_image_step
from recover.group_run import GroupRun
from recover.priors.measured import check_images
from recover.settings import RANKED, changed, check, make_law, make_recipe, resolve, unread
from recover.start import StartFolder, Starts, check_teacher
from recover.unit_files import RESTART, UnitFiles
from recover.units import build_class_batches, build_slices, group_units
from utils import distributed, options, schedules
from utils import files as disk
from utils.errors import UserError, memory_advice, own_work_begins, run_entry, try_half
from utils.host_memory import keep_freed_memory
from utils.precision import Arithmetic
from utils.progress import duration, progress_bar


def main(argv=None):
    args = get_args_parser().parse_args(argv)
    check(args)
    shard = options.settle_shard(args.shard)
    threads, device = options.set_threads(args.threads), distributed.choose_device(args.device)
    keep_freed_memory()
    real = datasets.open_images(args.dataset, "train", args.train_dir, args.image_size)
    settings = resolve(args, real)
    law, recipe = make_law(settings), make_recipe(settings)
    for name in filter(None, [*law.everyone, settings["ranker"], args.verifier]):  # also those that nothing draws
        check_name(name)
    options.print_options("recover", {
        "preset": args.preset, **{name: value for name, value in settings.items() if value is not None},
        "teacher_weights": args.teacher_weights, "classes": len(real.classes), "ipc": f"{args.ipc_start} to {args.ipc_end - 1}",
        "shard": options.shard_words(shard), "device": device, "threads": threads, "output_dir": args.output_dir})
    options.note_unread(args, unread(args))
    disk.check_writable(args.output_dir)
    disk.remove_leftovers(args.output_dir)
    source = StartFolder(args.start_dir, real.image_size, real.classes, args.workers) if args.start_dir else real
    starts = Starts(real, settings, source, args.output_dir, args.workers)
    units = plan_units(settings, starts.available, real.classes, law, args.ipc_start, args.ipc_end)

    networks = load_networks(units, settings, args.verifier, args.teacher_weights, real.classes, device)
    weights = {name: fingerprint(network) for name, network in networks.items()}
    files = UnitFiles(args.output_dir, len(real.classes), args.ipc_end, settings["image_format"])
    own_work_begins()
    mine = my_groups(group_units(units, args.units_per_step), files, weights, shard)
    if mine and args.min_teacher_accuracy != 0:
        choosers = {*logit_teachers(units, networks), *filter(None, [settings["ranker"]])}
        for name in sorted(choosers):
            check_teacher(name, networks[name], real, args.min_teacher_accuracy, device, args.workers)
    if settings["start"] in RANKED:  # images.json ties the folder to its options: first see that the images can be made
        ranking.check(settings["start"], real, range(len(real.classes)), settings)
    check_images(real, settings["statistics_images"] or 0, bool(settings["class_statistics"]))
    check_space(files, mine, settings["image_size"])
    identity = {"classes": real.classes, "train_images": real.fingerprint(), "start_images": getattr(source, "identity", None),
                "primary_weights": weights.get(settings["primary_teacher"])}
    run_folder.settle_manifest(files.manifest, {
        "options": settings, "preset": args.preset, "preset_changed": changed(args, settings, real), "threads": threads,
        "teacher_weights": str(args.teacher_weights), "versions": run_folder.versions(), "id_digits": files.id_digits,
        "identity": identity}, RESTART)
    if settings["start"] in RANKED:
        ranking.settle_selection(settings["start"], args.output_dir, real, range(len(real.classes)), networks[settings["ranker"]],
                                 settings, device, args.workers)
    alignments = {}
    if settings["iteration"] and (mine or distributed.world_size() > 1):  # ranks measure statistics together
        guides = {name: networks[name] for name in networks if any(name in unit.possible for unit in units)}
        bn_teachers = set().union(*(unit.fixed.bn if unit.fixed else law.everyone for unit in units))
        folder = alignment.statistics_folder(args.teacher_weights, args.statistics_dir)
        alignments = alignment.build_alignments(guides, bn_teachers, settings, real, folder, device, args.workers,
                                                Arithmetic(settings["precision"], settings["compile"]))
    with memory_advice(smaller_step(args)):
        print_plan(units, mine, alignments, settings, device)
        if "units_per_step" not in args.given and mine and alignments and device.type == "cuda":
            note_units(units, mine[0][0], device)
        total = sum(map(image_steps, mine))
        with progress_bar(total, "recover", " image-steps", unit_scale=True) as bar:
            for group in mine:
                run = GroupRun(group, args, starts, alignments, networks.get(args.verifier), weights, files, device, bar)
                run.run(recipe)
    whose = "done" if distributed.place_of(shard)[1] == 1 else "this share is done"
    distributed.print0(f"recover: {whose}; images lie in {args.output_dir / 'images'}")


def check_space(files, mine, size):
    """Say how much this share will write; refuse what the disk has no room for."""
    images = sum(len(unit.classes) for group in mine for unit in group)
    together = max((sum(len(unit.classes) for unit in group) for group in mine), default=0)
    disk.check_space("recover", files.run, files.space(images, together, size), "Choose another --output-dir, a smaller "
                           "--ipc-end, or --image-format jpg.")


def smaller_step(args):
    """What to try when a step does not fit into a GPU."""
    elsewhere = "It changes the images, so give another --output-dir or remove this one"
    if args.units_per_step > 1:
        return try_half("--units-per-step", args.units_per_step, f"fewer units share a forward. {elsewhere}")
    return try_half("--batch-size", args.batch_size, f"fewer images form a unit. {elsewhere}")


def plan_units(settings, available, classes, law, ipc_start, ipc_end):
    """The units of slices ipc_start ... ipc_end - 1, numbered from slice 0 on; a pure function of its arguments.

    available: start images per class, None where there is no end of them.
    """
    common = (settings["batch_size"], available, classes, settings["allow_short_classes"])
    if settings["batch_layout"] == "class":
        units = build_class_batches(ipc_end, *common, settings["iteration"], settings["early_late"], law)
    else:
        varied = settings["steps"] == "varied"
        units = build_slices(ipc_end, *common, lambda i: schedules.recover_steps(i, settings["iteration"], varied), law)
        units = [unit for unit in units if unit.ipc_ids[0] >= ipc_start]
    if not units:
        raise UserError(f"--ipc-start {ipc_start}: no class has an image for IPC slice {ipc_start} or a later one. Lower "
                        "--ipc-start, or add images.")
    return units


def load_networks(units, settings, verifier, weights, classes, device):
    """Load each net that will run, once: teachers of the units that guide or have layers to align to, ranker, verifier."""
    names = [] if settings["ranker"] is None else [settings["ranker"]]
    if settings["iteration"]:
        drawn, logit = set().union(*(unit.possible for unit in units)), logit_teachers(units)
        names += [name for name in (settings["primary_teacher"], *settings["bn_teachers"])
                  if name in logit or (name in drawn and alignment.has_layers(name, settings))]
        names += [] if verifier is None else [verifier]
    return load_teachers(names, weights, classes, device, settings["image_size"])


def logit_teachers(units, among=None):
    """Names of all nets that may be a unit's logit teacher, sorted."""
    found = set().union(*({unit.fixed.logit} if unit.fixed else unit.law.possible_logit for unit in units))
    return sorted(found if among is None else found & set(among))


def image_steps(group):
    """Work in a group of units: the steps of all images."""
    return sum(unit.image_steps() for unit in group)


def my_groups(groups, files, weights, shard=(0, 1)):
    """What is left to do on this rank of this shard, as groups of units that share forwards.

    Groups are dealt out whole and by their work, before looking at what is finished: processes that start at different times
    deal alike. Finished units are checked to come from these teachers' weights ({name: fingerprint}).
    """
    mine = distributed.share_by_cost(groups, image_steps, shard)
    return [company for group in mine for company in files.unfinished(group, weights)]


def print_plan(units, mine, alignments, settings, device):
    """Say how much there is to do and about how long it will take."""
    todo = [unit for group in mine for unit in group]
    text = f"recover: {len(todo)} of {len(units)} units to do on this rank, {sum(map(image_steps, mine)):,} image-steps"
    if alignments and todo:
        together = [len(unit.classes) for unit in mine[0]]
        seconds = seconds_per_image_step(alignments, together, settings["image_size"], device, settings["compile"])
        whole = sum(image_steps([unit]) * step_seconds(unit, seconds) for unit in todo)
        text += f", about {duration(whole)} (timed on one step of each teacher)"
    distributed.print0(text)


def note_units(units, unit, device):
    """Say how many units this GPU has room for; to be called after print_plan, which has run a unit through all teachers."""
    alike = sum(other.steps == unit.steps and other.ipc_ids[0] == unit.ipc_ids[0] for other in units)
    count = propose_units(len(unit.classes), torch.cuda.max_memory_allocated(device), torch.cuda.mem_get_info(device)[1], alike)
    if count > 1:
        distributed.print0(f"note: this GPU has room for more than a unit of {len(unit.classes)} images in a step: "
                           f"--units-per-step {count} fills it better. It is stored with the images and may change last bits.")


def step_seconds(unit, seconds):
    """Seconds that an image and step of a unit take, averaged over some steps where its teachers change."""
    steps = [0] if unit.fixed else range(0, unit.steps, max(1, unit.steps // 20))
    drawn = [unit.teachers(step) for step in steps]
    return sum(seconds.get(name, 0.0) for guides in drawn for name in {guides.logit, *guides.bn}) / max(1, len(drawn))


if __name__ == "__main__":
    run_entry(main)
