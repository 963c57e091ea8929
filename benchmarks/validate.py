"""Training steps of a student, and testing it: ours beside a plain reference and beside the floor.

    python -m benchmarks.validate --image-size 64 --turns 3
    python -m benchmarks.validate --precision bf16 --compile

Steps, from the same distilled JPEGs, with the loss mse_gt and stored labels:
  plain      per-image decoding, crop and flip with Pillow from JPEG bytes, a pass for each of two micro-batches, AdamW as it comes,
             the loss read after every step; fp32
  apart      ours with --micro-batches apart: pixels decoded once, views made as one batch, fused AdamW
  together   ours, the default: one pass, BatchNorm over groups
  floor      forward, backward and fused AdamW on a batch that is ready, BatchNorm over all of it
apart, together and floor run in the number format that is asked for, compiled or not. Testing: decoding every time beside the
decoded images that later runs map into memory.
"""

import functools
import io
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks import measure
from data import datasets, decoded_images
from data.augment import to_device
from data.epoch_plan import PlanOptions, batch_slice, draw_plan
from data.images import MEAN, STD, decode, normalise, to_tensor
from models.evaluate import accuracy, dataset_accuracy
from models.networks import build
from utils import options, precision
from utils.errors import run_entry
from utils.seeding import seeded, stream
from validate import engine, losses
from validate.passes import Passes, ordinary_layout

ACCUMULATION_STEPS = 2
MODES = ("plain", "apart", "together", "floor")
DATA = "data path of ours"  # a batch made and dropped


def get_args_parser():
    parser = measure.get_args_parser("validate", __doc__, batch_size=50)
    parser.add_argument("--student", default="resnet18", metavar="NAME", help="torchvision name or timm/NAME")
    parser.add_argument("--classes", type=options.positive_int, default=1000, help="columns of the labels")
    parser.add_argument("--test-images", type=options.positive_int, default=200, help="images that are tested")
    return parser


class Work:
    """Random distilled images as JPEG bytes and as pixels, their labels, and one epoch's plan of a few batches."""

    def __init__(self, args, device, batches=4):
        self.device, count, side = device, batches * args.batch_size, args.image_size
        self.files = [smooth_jpeg(side, number) for number in range(count)]
        self.pixels = torch.stack([to_tensor(decode(io.BytesIO(data))) for data in self.files]).to(device)
        self.options = PlanOptions(count, side, args.batch_size)
        self.plan = draw_plan(self.options, 0)
        generator = stream("benchmark", "labels")
        self.labels = torch.randint(0, args.classes, (count,), generator=generator)
        self.logits = torch.randn(count, args.classes, generator=generator).half()

    def on_device(self, indices):
        return self.pixels[indices.to(self.device)]

    def soft_labels(self, number, _):
        return self.logits[batch_slice(self.options, number)].float()

    def batches(self):
        """Ours: endless, epoch after epoch the same."""
        while True:
            yield from engine.planned_batches(self.on_device, self.labels, self.plan, self.options, self.soft_labels, False,
                                              self.device)

    def plain_batches(self):
        """The same views image by image, with Pillow."""
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
        while True:
            for number in range(self.options.batches):
                at, views = batch_slice(self.options, number), []
                for index, (top, left, height, width), flip in zip(self.plan.order[at].tolist(), self.plan.crops[at].tolist(),
                                                                   self.plan.flips[at].tolist(), strict=True):
                    image = decode(io.BytesIO(self.files[index]))
                    image = image.crop((left, top, left + width, top + height))
                    image = image.resize((self.options.size,) * 2, Image.Resampling.BILINEAR)
                    if flip:
                        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
                    views.append((to_tensor(image).float() / 255 - mean) / std)
                images = torch.stack(views).to(self.device)
                x1, y1, x2, y2 = self.plan.boxes[number].tolist()
                mixed = images.clone()
                mixed[:, :, x1:x2, y1:y2] = images[self.plan.partners[at].to(self.device), :, x1:x2, y1:y2]
                yield engine.Batch(mixed, self.soft_labels(number, None).to(self.device),
                                   self.labels[self.plan.order[at]].to(self.device), None, 1.0)


def smooth_jpeg(side, number):
    """Bytes of a JPEG of smooth random colours, of about the size that photographs have."""
    coarse = torch.randint(0, 256, (12, 12, 3), generator=stream("benchmark", number), dtype=torch.uint8).numpy()
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(buffer, "JPEG")
    return buffer.getvalue()


def plain_step(args, work):
    """One step as one writes it down first."""
    network = build(args.student, args.classes, seed=("benchmark",), image_size=args.image_size).net
    network.to(work.device, memory_format=torch.contiguous_format).train()
    decayed, free = engine.split_parameters(network)
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.01}, {"params": free, "weight_decay": 0.0}], lr=1e-3)
    batches = work.plain_batches()

    def step():
        batch = next(batches)
        optimizer.zero_grad()
        loss = 0.0
        for images, soft, classes in zip(*(t.chunk(ACCUMULATION_STEPS) for t in (batch.images, batch.soft_labels, batch.classes)),
                                         strict=True):
            logits = network(images)
            value = (F.mse_loss(logits, soft) + 0.1 * F.cross_entropy(logits, classes)) * len(images) / args.batch_size
            value.backward()
            loss += value.item()
        optimizer.step()
        return loss

    return step


def our_step(args, work, together):
    network = build(args.student, args.classes, seed=("benchmark",), image_size=args.image_size).to(work.device).train()
    passes = Passes(network, work.device, precision.Arithmetic(args.precision, args.compile), together)
    optimizer = engine.build_optimizer(network.net, "adamw", 1e-3, 0.01)
    loss, batches = functools.partial(losses.student_loss, "mse_gt"), work.batches()
    sizes = losses.micro_batches(args.batch_size, args.batch_size, ACCUMULATION_STEPS)
    return lambda: engine.train_step(passes, optimizer, next(batches), loss, sizes)


def floor_step(args, work):
    network = build(args.student, args.classes, seed=("benchmark",), image_size=args.image_size).to(work.device).train()
    optimizer = engine.build_optimizer(network.net, "adamw", 1e-3, 0.01)
    if args.precision == "fp32" and work.device.type == "cpu":
        ordinary_layout(network)
    forward, batch = precision.Arithmetic(args.precision, args.compile).of(network), next(work.batches())

    def step():
        optimizer.zero_grad(set_to_none=True)
        losses.student_loss("mse_gt", forward(batch.images).float(), batch.soft_labels, batch.classes).backward()
        optimizer.step()

    return step


def step_of(mode, args, work):
    """The function that takes one step in a mode."""
    with seeded("benchmark", mode):
        if mode == "plain":
            return plain_step(args, work)
        return floor_step(args, work) if mode == "floor" else our_step(args, work, mode == "together")


def few_steps(mode, args, device):
    """What peak memory is taken of."""
    step = step_of(mode, args, Work(args, device, batches=1))
    for _ in range(3):
        step()


def testing(args, device, turns):
    """Images a second of a test: {"decoding": from JPEGs each time, "decoded once": mapped, "floor": forward alone}."""
    network = build(args.student, args.classes, seed=("benchmark",), image_size=args.image_size).to(device).eval()
    with tempfile.TemporaryDirectory() as folder:
        images = photographs(Path(folder) / "test", args.test_images, args.image_size)
        labels = torch.from_numpy(images.labels)
        began = time.perf_counter()
        decoded_images.decoded(images, Path(folder) / "cache")
        making = time.perf_counter() - began
        ready = to_device(images.pixels(range(min(len(images), 250))), device)

        def mapped():
            return accuracy(network, decoded_images.decoded(images, Path(folder) / "cache"), labels, device)

        @torch.no_grad()
        def forward():
            for _ in range(-(-len(images) // len(ready))):
                network(normalise(ready))

        found = measure.in_turn({"decoding": lambda: dataset_accuracy(network, images, device), "decoded once": mapped,
                                 "floor": forward}, turns, device, warm_up=1)
    forwarded = len(ready) * -(-len(images) // len(ready))
    return {"decoding": len(images) / found["decoding"], "decoded once": len(images) / found["decoded once"],
            "floor": forwarded / found["floor"], "made in seconds": making}


def photographs(folder, count, side):
    """FolderImages of `count` JPEGs, of ImageNet's usual 500 x 375 pixels at 224."""
    width, height = round(side * 500 / 224), round(side * 375 / 224)
    (folder / "class").mkdir(parents=True)
    for number in range(count):
        with Image.open(io.BytesIO(smooth_jpeg(width, number))) as image:
            image.resize((width, height)).save(folder / f"class/{number:05d}.jpg")
    return datasets.FolderImages(folder, side)


def main(argv=None):
    args = get_args_parser().parse_args(argv)
    device = measure.start(args)
    work = Work(args, device)
    batches = work.batches()
    steps = {mode: step_of(mode, args, work) for mode in MODES}
    seconds = measure.in_turn({**steps, DATA: lambda: next(batches)}, args.turns, device)
    memory = {mode: measure.peak_memory(few_steps, mode, args, device) for mode in MODES}
    rows = [[mode, 1000 * seconds[mode], seconds[mode] / seconds["floor"], seconds["plain"] / seconds[mode],
             args.batch_size / seconds[mode], memory[mode] / 1e6] for mode in MODES]
    how = f"{args.precision}{', compiled' if args.compile else ''} (plain: fp32)"
    print(f"\n{args.student}, {args.image_size} px, batch {args.batch_size} in {ACCUMULATION_STEPS} micro-batches, {how}\n")
    print(measure.table(["mode", "ms/step", "x floor", "faster than plain", "images/s", "memory MB"], rows))
    share = seconds[DATA] / seconds["together"]
    print(f"\ndata path: {1000 * seconds[DATA]:.2f} ms a batch, {100 * share:.1f} % of a step together")
    tests = testing(args, device, args.turns)
    print(f"\ntest, images/s: decoding {tests['decoding']:.0f}, decoded once {tests['decoded once']:.0f}, forward alone "
          f"{tests['floor']:.0f}")
    measure.save(args, "validate", device, {"seconds": seconds, "peak_memory_bytes": memory, "data_share": share,
                                            "test_images_per_second": tests})


if __name__ == "__main__":
    run_entry(main)
