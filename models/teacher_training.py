"""Training of one teacher: its files, its state, its epochs."""

import time
from dataclasses import asdict

import torch
import torch.nn.functional as F
from torch import nn

from data import run_folder
from models import networks
from models.evaluate import dataset_accuracy
from models.training_data import FolderBatches, MemoryBatches, steps_per_epoch
from utils import checkpoint
from utils.errors import UserError
from utils.files import damaged, write_json
from utils.progress import progress_bar
from utils.seeding import seeded

_MADE_BY = "models.pretrain"


def build_network(plan, images):
    """The untrained network of a plan, seeded by (seed, "squeeze", name, "init")."""
    key = (plan.seed, "squeeze", plan.name)
    network = networks.build(plan.name, len(images.classes), plan.stem, plan.input_resize,
                             (*key, "init"), images.image_size)
    if plan.init == "he":
        with seeded(*key, "he"):
            he_initialisation(network)
    network.classes = images.classes
    return network


def he_initialisation(network):
    """He et al. 2015 in every convolution and linear layer, with biases 0.

    The head is N(0, 0.01), so that it starts at chance.
    """
    head = networks.head(network)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            if module is head:
                nn.init.normal_(module.weight, std=0.01)
            else:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class TeacherTraining:
    """Training of the network of a plan on an ImageSet, kept in a folder.

    plan: a Plan. train: the training images. test_set: contents_hash of the test images. run:
    SqueezeRun. device: a torch.device.
    """

    def __init__(self, plan, train, test_set, run, device):
        self.plan, self.train, self.run, self.device = plan, train, run, device
        stem = run.output_dir / networks.file_stem(plan.name)
        self.weights, self.manifest, self.state = (
            stem.with_name(stem.name + suffix) for suffix in (".safetensors", ".json", ".state.pt"))
        self.options = {"dataset": train.dataset, "image_size": train.image_size,
                        "crop": train.crop, **asdict(plan)}
        self.content = {
            "options": self.options,
            "identity": {"classes": train.classes, "train_images": train.contents_hash(),
                         "test_set": test_set},
            "versions": {**run_folder.versions(), "threads": torch.get_num_threads(),
                         "device": device.type}}

    def finished(self):
        """{"top1", "top5", "count", "seconds"} of a finished network, or None.

        Raises UserError for a folder that was made with other options.
        """
        if not self.weights.exists() and not self.state.exists():
            self.manifest.unlink(missing_ok=True)  # nothing was kept, so options may change
        content = run_folder.settle_manifest(self.manifest, self.content,
                                             "Use the same options, or another --output-dir.")
        if not self.weights.exists():
            return None

        _, about = networks.load_network(self.weights, self.plan.name)
        if about.get("options") != self.options:
            raise UserError(f"{self.weights}: was not made by this command. Remove it, or choose "
                            "another --output-dir.")
        if "result" not in content:  # stopped between writing the two files
            content["result"] = {**about["accuracy"], "seconds": None}
            write_json(self.manifest, content)
        self.state.unlink(missing_ok=True)
        return content["result"]

    def train_and_keep(self, test):
        """Train, measure on the test images and save. Returns what `finished` does."""
        network = build_network(self.plan, self.train).to(self.device)
        begin = time.monotonic()
        before = self._run_epochs(network)
        accuracy = dataset_accuracy(network, test, self.device, progress=f"{self.plan.name} test")

        networks.save_network(self.weights, network, {**self.content, "accuracy": accuracy})
        result = {**accuracy, "seconds": round(before + time.monotonic() - begin, 1)}
        write_json(self.manifest, {**self.content, "result": result})
        self.state.unlink(missing_ok=True)
        return result

    def _run_epochs(self, network):
        """Train the network, from the saved state on. Returns the seconds spent before that."""
        plan, batches = self.plan, self._batches()
        if plan.dropout is not None:
            for module in network.modules():
                if isinstance(module, nn.Dropout):
                    module.p = plan.dropout
        steps = steps_per_epoch(len(self.train), plan.batch_size)
        optimizer = torch.optim.SGD(network.parameters(), lr=plan.lr, momentum=0.9, nesterov=True,
                                    weight_decay=plan.weight_decay, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, plan.lr, total_steps=plan.epochs * steps + 1, pct_start=plan.warmup,
            cycle_momentum=False)

        parts = {"network": network.net, "optimizer": optimizer, "schedule": schedule}
        first, before = self._load(parts)
        begin = saved = time.monotonic()
        with progress_bar(plan.epochs * steps, plan.name, " steps", initial=first * steps) as bar:
            for epoch in range(first, plan.epochs):
                key = (plan.seed, "squeeze", plan.name, epoch)
                loss = train_epoch(network, batches.epoch(key), optimizer, schedule, key,
                                   plan.clip_norm, bar)
                if not torch.isfinite(loss):
                    raise UserError(f"{plan.name}: the loss is not finite in epoch {epoch}. Choose "
                                    f"a smaller learning rate than {plan.lr:g} with --lr-for "
                                    f"{plan.name}=...")
                bar.set_postfix_str(f"epoch {epoch + 1}/{plan.epochs}, loss {float(loss):.3f}")

                now = time.monotonic()
                if epoch + 1 < plan.epochs and now - saved >= self.run.save_seconds:
                    self._save(parts, epoch + 1, before + now - begin)
                    saved = time.monotonic()
        return before

    def _batches(self):
        plan, images = self.plan, self.train
        if plan.pad is None:
            return FolderBatches(images, plan.batch_size, images.flips, self.device,
                                 self.run.workers)
        return MemoryBatches(images.all_pixels, images.labels, plan.batch_size, plan.pad,
                             images.flips, self.device)

    def _save(self, parts, epoch, seconds):
        states = {name: part.state_dict() for name, part in parts.items()}
        checkpoint.save_state(self.state, {"options": self.options, "epoch": epoch,
                                           "seconds": seconds, **states})

    def _load(self, parts):
        """Fill the parts from a saved state. Returns the epoch to go on with, and seconds spent."""
        if not self.state.exists():
            return 0, 0.0
        state = checkpoint.load_state(self.state)
        try:
            if state["options"] != self.options:  # the manifest was removed to start anew
                return 0, 0.0
            for name, part in parts.items():
                part.load_state_dict(state[name])
            return int(state["epoch"]), float(state["seconds"])
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise damaged(self.state, _MADE_BY, error) from None


def train_epoch(network, batches, optimizer, schedule, key, clip_norm, bar):
    """One epoch of cross-entropy over an iterator of (images, labels).

    key: names the stream of dropout. Returns the mean loss as a tensor on the device.
    """
    network.train()
    total, count = 0.0, 0
    with seeded(*key, "dropout"):
        for x, labels in batches:
            loss = F.cross_entropy(network(x), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
            optimizer.step()
            schedule.step()

            total, count = total + loss.detach(), count + 1
            bar.update(1)
    return total / count
