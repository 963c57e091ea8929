"""Stage 3: train a student from scratch on distilled images and their labels, test it on real images.

    python -m validate.train_fkd --output-dir results/prism_r18_ipc10 --val-dir imagenet/val
"""

import functools

import torch

from models.evaluate import accuracy
from models.networks import build, check_image_size, file_stem, load_network
from models.teachers import fit_head
from utils import datasets, distributed, options, run_folder
from utils.distilled import DistilledImages
from utils.errors import UserError, run_entry
from utils.progress import progress_bar
from validate.args import OF_OPTIMIZER, get_args_parser, unread
from validate.engine import build_optimizer
from validate.label_source import HardLabels, OnlineLabels, StoredLabels, load_ensemble, open_labels
from validate.losses import WITH_GROUND_TRUTH, WITH_TEMPERATURE, student_loss
from validate.student_folder import StudentFolder
from validate.training import Training


def main(argv=None):
    args = get_args_parser().parse_args(argv)
    if distributed.world_size() > 1:
        raise UserError(f"validate trains a student in one process, found {distributed.world_size()} (NGPU). Start it with NGPU=1, "
                        "and run several seeds (--seed) side by side, each on its own GPU.")
    threads, device = options.set_threads(args.threads), distributed.choose_device(args.device)
    if args.evaluate is not None:
        evaluate(args, device)
    else:
        train(args, device, threads)


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
    source, store, online = open_source(args, images, size, test.flips)
    settings = resolve(args, dataset, size, source.options, hard=store is None)
    network = build(args.student, len(images.classes), args.stem, settings["input_resize"],
                    (args.seed, "student", args.student), size)
    network.classes = test.classes
    check_image_size(network, size)

    name = args.student_name or f"{file_stem(args.student)}_{'hard' if store is None else 'soft'}_seed{args.seed}"
    folder = StudentFolder(args.output_dir / "students" / name)
    options.print_options("validate", {**settings, "labels": "none" if store is None else "online" if online else "stored",
                                       "images": f"{len(images)} in {images.folder}", "test_images": len(test),
                                       "device": device, "threads": threads, "folder": folder.path})
    for words in unread(args):
        distributed.print0(f"note: {words}")
    manifest = {"options": settings, "identity": identity(images, test, store), "versions": run_folder.versions()}
    finished = folder.result()
    if finished is not None:
        folder.settle(manifest)
        distributed.print0(f"already finished. {words_for(name, finished)}")
        return

    if online:
        source = OnlineLabels(store, load_ensemble(store, images, args.teacher_weights, device))
    pixels, test_data = images.on(device), (test_pixels(test, args.workers), torch.from_numpy(test.labels))
    run_folder.check_writable(folder.path)
    run_folder.remove_leftovers(folder.path)
    folder.settle(manifest)
    network.to(device)
    optimizer = build_optimizer(network.net, settings["optimizer"], settings["lr"], settings["weight_decay"], settings["momentum"])
    loss = functools.partial(named_loss, settings)
    about = {"dataset": dataset, "image_size": size, "options": settings}
    found = Training(folder, network, optimizer, settings, source, pixels, images.labels, test_data, loss, device, about).run()
    result = report(found, settings, manifest, images, store, threads, device)
    folder.finish(result)
    distributed.print0(f"{words_for(name, result)}; {folder.path}")


def open_source(args, images, size, flips):
    """(source of plans and labels, LabelStore or None, whether labels are to be made online)."""
    if args.loss_type == "ce":
        return HardLabels(len(images), size, 0.5 if flips else 0.0, args.seed, args.batch_size, args.min_scale_crops,
                          args.mix_type), None, False
    store, online = open_labels(args.fkd_path or args.output_dir / "labels", images, args.epochs, args.labels, args.batch_size,
                                args.min_scale_crops, args.mix_type)
    return StoredLabels(store), store, online


def resolve(args, dataset, size, plan, hard):
    """Every option that changes the result, with defaults filled in; None where nothing reads it."""
    of_optimizer = OF_OPTIMIZER[args.optimizer]
    soft_max, ground_truth = args.loss_type in WITH_TEMPERATURE, args.loss_type in WITH_GROUND_TRUTH
    return {
        "student": args.student, "stem": args.stem, "input_resize": input_resize(args.input_resize, args.student),
        "dataset": dataset, "image_size": size, "loss_type": args.loss_type,
        "ce_weight": _or(args.ce_weight, 0.1) if ground_truth else None,
        "temperature": _or(args.temperature, 20.0) if soft_max else None,
        # Released: un-mixed (EXPERIMENTS.md, choice 11). Plain hard labels have nothing else to learn from, so both classes count.
        "gt_target": None if soft_max else args.gt_target or ("mixed" if hard else "unmixed"),
        "epochs": args.epochs, "batch_size": plan.batch_size, "gradient_accumulation_steps": args.gradient_accumulation_steps,
        "min_scale_crops": plan.min_area, "mix_type": plan.mix, "mix_alpha": plan.alpha, "flip_prob": plan.flip,
        "optimizer": args.optimizer, "lr": _or(args.lr, of_optimizer["lr"]),
        "weight_decay": _or(args.weight_decay, of_optimizer["weight_decay"]),
        "momentum": _or(args.momentum, 0.9) if args.optimizer == "sgd" else None,
        "lr_schedule": args.lr_schedule, "zeta": _or(args.zeta, 2.5) if args.lr_schedule.startswith("ssrs") else None,
        "eval_every": args.eval_every, "seed": args.seed,
    }


def _or(value, default):
    return default if value is None else value


def input_resize(text, student):
    """Side in pixels from "64" or "NAME=64", or None."""
    if text is None:
        return None
    name, _, side = text.rpartition("=")
    if name not in ("", student):
        raise UserError(f"--input-resize {text}: the student is {student}. Give --input-resize {side}.")
    if not side.isdigit() or int(side) == 0:
        raise UserError(f"--input-resize {text}: expected a side in pixels, such as 64.")
    return int(side)


def named_loss(settings, logits, soft_labels, classes, partner_classes, lam):
    """losses.student_loss with the options of this run."""
    return student_loss(settings["loss_type"], logits, soft_labels, classes, partner_classes, lam, settings["ce_weight"],
                        settings["temperature"])


def identity(images, test, store):
    """What a student belongs to: the distilled images, the labels' recipe and the test set."""
    labels = None
    if store is not None:
        recipe = {name: value for name, value in store.options.items() if name != "teacher_weights"}
        labels = {"options": recipe, "teachers": store.teachers}
    found = images.identity
    return {"classes": found["classes"], "images": {"count": found["count"], "files": found["files"]}, "labels": labels,
            "test_images": len(test)}


def test_pixels(test, workers):
    """All test images, decoded once for all evaluations: uint8 [N, 3, S, S] on the CPU (7.5 GB for ImageNet at 224 px)."""
    with progress_bar(len(test), "decode test images", "image", leave=False) as bar:
        return test.pixels(range(len(test)), workers, bar)


def report(found, settings, manifest, images, store, threads, device):
    """result.json. top1 and top5 are the best of the tests, the kind of number the paper reports; last stands beside it."""
    recover = images.folder.parent / "images.json"
    of_recover = run_folder.read_json(recover, "recover")["options"] if recover.exists() else {}
    return {
        "top1": found["best"]["top1"], "top5": found["best"]["top5"], "headline": "best", "best": found["best"],
        "last": found["last"], "images": len(images), "test_images": manifest["identity"]["test_images"], "options": settings,
        "seeds": {"student": settings["seed"], "fkd": store.options["fkd_seed"] if store else None,
                  "images": of_recover.get("seed")},
        "identity": {name: manifest["identity"][name] for name in ("images", "labels")}, "versions": manifest["versions"],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu", "threads": threads,
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
    found = accuracy(network.to(device), test_pixels(test, args.workers), test.labels, device, progress="test")
    distributed.print0(f"{args.evaluate}: top-1 {found['top1']:.2f} %, top-5 {found['top5']:.2f} % of {found['count']} test images "
                       f"({network.name}, {test.image_size} px)")


if __name__ == "__main__":
    run_entry(main)
