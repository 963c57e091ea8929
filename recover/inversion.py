"""Images by inversion of classifiers: what recover prepares, its work, and what it says at the end.

Imports PyTorch and the networks, so the entry imports it after the options are parsed.
"""

from dataclasses import dataclass, field

import torch

from data.class_lists import class_list
from data.image_set import ImageSet
from data.opening import classes_alone, note_enlarged, open_real
from data.run_folder import check_apart, read_manifest, settle_manifest, versions
from models.networks import check_name, fingerprint
from models.teachers import load_teachers, trained_size
from recover import ranking
from recover.alignment import build_alignments, has_layers
from recover.estimate import propose_units, seconds_per_image_step, unit_seconds
from recover.options import RANKED, Options, manifest_options, needs_images, resolve
from recover.priors.measured import check_images
from recover.start import Starts, check_teachers
from recover.synthesize import synthesize
from recover.unit_files import RESTART, UnitFiles
from recover.unit_run import UnitRun
from recover.units import in_one_step, plan_units
from utils import distributed, report_to
from utils.errors import UserError, memory_advice, own_work_begins, try_half
from utils.files import check_space, check_writable, remove_leftovers, write_json
from utils.options import print_options, settle_shard, shard_words, shown
from utils.progress import duration, progress_bar


@dataclass
class Job:
    """Everything that the work needs.

    options: resolved. real: ImageSet of the training images. shard: (I, N). starts: start images.
    units: of the whole run. networks: {name: Network}. weights: {name: fingerprint}. files: of the
    run folder. work: lists of units that share forwards, the unfinished ones of this rank.
    alignments: {teacher: alignment}, filled when the work begins. balanced: False once a unit was
    found in which an addend of the loss outweighs the others.
    """

    options: Options
    real: ImageSet
    device: torch.device
    shard: tuple
    starts: Starts
    units: list
    networks: dict
    weights: dict
    files: UnitFiles
    work: list
    alignments: dict = field(default_factory=dict)
    balanced: bool = True

    @property
    def verifier(self):
        """The network that only watches, or None."""
        return self.networks.get(self.options.run.verifier)


def prepare(options):
    """Open the images, plan the units, load the networks, and refuse what cannot work."""
    device, threads = start(options)
    run = options.run
    check_names(options)
    real = open_images(options)
    options, shard = resolve(options, real), settle_shard(run.shard)
    print_options("recover", {"preset": options.preset, **shown(options),
                              "classes": len(real.classes), "shard": shard_words(shard),
                              "device": device, "threads": threads})
    note_enlarged(real)
    check_writable(run.output_dir)
    remove_leftovers(run.output_dir)

    # What there is to do, and for whom
    starts = Starts(real, options, run.output_dir)
    units = plan_units(options, starts.available, real.classes)
    networks = load_networks(options, units, real.classes, device)
    weights = {name: fingerprint(network) for name, network in networks.items()}
    files = UnitFiles(run.output_dir, len(real.classes), options.optimisation.ipc_end,
                      options.data.image_format)
    own_work_begins()
    job = Job(options, real, device, shard, starts, units, networks, weights, files,
              my_work(options, units, files, weights, shard))

    # images.json ties the folder to its options, so first see that the images can be made.
    accuracies = measure_teachers(job) if job.work or not files.manifest.exists() else {}
    if options.start.start in RANKED:
        ranking.check(options, real)
    check_images(real, options.matching)
    check_space("recover", run.output_dir, files.space(units, options),
                "Choose another --output-dir, a smaller --ipc-end, or --image-format jpg.")
    settle(files, manifest(job, threads, accuracies))
    return job


def work(job):
    """Choose start images, measure statistics, then optimise the units of this rank."""
    options, networks = job.options, job.networks
    if options.start.start in RANKED:
        ranking.settle_selection(options, job.real, networks[options.start.ranker], job.device)
    if options.optimisation.iteration and (job.work or distributed.world_size() > 1):
        logit, bn = guides(job.units)
        job.alignments = build_alignments(
            {name: network for name, network in networks.items() if name in logit | bn}, bn,
            options, job.real, job.device)  # ranks measure statistics together

    with memory_advice(smaller_step(options)):
        print_plan(job)
        image_steps = sum(unit.image_steps() for units in job.work for unit in units)
        with progress_bar(image_steps, "recover", " image-steps", unit_scale=True) as bar:
            for units in job.work:
                run = UnitRun(units, job, bar)
                steps = synthesize(run.states, job.alignments, options, run.first_step)
                for step, active in steps:
                    run.after_step(step, active)
                run.finish()


def summarise(job):
    """Say that it is done, and where the images are."""
    share = "done" if distributed.place_of(job.shard)[1] == 1 else "this share is done"
    distributed.print0(f"recover: {share}; the images are in {job.files.run / 'images'}")


def start(options):
    """Apply --threads and --device, check --report-to. Returns (torch.device, threads)."""
    report_to.check(options.run.report_to)
    threads = distributed.set_threads(options.run.threads)
    return distributed.choose_device(options.run.device), threads


def open_images(options):
    """The training images; without --train-dir their classes alone, where these are enough."""
    data, run = options.data, options.run
    if data.dataset == "imagefolder":
        check_apart("--output-dir", run.output_dir / "images", data.train_dir)
    size = data.image_size or trained_size(all_names(options), run.teacher_weights)
    classes = data.classes and class_list(data.classes)
    if data.dataset != "imagefolder" or data.train_dir is not None:
        return open_real(data.dataset, "train", data.train_dir, size, classes, run.workers,
                         data.crop)
    if what := needs_images(options):
        raise UserError(f"{what} needs real images, found no --train-dir (TRAIN_DIR in the "
                        "scripts). Give it. Only --start noise with --classes does without.")
    if classes is None:
        raise UserError("--start noise without --train-dir knows no classes, found no --classes. "
                        "Give a list of them, or --train-dir (TRAIN_DIR in the scripts).")
    return classes_alone(classes, size, run.workers)


def all_names(options):
    """Names of all networks that options name, also of those that nothing would draw."""
    names = [*options.law.everyone, options.start.ranker, options.run.verifier]
    return list(filter(None, names))


def check_names(options):
    """Raise UserError for a network that does not exist."""
    for name in all_names(options):
        check_name(name)


def measure_teachers(job):
    """check_teachers of every network that will run. {} where nothing is measured."""
    least = job.options.run.min_teacher_accuracy
    if least == 0 or not job.networks:
        return {}
    if not len(job.real):
        distributed.print0("note: there are no real images to measure the teachers' accuracy on")
        return {}
    return check_teachers(job.networks, roles(job), job.real, least, job.device)


def roles(job):
    """{name: words for what it does} of every network that will run."""
    start, run = job.options.start, job.options.run
    names = {"ranker": {start.ranker} if start.start in RANKED else set()}
    if job.options.optimisation.iteration:
        logit, bn = guides(job.units)
        names = {"logit": logit, "BN": bn, **names, "verifier": {run.verifier}}
    return {name: [role for role, members in names.items() if name in members]
            for name in job.networks}


def guides(units):
    """Names of the possible (logit teachers, BN teachers) of units."""
    return (set().union(*(unit.possible_logit for unit in units)),
            set().union(*(unit.possible_bn for unit in units)))


def load_networks(options, units, classes, device):
    """Load each network that will run, once: ranker, logit and BN teachers, verifier.

    A BN teacher without layers to align to is not loaded: it adds 0.
    """
    names = [options.start.ranker] if options.start.start in RANKED else []
    if options.optimisation.iteration:
        logit, bn = guides(units)
        names += [name for name in options.law.everyone
                  if name in logit or (name in bn and has_layers(name, options))]
        names += filter(None, [options.run.verifier])
    return load_teachers(names, options.run.teacher_weights, classes, device,
                         options.data.image_size, options.law.head)


def my_work(options, units, files, weights, shard):
    """What is left to do on this rank of this shard, as lists of units that share forwards.

    Lists are dealt out whole and by their work, before looking at what is finished, so that
    processes that start at different times deal alike.
    """
    together = in_one_step(units, options.optimisation.units_per_step)
    mine = distributed.share_by_cost(
        together, lambda units: sum(unit.image_steps() for unit in units), shard)
    return [left for units in mine for left in files.unfinished(units, weights)]


def settle(files, content):
    """settle_manifest of images.json.

    Before any unit was begun, other training images are taken: one that could not be read may have
    been replaced.
    """
    if files.manifest.exists() and not any((files.run / "units").glob("*")):
        stored = read_manifest(files.manifest, "recover")
        train_images = content["identity"]["train_images"]
        if stored.get("identity", {}).get("train_images") != train_images:
            identity = {**stored.get("identity", {}), "train_images": train_images}
            write_json(files.manifest, {**stored, "identity": identity})
    settle_manifest(files.manifest, content, RESTART)


def manifest(job, threads, accuracies):
    """The content of images.json. accuracies: of measure_teachers, for the reader alone."""
    options, real = job.options, job.real
    train_images = real.contents_hash() if len(real) else None
    slices = options.optimisation.ipc_start, options.optimisation.ipc_end
    return {
        "preset": options.preset,
        "preset_changed": sorted(options.changed & set(manifest_options(options))),
        "options": manifest_options(options), "teacher_weights": str(options.run.teacher_weights),
        "teachers": accuracies,
        "identity": {"classes": real.classes, "train_images": train_images,
                     "start_images": job.starts.identity},
        "asked": slices, "id_digits": job.files.id_digits, "threads": threads,
        "versions": versions()}


def print_plan(job):
    """Say how much there is to do, about how long it takes, and how to fill a GPU."""
    todo = [unit for units in job.work for unit in units]
    image_steps = sum(unit.image_steps() for unit in todo)
    text = (f"recover: {len(todo)} of {len(job.units)} units to do on this rank, "
            f"{image_steps:,} image-steps")
    if job.alignments and todo:
        sizes = [len(unit.classes) for unit in job.work[0]]
        seconds = seconds_per_image_step(job.alignments, sizes, job.options.data.image_size,
                                         job.device, job.options.arithmetic.compile)
        whole = sum(unit_seconds(unit, seconds) for unit in todo)
        text += f", about {duration(whole)} (timed on one step of each teacher)"
    distributed.print0(text)

    fills = "units_per_step" not in job.options.given and job.device.type == "cuda"
    if fills and job.alignments and todo:
        note_room(job, todo[0])


def note_room(job, unit):
    """Say how many units this GPU has room for, after one has run through all teachers."""
    alike = sum(other.steps == unit.steps and other.ipc_ids[0] == unit.ipc_ids[0]
                for other in job.units)
    needed = torch.cuda.max_memory_allocated(job.device)
    count = propose_units(len(unit.classes), needed, torch.cuda.mem_get_info(job.device)[1], alike)
    if count > 1:
        distributed.print0(f"note: this GPU has room for more than a unit of {len(unit.classes)} "
                           f"images in a step: --units-per-step {count} fills it better. It is "
                           "stored with the images and may change last bits.")


def smaller_step(options):
    """What to try when a step does not fit into a GPU."""
    o = options.optimisation
    elsewhere = "It changes the images, so give another --output-dir or remove this one"
    if o.units_per_step > 1:
        return try_half("--units-per-step", o.units_per_step,
                        f"fewer units share a forward. {elsewhere}")
    return try_half("--batch-size", o.batch_size, f"fewer images form a unit. {elsewhere}")
