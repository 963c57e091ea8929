"""The variants of a student's step and test that benchmarks.validate compares."""

import dataclasses
import functools
import itertools
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks import measure
from benchmarks.plain_views import PlainViews, random_images
from data.augment import apply_cutmix
from data.decoded_images import decoded
from data.epoch_plan import PlanOptions, draw_plan
from data.images import normalise
from data.label_formats import label_format
from data.labels import EpochLabels, save_epoch
from models.evaluate import accuracy, dataset_accuracy
from models.networks import build
from utils.options import from_values
from utils.precision import Arithmetic
from utils.seeding import stream
from validate.batches import Batch, epoch_batches
from validate.engine import build_optimizer, split_parameters, train_step
from validate.losses import student_loss
from validate.options import Options
from validate.passes import MicroBatches, Passes, ordinary_layout
from validate.presets import PRESETS
from validate.whole_images import WholeImages

BATCHES = 4  # of the epoch that is trained over and over
OPTIONS = from_values(Options, {"lr": 1e-3, "weight_decay": 0.01}, PRESETS)
DATA = "data path of ours"  # a batch is made and dropped


class Work:
    """Random distilled images, stored labels of one epoch, and the student's beginning.

    folder: for the images and the labels.
    """

    def __init__(self, args, device, folder):
        self.device, self.student, self.classes = device, args.student, args.classes
        self.arithmetic = Arithmetic(args.precision, args.compile)
        self.images = random_images(folder / "images", BATCHES * args.batch_size,
                                    args.image_size, args.classes)
        self.labels = random_labels(folder / "labels", len(self.images), args)
        self.plan = self.labels.plan
        self.micro_batches = MicroBatches(
            args.batch_size, OPTIONS.optimisation.gradient_accumulation_steps)

    def network(self):
        """The student before its first step."""
        network = build(self.student, self.classes, seed=("benchmark",),
                        image_size=self.images.image_size)
        return network.to(self.device).train()

    def batches(self):
        """Batches of validate, epoch after epoch the same."""
        whole_images = WholeImages(self.images, OPTIONS.views, 0, 0, self.device)
        while True:
            yield from epoch_batches(whole_images.epoch(0, self.plan), self.images.labels,
                                     self.plan, self.labels, False, self.device)

    def plain_batches(self):
        """The same batches, whose views are made one by one."""
        plan, views = self.plan, PlainViews(self.images, self.plan)
        for batch in itertools.cycle(range(plan.options.batches)):
            rows = plan.options.rows(batch)
            images = torch.stack([views[i] for i in range(rows.start, rows.stop)]).to(self.device)
            yield Batch(apply_cutmix(images, plan.partners[rows], plan.boxes[batch].tolist()),
                        self.labels.logits(rows).to(self.device),
                        self.images.labels[plan.order[rows]].to(self.device), None, 1.0)


def random_labels(folder, count, args):
    """EpochLabels of one epoch, random logits in fp16."""
    plan = draw_plan(PlanOptions(count, args.image_size, args.batch_size), 0)
    number_format, path = label_format("fp16", args.classes), folder / "epoch_000.safetensors"
    logits = torch.randn(count, args.classes, generator=stream("benchmark", "labels"))
    save_epoch(path, 0, plan, number_format.encode(logits), number_format, "benchmark")
    return EpochLabels(path, plan.options, number_format)


# Steps

def plain_step(work):
    """A function that takes a step as one writes it down first."""
    network = work.network().net.to(memory_format=torch.contiguous_format)
    decayed, free = split_parameters(network)
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.01},
                                   {"params": free, "weight_decay": 0.0}], lr=1e-3)
    batches = work.plain_batches()

    def step():
        batch, loss_sum = next(batches), 0.0
        optimizer.zero_grad()
        for part in batch.split(work.micro_batches.sizes(len(batch))):
            logits = network(part.images)
            loss = F.mse_loss(logits, part.soft_labels)
            loss = loss + 0.1 * F.cross_entropy(logits, part.classes)
            (loss * len(part) / len(batch)).backward()
            loss_sum += loss.item() * len(part)
        optimizer.step()
        return loss_sum

    return step


def our_step(work, together):
    """A function that takes a step of validate. together: all micro-batches in one pass."""
    network, batches = work.network(), work.batches()
    micro_batches = dataclasses.replace(work.micro_batches, together=together)
    passes = Passes(network, work.device, micro_batches, work.arithmetic)
    optimizer = build_optimizer(network.net, OPTIONS.optimisation)
    return lambda: train_step(passes, optimizer, next(batches), OPTIONS.objective)[0]


def floor_step(work):
    """A function that takes a step on a batch that is ready."""
    network, batch = work.network(), next(work.batches())
    optimizer = build_optimizer(network.net, OPTIONS.optimisation)
    if work.arithmetic.precision == "fp32" and work.device.type == "cpu":
        ordinary_layout(network)
    forward = work.arithmetic.of(network)

    def step():
        optimizer.zero_grad(set_to_none=True)
        logits = forward(batch.images).float()
        student_loss(OPTIONS.objective, logits, batch.soft_labels, batch.classes).backward()
        optimizer.step()

    return step


STEPS = {"plain": plain_step, "apart": functools.partial(our_step, together=False),
         "together": functools.partial(our_step, together=True), "floor": floor_step}


# Figures

def measured(args, device, steps=tuple(STEPS)):
    """The figures of the benchmark, as its JSON file keeps them.

    steps: names of variants, "together" among them.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = Work(args, device, Path(folder))
        batches = work.batches()
        variants = {**{name: STEPS[name](work) for name in steps}, DATA: lambda: next(batches)}
        seconds = measure.in_turn(variants, args.turns, device)
        waits = measure.count_waits(variants["together"], device)
        tests = time_tests(work.network(), args, device, Path(folder))
    return {"seconds": seconds, "data_share": seconds[DATA] / seconds["together"],
            "waits in a step": waits, "test_images_per_second": tests}


def time_tests(network, args, device, folder):
    """Images a second of a test: {variant: rate}.

    The files have ImageNet's usual 500 x 375 pixels at 224 px, and sides in proportion otherwise.
    """
    file_size = round(args.image_size * 500 / 224), round(args.image_size * 375 / 224)
    images = random_images(folder / "test", args.test_images, args.image_size, args.classes,
                           file_size)
    measure.quietly(decoded, images, folder / "cache")
    pixels = images.pixels(range(len(images))).to(device)

    @torch.no_grad()
    def forward():
        for part in pixels.split(250):
            network(normalise(part))

    network.eval()
    seconds = measure.in_turn({
        "decoding": lambda: dataset_accuracy(network, images, device),
        "decoded once": lambda: accuracy(network, decoded(images, folder / "cache"), images.labels,
                                         device),
        "floor": forward}, args.turns, device, warm_up=1, calls=1)
    return {name: len(images) / value for name, value in seconds.items()}
