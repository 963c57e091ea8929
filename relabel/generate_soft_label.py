"""Stage 2: draw the plan of every epoch of this rank, label the views it makes, store both.

    python -m relabel.generate_soft_label --output-dir results/prism_r18_ipc10
"""

import functools
import time

import torch

from data import datasets, run_folder
from data.distilled import DistilledImages
from data.epoch_plan import ALPHA, batch_slice, draw_plan, mixed_batch
from data.label_formats import label_format
from data.labels import (
    EpochLabels,
    LabelWriter,
    arithmetic_of,
    epoch_bytes,
    epoch_file,
    format_of,
    plan_options,
    recipe_hash,
)
from models.ensemble import Ensemble
from models.networks import fingerprint
from models.teachers import load_teachers, weights_folder
from relabel.args import get_args_parser
from relabel.background import Background
from relabel.preview import save_preview
from utils import distributed, options
from utils.errors import UserError, memory_advice, own_work_begins, run_entry, try_half
from utils.files import check_writable, free_bytes, remove_leftovers, write_json
from utils.host_memory import keep_freed_memory
from utils.progress import duration, progress_bar, size_words


def main(argv=None):
    args = get_args_parser().parse_args(argv)
    keep_freed_memory()
    shard = options.settle_shard(args.shard)
    threads, device = options.set_threads(args.threads), distributed.choose_device(args.device)
    images = DistilledImages(args.train_dir or args.output_dir / "images", args.workers)
    folder = args.fkd_path or args.output_dir / "labels"
    settings = resolve(args, images)
    departs = sorted(args.changed & set(settings))
    options.print_options("relabel", {"preset": args.preset, "preset_changed": ", ".join(departs) or "nothing", **settings,
                                      "teacher_weights": args.teacher_weights, "label_store": args.label_store,
                                      "epochs": args.epochs, "images": f"{len(images)} in {images.folder}",
                                      "classes": len(images.classes), "shard": options.shard_words(shard), "device": device,
                                      "threads": threads, "labels": folder})
    check_writable(folder)
    remove_leftovers(folder)

    teachers = load_teachers(settings["teachers"], args.teacher_weights, images.classes, device, settings["image_size"])
    ensemble = Ensemble([teachers[name] for name in settings["teachers"]], settings["ensemble"], arithmetic_of(settings))
    manifest = describe(settings, args, images, teachers)
    labelling = Labelling(folder, settings, images, ensemble, recipe_hash(manifest), device)
    if not (folder / "labels.json").exists():  # it ties the folder to these images: first see that they can be labelled
        labelling.pixels(torch.arange(1))
        if args.label_store == "files":
            labelling.check_space([epoch for epoch in range(args.epochs) if not epoch_file(folder, epoch).exists()])
    settle_labels_json(folder, manifest)
    if args.label_store == "none":
        labelling.preview()
        distributed.print0(f"relabel: the recipe lies in {folder / 'labels.json'}; validate makes the labels on the fly")
        return
    todo = [epoch for epoch in range(args.epochs) if not labelling.is_finished(epoch)]
    labelling.print_space(todo, args.epochs)
    labelling.check_space(todo)
    mine = sorted(set(todo) & set(distributed.my_share(range(args.epochs), shard)))  # a share of all: the others may be ahead
    labelling.preview()
    own_work_begins()
    with memory_advice(try_half("--batch-size", settings["batch_size"], "the student's batch becomes the same. It changes the "
                                "labels, so give another --fkd-path")):
        labelling.print_estimate(mine)
        labelling.run(mine)
    whose = "done" if distributed.place_of(shard)[1] == 1 else "this share is done"
    distributed.print0(f"relabel: {whose}; labels lie in {folder}")


def resolve(args, images):
    """The options that change the labels, with defaults that depend on the data filled in."""
    if args.mix_type == "none" and args.mix_alpha is not None:
        raise UserError("--mix-alpha is not read with --mix-type none. Leave it out.")
    label_format(args.label_format, len(images.classes), args.label_top_k)  # refuses what does not go together
    flip = 0.5 if images.dataset is None or datasets.has_flips(images.dataset) else 0.0
    opt_in = {"label_top_k": args.label_top_k, "compile": args.compile or None,
              "precision": None if args.precision == "fp32" else args.precision}
    return {
        "teachers": args.teachers[:1] if args.ensemble == "single" else args.teachers, "ensemble": args.ensemble,
        "fkd_seed": args.fkd_seed, "batch_size": args.batch_size, "min_scale_crops": args.min_scale_crops,
        "flip_prob": flip if args.flip_prob is None else args.flip_prob, "mix_type": args.mix_type,
        "mix_alpha": args.mix_alpha or ALPHA[args.mix_type], "image_size": images.image_size,
        "label_format": args.label_format,
        **{name: value for name, value in opt_in.items() if value is not None},  # absent in older folders: they can be gone on with
    }


def describe(settings, args, images, teachers):
    """The content of labels.json."""
    given = weights_folder(args.teacher_weights)
    return {
        "preset": args.preset, "preset_changed": sorted(args.changed & set(settings)), "options": settings,
        "store": args.label_store, "teacher_weights": str(given or args.teacher_weights),
        "identity": {"images": images.identity, "teachers": {name: fingerprint(net) for name, net in teachers.items()}},
        "versions": run_folder.versions(),
    }


def settle_labels_json(folder, manifest):
    """Write labels.json, or check that the one there says the same.

    Where the teachers' weights lie and whether labels are stored may change: hashes tell the weights, and neither changes
    a number.
    """
    path = folder / "labels.json"
    found = run_folder.settle_manifest(path, manifest, "Give the same images, teachers and options again, or choose another "
                                                       "--fkd-path.")
    if found["store"] == "none" and manifest["store"] == "files":
        write_json(path, {**found, "store": "files"})


class Labelling:
    """Label epochs of images by an ensemble and store them.

    settings: resolved options. recipe: hash that marks the files as belonging to labels.json.
    """

    def __init__(self, folder, settings, images, ensemble, recipe, device):
        self.folder, self.settings, self.images, self.ensemble = folder, settings, images, ensemble
        self.recipe, self.device = recipe, device
        self.options, self.number_format = plan_options(settings, len(images)), format_of(settings, len(images.classes))

    @functools.cached_property
    def pixels(self):
        """Function of indices giving uint8 [n, 3, S, S] on the device; decodes all images when it is first asked for."""
        return self.images.on(self.device)

    def is_finished(self, epoch):
        """Whether the file of an epoch is there with a good header. One that is damaged or foreign is reported: no."""
        path = epoch_file(self.folder, epoch)
        if not path.exists():
            return False
        try:
            EpochLabels(path, epoch, self.options, self.number_format, self.recipe)
        except UserError as error:
            distributed.print0(f"made anew: {error}")
            return False
        return True

    def space(self, todo):
        """Bytes that these epochs take, and bytes that the disk has."""
        needed = len(todo) * epoch_bytes(self.options, self.number_format)
        return needed, free_bytes(self.folder)

    def print_space(self, todo, epochs):
        """Say how many bytes will be written."""
        needed, free = self.space(todo)
        finished = f"{epochs - len(todo)} of {epochs} epochs finished"
        distributed.print0(f"relabel: {len(self.images):,} images of {self.number_format.classes:,} classes, {finished}; "
                           f"{size_words(needed)} to write, {size_words(free)} free")

    def check_space(self, todo):
        """Refuse epochs that the disk has no room for."""
        needed, free = self.space(todo)
        if needed > free:
            raise UserError(f"{self.folder}: {len(todo)} epochs of labels take {size_words(needed)}, the disk has "
                            f"{size_words(free)} free. Choose another --fkd-path, fewer --epochs, or --label-store none: "
                            "validate then makes the same labels on the fly.")

    def print_estimate(self, mine):
        """Time two batches with the real teachers (the first warms up) and say how long everything will take."""
        if not mine:
            return
        plan = draw_plan(self.options, mine[0])
        for _ in range(2):
            start = time.perf_counter()
            self.label(plan, 0).cpu()
            seconds = time.perf_counter() - start
        batches = len(mine) * self.options.batches
        distributed.print0(f"relabel: {seconds * 1e3:.0f} ms a batch of {len(plan.order[batch_slice(self.options, 0)])}, about "
                           f"{duration(seconds * batches)} for {len(mine)} epochs on this rank")

    def label(self, plan, batch):
        """Logits [B, C] of a batch of mixed views, on the device."""
        return self.ensemble(mixed_batch(self.pixels, plan, self.options, batch))

    def run(self, epochs):
        """Label epochs one after the other; files are written, synced and named by a thread beside it."""
        with (progress_bar(len(epochs) * len(self.images), "relabel", " images", unit_scale=True) as bar,
              Background(functools.partial(self.write, epochs)) as background):
            for epoch in epochs:
                bar.set_postfix_str(f"epoch {epoch}", refresh=False)
                plan = draw_plan(self.options, epoch)
                background.put(plan)
                for batch in range(self.options.batches):
                    logits = ToCpu(self.label(plan, batch))
                    background.put(logits)
                    bar.update(len(logits))

    def write(self, epochs, items):
        """Write what `run` makes. items: an iterator of each epoch's plan and then its batches, as ToCpu."""
        for epoch in epochs:
            plan = next(items)
            with LabelWriter(epoch_file(self.folder, epoch), epoch, plan, self.options, self.number_format, self.recipe) as writer:
                for batch in range(self.options.batches):
                    writer.write(batch, next(items).get())

    def preview(self):
        """labels/preview.png: some views of the first batch with the ensemble's answers. Written once, by rank 0."""
        path = self.folder / "preview.png"
        if distributed.rank() == 0 and not path.exists():
            plan = draw_plan(self.options, 0)
            views = mixed_batch(self.pixels, plan, self.options, 0)
            save_preview(path, views.cpu(), self.ensemble(views).cpu(), plan, self.options, self.images)


class ToCpu:
    """A copy of a tensor to the CPU that the program does not wait for until `get`."""

    def __init__(self, tensor):
        self._copy, self._event = tensor.to("cpu", non_blocking=True), None
        if tensor.is_cuda:
            self._event = torch.cuda.Event()
            self._event.record()

    def __len__(self):
        return len(self._copy)

    def get(self):
        if self._event is not None:
            self._event.synchronize()
        return self._copy


if __name__ == "__main__":
    run_entry(main)
