"""One student, its images, labels and test set: opened and checked before anything is written."""

from dataclasses import dataclass

import torch

from data import run_folder
from data.image_set import ImageSet
from data.opening import open_distilled, open_test
from models.networks import Network, build, check_image_size, file_stem, has_stem
from utils import distributed, files
from utils.options import print_options, shown
from validate import label_source, options, ranks
from validate.engine import set_batch_norm_momentum
from validate.label_source import LabelSource
from validate.passes import MicroBatches
from validate.student_folder import StudentFolder


@dataclass
class Experiment:
    """What a student is trained and tested with.

    options: validate.options.Options, resolved. network: the student with its first weights.
    images, test: the distilled and the real ImageSet. source: of plans and soft labels. manifest:
    the content of options.json.
    """

    options: options.Options
    network: Network
    images: ImageSet
    test: ImageSet
    source: LabelSource
    manifest: dict
    folder: StudentFolder
    device: torch.device


def prepare(o, device):
    """The Experiment that options ask for. Raises UserError for what does not fit together."""
    ranks.check_gpus(device)
    images = open_distilled(o.data.train_dir or o.data.output_dir / "images", o.run.workers)
    o = options.resolve(o, images)
    test = open_test_images(o, images, o.data.crop)
    source = label_source.open_source(o, images, device)
    o = options.with_labels(o, source.plan_options, default_stem(o, source))

    network = build_student(o, test.classes)
    check_image_size(network, o.data.image_size)
    full_batch = micro_batches(o).sizes(o.optimisation.batch_size)
    ranks.check(len(full_batch), distributed.world_size())
    return Experiment(o, network, images, test, source, describe(o, images, test, source),
                      open_folder(o), device)


def default_stem(o, source):
    """The stem of a student for which none is given: its teacher's, where it can have that."""
    name, given = o.student.student, o.student.stem
    if given and source.stem and given != source.stem:
        distributed.print0(f"note: the student has --stem {given}, the labels' teacher has stem "
                           f"{source.stem}.")
    suits = source.stem is not None and has_stem(name, source.stem, o.data.image_size)
    return source.stem if suits else "imagenet"


def micro_batches(o):
    """How batches are cut, from resolved options."""
    optimisation = o.optimisation
    return MicroBatches(optimisation.batch_size, optimisation.gradient_accumulation_steps,
                        optimisation.micro_batches == "together")


def open_test_images(o, images, crop):
    """The real test images, which nothing of this run may be written among.

    crop: of images that are files, see data.image_set.Files.
    """
    test = open_test(images, o.data.val_dir, o.data.dataset, o.run.workers, crop)
    for folder in (images.folder, test.folder):
        run_folder.check_apart("--output-dir", o.data.output_dir / "students", folder)
    return test


def build_student(o, classes):
    """The student with its first weights."""
    student = o.student
    network = build(student.student, len(classes), student.stem, student.input_resize,
                    (o.run.seed, "student", student.student), o.data.image_size)
    network.classes = classes
    if o.optimisation.bn_momentum is not None:
        set_batch_norm_momentum(network, o.optimisation.bn_momentum)
    return network


def open_folder(o):
    """students/NAME; rank 0 writes."""
    student = o.student
    name = student.student_name or (f"{file_stem(student.student)}_{options.protocol(o)}"
                                    f"_seed{o.run.seed}")
    return StudentFolder(o.data.output_dir / "students" / name, distributed.rank() == 0,
                         o.run.report_to)


def print_experiment(experiment, threads):
    """Print what is trained."""
    manifest = experiment.manifest
    print_options("validate", {
        "preset": manifest["preset"],
        "preset_changed": ", ".join(manifest["preset_changed"]) or "nothing",
        **shown(experiment.options),
        "labels": experiment.source.kind, "images": experiment.images,
        "test_images": len(experiment.test), "device": experiment.device, "threads": threads,
        "folder": experiment.folder.path})


def describe(o, images, test, source):
    """The content of options.json: what the student is and what it belongs to."""
    return {"preset": o.preset, "preset_changed": options.departures(o),
            "options": options.result_options(o, source.plan_options),
            "identity": identity(images, test, source.identity), "versions": run_folder.versions()}


def identity(images, test, labels=None):
    """What a student belongs to. labels: identity of their source; None for hard labels."""
    return {"classes": images.identity["classes"],
            "images": {name: images.identity[name] for name in ("count", "files")},
            "labels": labels, "test_images": len(test), "test_set": test.contents_hash()}


def describe_result(experiment, tests, threads):
    """The content of result.json.

    tests: what Training.run gives. top1 and top5 are the best of the tests, which is the kind of
    number that the paper reports; last stands beside it.
    """
    manifest, device = experiment.manifest, experiment.device
    belongs = manifest["identity"]
    recipe = (belongs["labels"] or {"options": {}})["options"]
    images_json = experiment.images.folder.parent / "images.json"
    recover = files.read_json(images_json, "recover")["options"] if images_json.exists() else {}
    return {
        "preset": manifest["preset"], "preset_changed": manifest["preset_changed"],
        "top1": tests["best"]["top1"], "top5": tests["best"]["top5"], "headline": "best",
        "best": tests["best"], "last": tests["last"], "images": len(experiment.images),
        "test_images": belongs["test_images"], "options": manifest["options"],
        "seeds": {"student": manifest["options"]["seed"], "fkd": recipe.get("fkd_seed"),
                  "images": recover.get("seed")},
        "identity": {name: belongs[name] for name in ("images", "labels", "test_set")},
        "versions": manifest["versions"],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": threads, "processes": distributed.world_size(), "seconds": tests["seconds"]}
