"""Labels of distilled images by an ensemble.

An epoch is labelled while the one before is written.
"""

import functools
import time
from concurrent.futures import ThreadPoolExecutor

import torch

from data import labels
from data.epoch_plan import draw_plan, mixed_batch
from data.run_folder import manifest_hash
from relabel.preview import save_preview
from utils import distributed
from utils.errors import UserError
from utils.files import check_space
from utils.options import print_options
from utils.progress import duration, progress_bar, size_words, write_above


class Labelling:
    """The labels of an ImageSet by an Ensemble, kept in a folder.

    manifest: the content of labels.json. device: a torch.device.
    """

    def __init__(self, folder, images, ensemble, manifest, device):
        self.folder, self.images, self.ensemble, self.device = folder, images, ensemble, device
        self.plan_options = labels.plan_options(manifest["options"], len(images))
        self.number_format = labels.format_of(manifest["options"], len(images.classes))
        self.recipe = manifest_hash(manifest)

    @functools.cached_property
    def pixels(self):
        """All images, uint8, decoded when they are first asked for."""
        return self.images.cache_on(self.device)

    def finished(self, count):
        """The epochs below count whose file is there, with the header of this recipe: a set."""
        return {epoch for epoch in labels.epochs_in(self.folder) if epoch < count
                and labels.is_finished(self.folder, epoch, self.plan_options, self.number_format,
                                       self.recipe)}

    def print_sizes(self, epochs, store):
        """Say how many bytes all `epochs` epochs take in every format. store: --label-store."""
        chosen = labels.words(self.number_format) if store == "files" else "none"
        sizes = labels.label_sizes(self.plan_options, self.number_format.classes, epochs,
                                   self.number_format.top_k)
        table = {name: size_words(size) for name, size in sizes.items()}
        table["none"] = "nothing: validate makes the same numbers on the fly"
        table[chosen] += "  <- chosen"
        print_options(f"size of the labels of {epochs} epochs", table)

    def check_space(self, finished, count):
        """Say how many of all `count` epochs are finished, and how many bytes the others take.

        Raises UserError when the disk has fewer.
        """
        if count:
            distributed.print0(f"relabel: {finished} of {count} epochs finished")
        if count > finished:
            epoch_bytes = labels.epoch_bytes(self.plan_options, self.number_format)
            check_space("relabel", self.folder, (count - finished) * epoch_bytes,
                        "Choose another --fkd-path, fewer --epochs, or --label-store none: "
                        "validate then makes the same labels on the fly.")

    def views(self, plan, batch):
        """The mixed views of a batch on the device: float32 [B, 3, S, S]."""
        return mixed_batch(self.pixels[plan.order[plan.options.rows(batch)]], plan, batch)

    def preview(self):
        """Write labels/preview.png, once: some views of the first batch and their labels."""
        path = self.folder / "preview.png"
        if distributed.rank() == 0 and not path.exists():
            plan = draw_plan(self.plan_options, 0)
            views = self.views(plan, 0)
            save_preview(path, views.cpu(), self.ensemble(views).cpu(), plan, self.images)

    def print_estimate(self, epochs):
        """Time two batches, of which the first warms up, and say how long the epochs will take."""
        plan = draw_plan(self.plan_options, epochs[0])
        for _ in range(2):
            start = time.perf_counter()
            logits = self.ensemble(self.views(plan, 0)).cpu()
            seconds = time.perf_counter() - start
        total = duration(seconds * len(epochs) * self.plan_options.batches)
        distributed.print0(f"relabel: {seconds * 1e3:.0f} ms a batch of {len(logits)}, about "
                           f"{total} for {len(epochs)} epochs on this rank")

    def run(self, epochs):
        """Label epochs and store each. A file that is not of this recipe is made anew."""
        count, written = len(epochs) * len(self.images), None
        with (progress_bar(count, "relabel", " images", unit_scale=True) as bar,
              ThreadPoolExecutor(1) as writer):
            for epoch in epochs:
                bar.set_postfix_str(f"epoch {epoch}", refresh=False)
                path = labels.epoch_file(self.folder, epoch)
                if path.exists():
                    write_above(bar, f"{path}: damaged or of another recipe; made anew")
                plan = draw_plan(self.plan_options, epoch)
                stored = self._label(plan, bar)

                self._check_there()
                if written is not None:
                    written.result()  # raises what writing raised; one epoch waits at most
                written = writer.submit(labels.save_epoch, path, epoch, plan, stored,
                                        self.number_format, self.recipe)
            if written is not None:
                written.result()
        self._check_there()

    def _check_there(self):
        """Raise UserError when somebody has removed the folder: a part of it would be of no use."""
        if not (self.folder / "labels.json").exists():
            raise UserError(f"{self.folder}: was removed while it was written. Run the same "
                            "command again: it starts anew.")

    def _label(self, plan, bar):
        """The labels of an epoch as they are stored: {tensor name: [N, ...]} on the CPU."""
        batches = []
        for batch in range(self.plan_options.batches):
            logits = self.ensemble(self.views(plan, batch))
            batches.append(self.number_format.encode(logits))
            bar.update(len(logits))
        return {name: torch.cat([stored[name] for stored in batches]).cpu() for name in batches[0]}
