"""The variants of an epoch of labels that benchmarks.relabel compares."""

import copy
import functools
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from benchmarks import measure
from benchmarks.plain_views import PlainViews, random_images
from data.augment import apply_cutmix
from data.epoch_plan import draw_plan
from data.names import LABEL_FORMATS
from models.ensemble import RULES, Ensemble
from models.networks import build
from relabel.labelling import Labelling
from utils.files import write_json
from utils.precision import Arithmetic

RULE = "equal_energy"
VIEWS = {"min_scale_crops": 0.25, "flip_prob": 0.5, "mix_type": "cutmix", "mix_alpha": 1.0,
         "fkd_seed": 42}


def measured(args, device, formats=LABEL_FORMATS, reference=True):
    """The figures of the benchmark, as its JSON file keeps them.

    formats: number formats, fp16 among them. reference: whether it is timed as well.
    """
    with tempfile.TemporaryDirectory() as folder:
        ours = labellings(args, device, Path(folder), formats)
        images = ours["fp16"].images
        begin = time.perf_counter()
        decoded = images.all_pixels
        decoding = (time.perf_counter() - begin) / len(decoded)

        variants = {"reference": Reference(ours["fp16"], args.workers)} if reference else {}
        for name, labelling in ours.items():
            variants[name] = functools.partial(measure.quietly, labelling.run, [0])
        variants["floor"] = floor(ours["fp16"], Arithmetic(args.precision, args.compile))
        seconds = measure.in_turn(variants, args.turns, device, warm_up=1, calls=1)
        waits = measure.count_waits(functools.partial(label_batch, ours["fp16"]), device)
    return {"seconds": seconds, "seconds to decode an image": decoding, "waits in a batch": waits,
            "bytes a row": {name: labelling.number_format.bytes_per_row
                            for name, labelling in ours.items()}}


def labellings(args, device, folder, formats=LABEL_FORMATS):
    """{number format: Labelling of relabel} of the same images by the same ensemble."""
    images = random_images(folder / "images", args.batches * args.batch_size, args.image_size,
                           args.classes)
    teachers = [build(name, args.classes, seed=("benchmark", name), image_size=args.image_size)
                .requires_grad_(False).eval().to(device) for name in args.teachers]
    ensemble = Ensemble(teachers, RULE, Arithmetic(args.precision, args.compile))

    def labelling(name):
        manifest = {"options": {
            **VIEWS, "image_size": args.image_size, "batch_size": args.batch_size,
            "label_format": name, "label_top_k": args.label_top_k if name == "topk" else None}}
        write_json(folder / name / "labels.json", manifest)  # as relabel does before it labels
        return Labelling(folder / name, images, ensemble, manifest, device)

    return {name: labelling(name) for name in formats}


def label_batch(labelling):
    """What an epoch does for each batch."""
    views = labelling.views(draw_plan(labelling.plan_options, 0), 0)
    labelling.number_format.encode(labelling.ensemble(views))


def floor(labelling, arithmetic):
    """A function that runs the teachers on as many batches, in the layout of each network."""
    plan = draw_plan(labelling.plan_options, 0)
    views = labelling.views(plan, 0)
    channels_last = views.contiguous(memory_format=torch.channels_last)
    teachers = [(arithmetic.of(teacher), channels_last if teacher.channels_last else views)
                for teacher in labelling.ensemble.teachers]

    @torch.no_grad()
    def run():
        for _ in range(plan.options.batches):
            for forward, images in teachers:
                forward(images)

    return run


class Reference:
    """The plain way: float32, views one by one, PyTorch's own layout, a file for each batch.

    labelling: whose images, teachers and plan these are; files go to reference/ beside its folder.
    workers: processes that make the views.
    """

    def __init__(self, labelling, workers):
        self.folder, self.device = labelling.folder.parent / "reference", labelling.device
        self.folder.mkdir()
        self.networks = [copy.deepcopy(teacher).to(memory_format=torch.contiguous_format)
                         for teacher in labelling.ensemble.teachers]
        for network in self.networks:
            network.channels_last = False
        self.plan = draw_plan(labelling.plan_options, 0)
        self.views = DataLoader(PlainViews(labelling.images, self.plan),
                                self.plan.options.batch_size, num_workers=workers,
                                pin_memory=self.device.type == "cuda")

    @torch.no_grad()
    def __call__(self):
        """Label the epoch."""
        plan = self.plan
        for batch, views in enumerate(self.views):
            rows, box = plan.options.rows(batch), plan.boxes[batch].tolist()
            views = views.to(self.device, non_blocking=True)
            mixed = apply_cutmix(views, plan.partners[rows], box)
            logits = RULES[RULE](torch.stack([network(mixed) for network in self.networks]))
            plan_rows = [tensor[rows].clone() for tensor in
                         (plan.order, plan.crops, plan.flips, plan.partners)]
            torch.save([*plan_rows, float(plan.lams[batch]), box, logits.half().cpu()],
                       self.folder / f"batch_{batch}.tar")
