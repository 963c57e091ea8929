"""Stage 3: train a student from scratch on distilled images and their labels, test it on real images.

    python -m validate.train_fkd --output-dir results/prism_r18_ipc10 --val-dir imagenet/val
"""

import functools

import torch

from data import datasets, decoded_images, run_folder
from data.distilled import DistilledImages
from models.evaluate import accuracy, dataset_accuracy
from models.networks import build, check_image_size, file_stem, load_network
from models.teachers import fit_head
from utils import distributed, options
from utils.errors import UserError, memory_advice, run_entry
from utils.files import check_writable, read_json, remove_leftovers
from utils.host_memory import keep_freed_memory
from utils.progress import progress_bar
from validate import label_source, ranks, rules
from validate.args import get_args_parser
from validate.engine import build_optimizer, set_batch_norm_momentum
from validate.grouped_batch_norm import batch_norm_layers
from validate.losses import micro_batches, student_loss
from validate.settings import (
    changed,
    check_views,
    input_resize,
    label_kind,
    protocol,
    resolve,
    unread,
    wanted_of_labels,
)
from validate.student_folder import OthersFolder, StudentFolder
from validate.training import Training
from validate.views import Views


def main(argv=None):
    args = get_args_parser().parse_args(argv)
    threads, device = options.set_threads(args.threads), distributed.choose_device(args.device)
    keep_freed_memory()
    if args.evaluate is None:
        train(args, device, threads)
    elif distributed.rank() == 0:
        evaluate(args, device)


def train(args, device, threads):
    if args.output_dir is None:
        raise UserError("--output-dir is needed: the run folder that holds images/ and labels/.")
    images = DistilledImages(args.train_dir or args.output_dir / "images", args.workers)
    size = images.image_size
    dataset = args.dataset or images.dataset or "imagefolder"
    test = datasets.open_images(dataset, "test", args.val_dir, size, images.known_classes)
    if len(test.classes) != len(images.classes):
        raise UserError(f"{args.val_dir}: has {len(test.classes)} class folders, the distilled images in {images.folder} have "
                        f"{len(images.classes)}. Give the validation folder of the data that was distilled.")
    check_views(args)
    cache_folder(args)
    source = open_source(args, images, test.flips, device)
    settings = resolve(args, dataset, size, source.options)
    network = build(args.student, len(images.classes), args.stem, settings["input_resize"],
                    (args.seed, "student", args.student), size)
    network.classes = test.classes
    processes = distributed.world_size()
    full = micro_batches(settings["batch_size"], settings["batch_size"], settings["gradient_accumulation_steps"])
    ranks.check(len(full), processes)
    check_image_size(network, size)

    name = args.student_name or f"{file_stem(args.student)}_{protocol(args)}_seed{args.seed}"
    folder = (StudentFolder if distributed.rank() == 0 else OthersFolder)(args.output_dir / "students" / name)
    departs = changed(args, settings)
    options.print_options("validate", {"preset": args.preset, "preset_changed": ", ".join(departs) or "nothing", **settings,
                                       "labels": source.kind, "images": f"{len(images)} in {images.folder}",
                                       "test_images": len(test), "device": device, "threads": threads, "folder": folder.path})
    options.note_unread(args, unread(args, bool(batch_norm_layers(network))))
    manifest = {"preset": args.preset, "preset_changed": departs, "options": settings,
                "identity": identity(images, test, source.identity()), "versions": run_folder.versions()}
    finished = folder.result()
    if finished is not None:
        folder.settle(manifest)
        distributed.print0(f"already finished. {words_for(name, finished)}")
        return

    source.prepare()
    views = Views(images, source.options, args.seed, settings["randaugment"], settings["shuffle_patches"], args.workers, device)
    test_data = test_pixels(test, args), torch.from_numpy(test.labels)
    if distributed.rank() == 0:
        check_writable(folder.path)
        remove_leftovers(folder.path)
    folder.check_space(network)
    folder.settle(manifest)
    if settings["bn_momentum"] is not None:
        set_batch_norm_momentum(network, settings["bn_momentum"])
    network.to(device)
    optimizer = build_optimizer(network.net, settings["optimizer"], settings["lr"], settings["weight_decay"], settings["momentum"],
                                settings["weight_decay_on"])
    loss = functools.partial(named_loss, settings)
    about = {"dataset": dataset, "image_size": size, "options": settings}
    together = ranks.Ranks(device) if processes > 1 else None  # everything is checked
    with memory_advice(smaller_pass(settings)):
        found = Training(folder, network, optimizer, settings, source, views, images.labels, test_data, loss, device, about,
                         together).run()
    distributed.leave_group()
    result = report(found, settings, manifest, images, threads, device)
    folder.finish(result)
    distributed.print0(f"{words_for(name, result)}; {folder.path}")


def smaller_pass(settings):
    """What to try when a pass does not fit into a GPU."""
    steps = settings["gradient_accumulation_steps"]
    if settings["micro_batches"] == "together" and steps > 1:
        return ("Found --micro-batches together, try --micro-batches apart: a pass for each of them. It may change last "
                "bits, so give another --student-name.")
    return (f"Found --gradient-accumulation-steps {steps}, try {2 * steps}: smaller groups share a pass and their BatchNorm "
            "statistics. It changes the result, so give another --student-name.")


def open_source(args, images, flips, device):
    """The source of plans and labels that the options ask for (validate.label_source)."""
    kind = label_kind(args)
    batch_size = rules.batch_size(args.batch_size, rules.images_per_class(len(images), len(images.classes)), args.student)
    if kind == "folder":
        store, online = label_source.open_labels(args.fkd_path or args.output_dir / "labels", images, args.epochs, args.labels,
                                                 wanted_of_labels(args, batch_size))
        load = functools.partial(label_source.stored_ensemble, store, images, args.teacher_weights, device)
        return label_source.OnlineLabels(store, load) if online else label_source.StoredLabels(store)
    mix = args.mix_type or ("none" if kind == "hard" else "cutmix")
    plan = label_source.own_plan(len(images), images.image_size, 0.5 if flips else 0.0, args.seed, batch_size,
                                 args.min_scale_crops, mix)
    if kind == "hard":
        return label_source.HardLabels(plan)
    weights = args.teacher_weights or "IMAGENET1K_V1"
    load = functools.partial(label_source.own_ensemble, args.teachers, args.ensemble, weights, images, device)
    return label_source.TeacherLabels(plan, load)


def named_loss(settings, logits, soft_labels, classes, partner_classes, lam):
    """losses.student_loss with the options of this run."""
    return student_loss(settings["loss_type"], logits, soft_labels, classes, partner_classes, lam, settings["ce_weight"],
                        settings["temperature"])


def identity(images, test, labels):
    """What a student belongs to: the distilled images, what the labels are (None without) and the test set."""
    found = images.identity
    return {"classes": found["classes"], "images": {"count": found["count"], "files": found["files"]}, "labels": labels,
            "test_images": len(test)}


def test_pixels(test, args):
    """All test images, decoded once for all evaluations: uint8 [N, 3, S, S] on the CPU (7.5 GB for ImageNet at 224 px).

    Those of a folder are mapped from a file that all runs share; others are small and lie in memory.
    """
    folder = cache_folder(args)
    if folder is not None and isinstance(test, datasets.FolderImages):
        try:
            return decoded_images.decoded(test, folder, args.workers)
        except OSError as error:
            if args.val_cache is not None:  # the user's own choice
                raise
            distributed.print0(f"note: {folder} cannot keep the decoded test images ({error.strerror}): they are decoded into "
                               "memory. --val-cache names another folder.")
    with progress_bar(len(test), "decode test images", " images", leave=False) as bar:
        return test.pixels(range(len(test)), args.workers, bar)


def cache_folder(args):
    """Where decoded test images are kept, or None. Raises UserError for a folder inside the test images' own."""
    if args.val_cache == "none" or (args.val_cache is None and args.output_dir is None):
        return None
    if args.val_cache is None:
        return args.output_dir.parent / ".cache"
    inside = args.val_cache.resolve()
    if args.val_dir is not None and args.val_dir.resolve() in (inside, *inside.parents):
        raise UserError(f"--val-cache {args.val_cache}: lies among the test images. Choose one outside {args.val_dir}.")
    return args.val_cache


def report(found, settings, manifest, images, threads, device):
    """result.json. top1 and top5 are the best of the tests, the kind of number the paper reports; last stands beside it."""
    recover = images.folder.parent / "images.json"
    of_recover = read_json(recover, "recover")["options"] if recover.exists() else {}
    labels = manifest["identity"]["labels"] or {"options": {}}
    return {
        "preset": manifest["preset"], "preset_changed": manifest["preset_changed"],
        "top1": found["best"]["top1"], "top5": found["best"]["top5"], "headline": "best", "best": found["best"],
        "last": found["last"], "images": len(images), "test_images": manifest["identity"]["test_images"], "options": settings,
        "seeds": {"student": settings["seed"], "fkd": labels["options"].get("fkd_seed"),
                  "images": of_recover.get("seed")},
        "identity": {name: manifest["identity"][name] for name in ("images", "labels")}, "versions": manifest["versions"],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu", "threads": threads,
        "processes": distributed.world_size(),
        "seconds": found["seconds"],
    }


def words_for(name, result):
    best, last = result["best"], result["last"]
    return (f"{name}: top-1 {best['top1']:.2f} % (best, epoch {best['epoch'] + 1}), top-5 {best['top5']:.2f} %; last top-1 "
            f"{last['top1']:.2f} %, top-5 {last['top5']:.2f} % (epoch {last['epoch'] + 1})")


def evaluate(args, device):
    """--evaluate: top-1 and top-5 of a saved student."""
    try:
        network, about = load_network(args.evaluate, image_size=args.image_size)
    except UserError:
        network, about = load_network(args.evaluate, args.student, args.image_size, args.stem,
                                      input_resize(args.input_resize, args.student))
    distilled = args.train_dir or (args.output_dir / "images" if args.output_dir else None)
    images = DistilledImages(distilled, args.workers) if distilled is not None and distilled.is_dir() else None
    dataset = args.dataset or about.get("dataset") or (images and images.dataset) or "imagefolder"
    size = args.image_size or about.get("image_size") or network.image_size
    if size is None and images is not None:
        size = images.image_size
    test = datasets.open_images(dataset, "test", args.val_dir, size, network.classes or (images and images.known_classes))
    network = fit_head(network, test.classes)
    check_image_size(network, test.image_size)
    network.to(device)
    if cache_folder(args) is None:  # used once: not worth memory for all
        found = dataset_accuracy(network, test, device, args.workers, progress="test")
    else:
        found = accuracy(network, test_pixels(test, args), test.labels, device, progress="test")
    distributed.print0(f"{args.evaluate}: top-1 {found['top1']:.2f} %, top-5 {found['top5']:.2f} % of {found['count']} test images "
                       f"({network.name}, {test.image_size} px)")


if __name__ == "__main__":
    run_entry(main)
