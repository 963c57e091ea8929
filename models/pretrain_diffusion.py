"""Entry of diffusion training: a small class-conditional DiT in pixel space, for one's own images.

    python -m models.pretrain_diffusion --dataset digits --output-dir FOLDER

Writes pixel_dit.safetensors, pixel_dit.json (its options) and samples.png. The same command again
skips a finished model and goes on inside an unfinished one.
"""

import sys
from dataclasses import asdict
from pathlib import Path

if not __package__:  # started by its path, without -m: rooms are found from the root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.run_folder import check_apart
from models.diffusion_options import make_plan, parse
from utils import distributed, options, report_to
from utils.errors import UserError, memory_advice, run_entry, try_half
from utils.files import check_writable, remove_leftovers
from utils.progress import duration


def main(argv=None):
    o = parse(argv)
    training = prepare(o)
    result = work(training)
    summarise(training, result)


def prepare(o):
    """The DiffusionTraining of these options. Every mistake in them shows here."""
    from data.class_lists import class_list
    from data.opening import open_real  # here and below: --help does not wait for PyTorch
    from models.diffusion import diffusers
    from models.diffusion_training import DiffusionTraining

    diffusers()  # or a sentence that says how to install it
    if distributed.world_size() > 1:
        raise UserError(f"found {distributed.world_size()} processes: a diffusion model trains in "
                        "one. Start this without torchrun (NGPU=1).")
    report_to.check(o.run.report_to)
    device = distributed.choose_device(o.run.device)
    threads = distributed.set_threads(o.run.threads)
    if o.data.dataset == "imagefolder":
        check_apart("--output-dir", o.run.output_dir, o.data.train_dir)
    check_writable(o.run.output_dir)
    remove_leftovers(o.run.output_dir)

    # Diffusion models learn the whole short side of an image, not the crop that networks are
    # tested on.
    data, plan = o.data, make_plan(o)
    classes = None if data.classes is None else class_list(data.classes)
    images = open_real(data.dataset, "train", data.train_dir, plan.sample_size, classes,
                       o.run.workers, crop="square")
    options.print_options("models.pretrain_diffusion", {
        "dataset": f"{data.dataset}, {len(images)} images of {len(images.classes)} classes",
        **asdict(plan), "channels": data.channels, "precision": o.arithmetic.precision,
        "device": device, "threads": threads, "output_dir": o.run.output_dir})
    return DiffusionTraining(plan, images, data.channels, o.arithmetic, o.run, device)


def work(training):
    """Train a model that is not finished. Returns {"loss": ten means, "seconds"}."""
    advice = try_half("--batch-size", training.plan.batch_size,
                      f"less memory, another result, after removing {training.manifest.name}")
    with memory_advice(advice):
        return training.finished() or training.train_and_keep()


def summarise(training, result):
    """Print the loss, and where the model and its samples are."""
    losses, seconds = result["loss"], result["seconds"]
    time = "" if seconds is None else f" in {duration(seconds)}"
    print(f"pixel-dit: {training.plan.steps} steps{time}, loss {losses[0]:.4f} in the first tenth, "
          f"{losses[-1]:.4f} in the last")
    print(f"weights: {training.weights}")
    print(f"samples to look at: {training.samples}", flush=True)


if __name__ == "__main__":
    run_entry(main)
