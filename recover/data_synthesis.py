"""Stage 1: for each unit of work (IPC slice, class chunk) of this rank: start, synthesize, save.

    python -m recover.data_synthesis --train-dir imagenet/train --output-dir results/prism_r18_ipc10
"""

import time

import torch

from models.bn_statistics import has_batch_norm
from models.evaluate import accuracy
from models.networks import check_name, fingerprint
from models.teachers import load_teachers
from recover.args import get_args_parser
from recover.estimate import seconds_per_image_step
from recover.loss_log import first_bad_term
from recover.synthesize import Recipe, UnitState, synthesize
from recover.teacher_pool import bn_teachers_of_slice, without_primary
from recover.unit_files import UnitFiles
from recover.units import build_units, group_units
from utils import datasets, distributed, images, options, run_folder, schedules
from utils.errors import UserError, run_entry
from utils.progress import duration, progress_bar
from utils.seeding import stream

ACCURACY_IMAGES = 1000  # the primary teacher is measured on about so many starting images


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

    units = plan_units(settings, real, args.ipc_end)
    groups = [group for group in group_units(units, args.units_per_step) if group[-1].ipc_id >= args.ipc_start]
    if not groups:
        raise UserError(f"--ipc-start {args.ipc_start}: no class has an image for IPC slice {args.ipc_start} or a later one. Lower "
                        "--ipc-start, or add images.")
    networks = load_networks(groups, settings, args.teacher_weights, real.classes, device)
    files = UnitFiles(args.output_dir, len(real.classes), settings["image_format"])
    # A share of all groups, then what is missing: ranks that start at different times must not split different lists.
    mine = [group for group in distributed.my_share(groups) if not all(map(files.is_finished, group))]
    primary = networks.get(settings["primary_teacher"])
    if mine and primary is not None and args.min_teacher_accuracy != 0:
        check_teacher(primary, real, units, settings, args, device)
    manifest = {"options": settings, "teacher_weights": str(args.teacher_weights), "threads": threads,
                "versions": run_folder.versions(),
                "identity": {"classes": real.classes, "primary_weights": primary and fingerprint(primary)}}
    run_folder.settle_manifest(args.output_dir / "images.json", manifest,
                               "Give the same options again, or choose another --output-dir.")
    print_plan(groups, mine, networks, real, recipe, device)
    total = sum(len(unit.classes) * unit.steps for group in mine for unit in group)
    with progress_bar(total, "recover", " image-steps", unit_scale=True) as bar:
        for group in mine:
            GroupRun(group, args, settings, real, networks, files, device, bar).run(recipe)
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


def load_networks(groups, settings, weights, classes, device):
    """Load each net that will run, once: the primary, and those BN teachers drawn that have BatchNorm. None for 0 steps."""
    if settings["iteration"] == 0:
        return {}
    primary = settings["primary_teacher"]
    drawn = {name for group in groups for unit in group for name in unit.bn_teachers}
    names = [primary] + [n for n in settings["bn_teachers"] if n in drawn and has_batch_norm(n)]
    return load_teachers(names, weights, classes, device, settings["image_size"])


def start_images(unit, real, settings, workers):
    """The start of a unit: uint8 and normalised float32 [n, 3, S, S], and words that say where each image comes from."""
    size = real.image_size
    if settings["start"] == "noise":
        generator = stream(settings["seed"], "noise", unit.ipc_id, unit.chunk)
        x = torch.randn(len(unit.classes), 3, size, size, generator=generator)
        return images.to_uint8(x), x, ["noise"] * len(unit.classes)
    indices = [start_index(real, c, unit.ipc_id, settings) for c in unit.classes]
    pixels = real.pixels(indices, workers)
    return pixels, images.normalise(pixels), [real.where(i) for i in indices]


def start_index(real, label, ipc_id, settings):
    """Which real image slice ipc_id of a class starts from: the ipc_id-th file, or the ipc_id-th of a seeded permutation."""
    own = real.by_class[label]
    if settings["start"] == "random":
        order = torch.randperm(len(own), generator=stream(settings["seed"], "start", label))
        return int(own[order[ipc_id]])
    return int(own[ipc_id])


def check_teacher(network, real, units, settings, args, device):
    """Measure the primary teacher on real starting images; near chance nothing good can come, so stop."""
    indices = []
    for unit in units:
        if len(indices) >= ACCURACY_IMAGES:
            break
        indices += [start_index(real, c, unit.ipc_id, settings) for c in unit.classes]
    labels = torch.from_numpy(real.labels[indices])
    top1 = accuracy(network, real.pixels(indices, args.workers), labels, device)["top1"]
    chance = 100 / len(real.classes)
    least = chance + (100 - chance) / 10 if args.min_teacher_accuracy is None else args.min_teacher_accuracy
    name = settings["primary_teacher"]
    distributed.print0(f"{name} classifies {top1:.1f} % of {len(indices)} real starting images right (chance {chance:.1f} %)")
    if top1 < least:
        raise UserError(f"{name} classifies {top1:.1f} % of the real starting images right (chance {chance:.1f} %), expected at "
                        f"least {least:.1f} %. Probably the class folders are in another order than the teacher's head, or "
                        "these weights belong to another dataset or image size. --min-teacher-accuracy sets the limit; 0 switches "
                        "this off.")


def print_plan(groups, mine, networks, real, recipe, device):
    """Say how much there is to do and about how long it will take."""
    todo = [unit for group in mine for unit in group]
    image_steps = sum(len(unit.classes) * unit.steps for unit in todo)
    done = sum(len(g) for g in groups) - len(todo)
    text = f"recover: {len(todo)} units to do on this rank, {done} finished or on other ranks; {image_steps:,} image-steps"
    if image_steps:
        seconds = seconds_per_image_step(networks, todo[0], real.image_size, recipe, device)
        whole = sum(len(u.classes) * u.steps * sum(seconds[n] for n in networks if n in (u.logit_teacher, *u.bn_teachers))
                    for u in todo)
        text += f", about {duration(whole)} (timed on one step of each teacher)"
    distributed.print0(text)


class GroupRun:
    """Optimise one group of units that share forwards, with progress, checkpoints and saving."""

    def __init__(self, group, args, settings, real, networks, files, device, bar):
        self.group, self.args, self.settings, self.real = group, args, settings, real
        self.networks, self.files, self.bar = networks, files, bar
        self.starts, self.sources, self.states = {}, {}, []
        for unit in group:
            self.starts[unit], x, self.sources[unit] = start_images(unit, real, settings, args.workers)
            self.states.append(UnitState(unit, x.to(device), torch.tensor(unit.classes, device=device)))

    def run(self, recipe):
        first = self.files.load_checkpoint(self.group, self.states)
        self.bar.update(sum(len(s) * min(first, s.unit.steps) for s in self.states))
        self.begin = time.time()
        for state in self.states:
            if state.unit.steps <= first:  # iteration 0, or finished before the checkpoint
                self.finish(state)
        synthesize(self.states, self.networks, recipe, first, self.args.log_every, self.after_step, self.finish)
        self.files.drop_checkpoint(self.group)

    def after_step(self, step, active):
        self.bar.update(sum(len(s) for s in active))
        self.bar.set_postfix_str(f"slice {active[0].unit.ipc_id}-{active[-1].unit.ipc_id}, chunk {active[0].unit.chunk}, "
                                 f"step {step + 1}/{max(s.unit.steps for s in active)}", refresh=False)
        if step % self.args.log_every == 0:
            for state in active:
                self.report(state, state.log.arrived())
        if (step + 1) % self.args.checkpoint_every == 0 and any(s.unit.steps > step + 1 for s in active):
            for state in self.states:
                self.report(state, state.log.finish())
            self.files.save_checkpoint(self.group, self.states, step + 1)

    def report(self, state, rows):
        """Print rows of loss terms; stop at one that is not finite."""
        unit = state.unit
        for row in rows:
            step, terms = row
            bad = first_bad_term(row)
            if bad is not None:
                raise UserError(f"{unit.name}: {bad} is {terms[bad]} at step {step}. A smaller --lr or --r-bn may help; the last "
                                "checkpoint is kept.")
            words = "  ".join(f"{name} {value:.3f}" for name, value in terms.items())
            if distributed.rank() == 0:
                self.bar.write(f"slice {unit.ipc_id} chunk {unit.chunk} step {step}/{unit.steps}  {words}")

    def finish(self, state):
        """Save a unit after its last step."""
        unit = state.unit
        self.report(state, state.log.finish())
        start = self.starts[unit]
        pixels = images.to_uint8(state.x.detach()).cpu() if unit.steps else start  # normalising and back would lose a level
        record = {
            "ipc_id": unit.ipc_id, "chunk": unit.chunk, "steps": unit.steps,
            "logit_teacher": unit.logit_teacher if unit.steps else None, "bn_teachers": unit.bn_teachers if unit.steps else [],
            "weights": {name: fingerprint(net) for name, net in self.networks.items()},
            "start": dict(zip([self.real.classes[c] for c in unit.classes], self.sources[unit], strict=True)),
            "units_together": [u.name for u in self.group],
            "terms": [{"step": step, **terms} for step, terms in state.log.rows],
            "seconds": round(time.time() - self.begin, 1),
        }
        self.files.save_unit(unit, pixels, start, record, self.real.classes)


if __name__ == "__main__":
    run_entry(main)
