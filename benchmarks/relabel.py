"""Relabel beside the plain way of the field and beside its floor.   python -m benchmarks.relabel [--precision bf16] [--compile]

Random weights, no data. An epoch of labels for random images (drawn plan, views, teachers, rule, files synced to the disk) by
  reference   the plain way, in float32: decode, crop, flip and normalise image by image with Pillow (in worker processes where the
              teachers run on a GPU), nets in PyTorch's own layout, torch.save of fp16 logits, a file a batch, before going on
  fp16 ...    ours, in each number format of the labels
  floor       the teachers' forward alone, on batches that lie ready in the layout of each net
With --precision bf16 and --compile all but the reference run so. Ours decodes the images once for all epochs: that is timed apart.
"""

import copy
import functools
import io
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks import measure
from data import augment, images
from data.distilled import DistilledImages
from data.epoch_plan import batch_slice, draw_plan, mixed_batch
from data.label_formats import FORMATS, label_format, row_bytes, through_format
from models.ensemble import RULES, Ensemble
from models.networks import build
from relabel.generate_soft_label import Labelling
from relabel.presets import TEACHERS
from utils import options
from utils.errors import run_entry
from utils.precision import Arithmetic
from utils.seeding import stream

RULE, READY = "equal_energy", 4  # batches that lie ready for the floor


def get_args_parser():
    parser = measure.get_args_parser("relabel", "Time relabel.", batch_size=50)
    parser.add_argument("--teachers", nargs="+", default=TEACHERS, metavar="NAME")
    parser.add_argument("--classes", type=options.positive_int, default=1000)
    parser.add_argument("--batches", type=options.positive_int, help="of an epoch (default: 4; on a GPU 200, which is IPC 10)")
    parser.add_argument("--label-top-k", type=options.positive_int, default=100, help="logits of a row that topk keeps")
    parser.add_argument("--workers", type=options.count,
                        help="processes that decode for the reference (default: 0 where the teachers need the CPU; 8 with a GPU)")
    return parser


def main(argv=None):
    args = get_args_parser().parse_args(argv)
    device = measure.start(args)
    args.batches = args.batches or (200 if device.type == "cuda" else 4)
    args.workers = (8 if device.type == "cuda" else 0) if args.workers is None else args.workers
    formats = {name: label_format(name, args.classes, args.label_top_k if name == "topk" else None) for name in FORMATS}
    with tempfile.TemporaryDirectory() as folder:
        work = Work(args, device, Path(folder))
        decode_seconds = work.decode()
        variants = {"reference": work.reference(), **{name: work.ours(name) for name in formats}, "floor": work.floor()}
        seconds = measure.in_turn(variants, args.turns, device, warm_up=1)
        errors = label_errors(work.logits(), formats)
    memory = {name: measure.peak_memory(run_once, name, args, device) for name in ("reference", "fp16", "floor")}
    batch_ms = {name: 1e3 * value / args.batches for name, value in seconds.items()}
    rows = [[name, ms, args.batch_size / ms * 1e3, f"{batch_ms['floor'] / ms:.1%}", f"{batch_ms['reference'] / ms:.2f}",
             f"{row_bytes(formats[name])}" if name in formats else "", f"{memory[name] / 1e6:.0f}" if name in memory else ""]
            for name, ms in batch_ms.items()]
    print("\n" + measure.table(["epoch of labels", "ms a batch", "images/s", "of the floor", "reference / it", "bytes a row",
                                "peak memory, MB"], rows))
    print(f"\ndecoding, once for all epochs: {1e3 * decode_seconds:.3g} ms an image")
    print("\n" + errors_table(errors))
    measure.save(args, "relabel", device, {"seconds": seconds, "seconds to decode an image": decode_seconds, "memory": memory,
                                           "bytes a row": {name: row_bytes(f) for name, f in formats.items()}, "errors": errors})


class Work:
    """An epoch to label. folder: for the files. The images and the nets' weights are random, and the same in every process."""

    def __init__(self, args, device, folder):
        self.args, self.device, self.folder = args, device, folder
        self.images = JpegsInMemory(args.batches * args.batch_size, args.image_size, args.classes, folder)
        self.networks = [build(name, args.classes, seed=("benchmark", name), image_size=args.image_size).requires_grad_(False)
                         .eval().to(device) for name in args.teachers]
        self.arithmetic = Arithmetic(args.precision, args.compile)
        self.ensemble = Ensemble(self.networks, RULE, self.arithmetic)
        self.settings = {"image_size": args.image_size, "batch_size": args.batch_size, "min_scale_crops": 0.25, "flip_prob": 0.5,
                         "mix_type": "cutmix", "mix_alpha": 1.0, "fkd_seed": 42}
        self.options = self.labelling("fp16").options

    def labelling(self, name):
        of_format = {"label_format": name, **({"label_top_k": self.args.label_top_k} if name == "topk" else {})}
        return Labelling(self.folder / name, {**self.settings, **of_format}, self.images, self.ensemble, None, self.device)

    def decode(self):
        """Decode all images. Returns seconds an image."""
        begin = time.perf_counter()
        _ = self.images.pixels
        return (time.perf_counter() - begin) / len(self.images)

    def ours(self, name):
        return functools.partial(measure.quietly, self.labelling(name).run, [0])

    def reference(self):
        return Reference(self)

    def floor(self):
        plan, pixels = draw_plan(self.options, 0), self.images.on(self.device)
        ready = [mixed_batch(pixels, plan, self.options, batch) for batch in range(min(READY, self.options.batches))]
        last = [x.contiguous(memory_format=torch.channels_last) for x in ready]
        nets = [(self.arithmetic.of(network), last if network.channels_last else ready) for network in self.networks]

        @torch.no_grad()
        def run():
            for batch in range(self.options.batches):
                for net, inputs in nets:
                    net(inputs[batch % len(inputs)])

        return run

    def logits(self):
        """Labels of the first batch in float32."""
        return self.ensemble(mixed_batch(self.images.on(self.device), draw_plan(self.options, 0), self.options, 0)).cpu()


class JpegsInMemory(DistilledImages):
    """Smooth random images of equal size as the bytes of JPEG files."""

    def __init__(self, count, size, classes, folder):
        self.folder, self.paths, self.classes, self.image_size = folder / "images", range(count), list(range(classes)), size
        self._workers = torch.get_num_threads()
        coarse = torch.randint(0, 256, (count, 12, 12, 3), generator=stream("benchmark images"), dtype=torch.uint8)
        self.files = [self._jpeg(picture.numpy(), size) for picture in coarse]

    @staticmethod
    def _jpeg(picture, size):
        buffer = io.BytesIO()
        Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC).save(buffer, "JPEG")
        return buffer.getvalue()

    def image(self, i):
        return images.to_tensor(images.decode(io.BytesIO(self.files[i])))


class PlainViews(Dataset):
    """Views of an epoch, made one by one: float32 [3, S, S]."""

    def __init__(self, files, plan, size):
        self.files, self.plan, self.size = files, plan, size
        self.mean, self.std = (torch.tensor(v).view(3, 1, 1) for v in (images.MEAN, images.STD))

    def __len__(self):
        return len(self.plan.order)

    def __getitem__(self, i):
        top, left, height, width = self.plan.crops[i].tolist()
        image = Image.open(io.BytesIO(self.files[self.plan.order[i]])).convert("RGB").crop((left, top, left + width, top + height))
        image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        if self.plan.flips[i]:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return (images.to_tensor(image).float() / 255 - self.mean) / self.std


class Reference:
    """The plain way. work: Work."""

    def __init__(self, work):
        self.work, self.networks = work, [copy.deepcopy(n).to(memory_format=torch.contiguous_format) for n in work.networks]
        for network in self.networks:
            network.channels_last = False

    @torch.no_grad()
    def __call__(self):
        work = self.work
        plan = draw_plan(work.options, 0)
        views = DataLoader(PlainViews(work.images.files, plan, work.options.size), work.options.batch_size,
                           num_workers=work.args.workers, pin_memory=work.device.type == "cuda")
        (work.folder / "reference").mkdir(exist_ok=True)
        for batch, x in enumerate(views):
            at, box = batch_slice(work.options, batch), plan.boxes[batch].tolist()
            mixed = augment.apply_cutmix(x.to(work.device, non_blocking=True), plan.partners[at], box)
            logits = RULES[RULE](torch.stack([network(mixed) for network in self.networks])).half().cpu()
            content = [plan.crops[at].clone(), plan.flips[at].clone(), plan.partners[at].clone(), float(plan.lams[batch]), box,
                       logits, plan.order[at].clone()]
            torch.save(content, work.folder / "reference" / f"batch_{batch}.tar")


def run_once(name, args, device):
    """One epoch by one variant, in a process that has done nothing else."""
    options.set_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        work = Work(args, device, Path(folder))
        run = {"reference": work.reference, "floor": work.floor}.get(name, functools.partial(work.ours, name))()
        run()


def label_errors(logits, formats, temperature=20.0):
    """What each format does to labels float32 [B, C]: {name: {"relative": |z' - z| / |z|, "kl": mean KL(z/T || z'/T),
    "mse": mean (z' - z)^2, "top1": share of rows with the same largest class}}."""
    found, before = {}, (logits.double() / temperature).log_softmax(1)
    for name, number_format in formats.items():
        back = through_format(logits, number_format).double()
        after = (back / temperature).log_softmax(1)
        found[name] = {"relative": float((back - logits).norm() / logits.double().norm()),
                       "kl": float((before.exp() * (before - after)).sum(1).mean()), "mse": float((back - logits).square().mean()),
                       "top1": float((back.argmax(1) == logits.argmax(1)).float().mean())}
    return found


def errors_table(errors):
    """Text table of what label_errors gives."""
    rows = [[name, *(f"{e[k]:.1e}" for k in ("relative", "kl", "mse")), f"{e['top1']:.1%}"] for name, e in errors.items()]
    return measure.table(["labels against float32", "relative error", "KL at T = 20", "MSE", "same top-1"], rows)


if __name__ == "__main__":
    run_entry(main)
