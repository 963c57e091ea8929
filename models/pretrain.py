"""Entry of teacher training ("squeeze"): train networks on real images, keep them with accuracy.

    python -m models.pretrain --dataset digits --teachers resnet18 alexnet \\
        --input-resize alexnet=64 --output-dir FOLDER

Writes NAME.safetensors (weights, what the network is, its accuracy) and NAME.json (options,
accuracy, seconds) per network. The same command again skips finished networks and goes on inside an
unfinished one. Under torchrun each process trains other networks.
"""

import sys
from dataclasses import asdict
from pathlib import Path

if not __package__:  # started by its path, without -m: rooms are found from the root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.names import default_image_size
from data.run_folder import check_apart
from models.pretrain_options import make_plans, parse
from utils import distributed, options, report_to
from utils.errors import UserError, memory_advice, own_work_begins, run_entry
from utils.files import check_writable, remove_leftovers


def main(argv=None):
    o = parse(argv)
    trainings, test = prepare(o)
    own_work_begins()
    for training in trainings:
        result = work(training, test)
        summarise(training, result, o.run.min_accuracy)


def prepare(o):
    """The TeacherTrainings of this process, and the test images.

    Every mistake in the options shows here, before the first epoch.
    """
    # --help does not wait for PyTorch
    from data.opening import note_enlarged, open_real
    from models.bn_statistics import has_batch_norm
    from models.networks import check_name
    from models.teacher_training import TeacherTraining

    report_to.check(o.run.report_to)
    device = distributed.choose_device(o.run.device)
    threads = distributed.set_threads(o.run.threads)
    for name in o.networks.teachers:
        check_name(name)
    if o.data.dataset == "imagefolder":
        for folder in (o.data.train_dir, o.data.val_dir):
            check_apart("--output-dir", o.run.output_dir, folder)
    check_writable(o.run.output_dir)
    remove_leftovers(o.run.output_dir)

    dataset, size = o.data.dataset, o.data.image_size or default_image_size(o.data.dataset)
    val_dir = o.data.val_dir or (None if dataset == "imagefolder" else o.data.train_dir)
    train = open_real(dataset, "train", o.data.train_dir, size, workers=o.run.workers,
                      crop=o.data.crop)
    test = open_real(dataset, "test", val_dir, size, train.classes, o.run.workers, o.data.crop)
    plans = make_plans(o, size, has_batch_norm)
    for plan in plans:
        check_plan(plan, train)

    shard = options.settle_shard(o.run.shard)
    options.print_options("models.pretrain", {
        "dataset": f"{dataset}, {len(train.classes)} classes, {size} px",
        "images": f"{len(train)} to train, {len(test)} to test",
        **{plan.name: ", ".join(f"{key} {value}" for key, value in asdict(plan).items()
                                if value is not None and key != "name") for plan in plans},
        "shard": options.shard_words(shard), "device": device, "threads": threads,
        "output_dir": o.run.output_dir})
    note_enlarged(train)
    mine = distributed.my_share(plans, shard)
    test_set = test.contents_hash()
    return [TeacherTraining(plan, train, test_set, o.run, device) for plan in mine], test


def check_plan(plan, train):
    """Raise UserError for a network that cannot be built, or trained on these images."""
    import torch

    from models.bn_statistics import has_batch_norm
    from models.networks import check_image_size
    from models.teacher_training import build_network

    if min(plan.batch_size, len(train)) == 1 and has_batch_norm(plan.name):
        raise UserError(f"{plan.name}: --batch-size {plan.batch_size} and {len(train)} training "
                        "images make batches of one image, BatchNorm needs more. Raise "
                        "--batch-size, or add images.")
    with torch.device("meta"):
        network = build_network(plan, train)
    check_image_size(network, train.image_size)


def work(training, test):
    """Train a network that is not finished. Returns {"top1", "top5", "count", "seconds"}."""
    name, batch_size = training.plan.name, training.plan.batch_size
    with memory_advice(f"Try --batch-size-for {name}={max(1, batch_size // 2)} (found "
                       f"{batch_size}), after removing {training.manifest.name}."):
        return training.finished() or training.train_and_keep(test)


def summarise(training, result, min_accuracy):
    """Print the accuracy of a network. Raises UserError when it is below min_accuracy."""
    name, top1, seconds = training.plan.name, result["top1"], result["seconds"]
    duration = "" if seconds is None else f", trained in {seconds:.0f} s"
    print(f"{name}: top-1 {top1:.2f} %, top-5 {result['top5']:.2f} % of {result['count']} test "
          f"images{duration}", flush=True)
    if top1 < min_accuracy:
        raise UserError(f"{name} gets {top1:.2f} % of the test images right, below --min-accuracy "
                        f"{min_accuracy:g}. Remove {training.weights} and "
                        f"{training.manifest.name}, then train it longer (--epochs-for {name}=...) "
                        "or with another --lr-for.")


if __name__ == "__main__":
    run_entry(main)
