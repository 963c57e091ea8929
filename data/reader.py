"""The distilled dataset of a run folder, for anybody's own training loop."""

from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.data import Dataset

from data.epoch_plan import EpochPlan, mixed_batch
from data.labels import LabelStore
from data.opening import open_distilled
from utils.errors import UserError


def load(run_folder, workers=4):
    """The distilled dataset of a run folder (images/ and labels/) as a torch Dataset.

        dataset = data.load("results/prism_r18_ipc10")
        for epoch in dataset.epochs:
            dataset.set_epoch(epoch)
            for images, soft_labels, classes in DataLoader(dataset, dataset.batch_size):
                ...

    Item i is position i of the epoch. Its image, float32 [3, S, S], is cropped, flipped, normalised
    with ImageNet's mean and std and mixed with its partner, bit for bit what the teachers saw. Its
    soft label, float32 [C], is their raw logits. Its class, int, is that of the image before
    mixing. Do not shuffle: the plan already does, anew in every epoch. The released recipe takes
    each batch as two micro-batches. Raises UserError when labels are missing, damaged or belong to
    other images.
    """
    folder = Path(run_folder)
    images = open_distilled(folder / "images", workers)
    store = LabelStore(folder / "labels", images)
    if not store.epochs:
        why = ("only the recipe is stored (--label-store none)" if store.store == "none"
               else "it holds no epoch")
        raise UserError(f"{store.folder}: {why}. Run relabel with --label-store files.")
    return DistilledDataset(images, store)


class DistilledDataset(Dataset):
    """What `load` gives.

    epochs: numbers of the labelled epochs. classes: names. batch_size: of the labels.
    """

    def __init__(self, images, store):
        self.pixels, self.labels, self.classes = images.all_pixels, images.labels, images.classes
        self.store, self.epochs = store, store.epochs
        self.batch_size = store.plan_options.batch_size
        self.set_epoch(self.epochs[0])

    def set_epoch(self, epoch):
        """Choose the epoch that the items belong to.

        Call it before a DataLoader starts to iterate (no persistent workers).
        """
        self.epoch, self._labels = epoch, self.store.epoch(epoch)

    def __len__(self):
        return self.store.plan_options.images

    def __getitem__(self, i):
        if not 0 <= i < len(self):
            raise IndexError(f"item {i} of {len(self)}")
        plan, batch = self._labels.plan, i // self.batch_size

        # A view needs its partner's pixels, and nothing else of its batch.
        pair = torch.tensor([i, batch * self.batch_size + int(plan.partners[i])])
        two = EpochPlan(replace(plan.options, images=2, batch_size=2), plan.order[pair],
                        plan.crops[pair], plan.flips[pair], torch.tensor([1, 0]),
                        plan.lams[batch : batch + 1], plan.boxes[batch : batch + 1])
        image = mixed_batch(self.pixels[two.order], two, 0)[0]
        return image, self._labels.logits(slice(i, i + 1))[0], int(self.labels[plan.order[i]])
