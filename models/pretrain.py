"""Entry of teacher training ("squeeze"): train nets on real images and keep them with their accuracy.

    python -m models.pretrain --dataset digits --teachers resnet18 alexnet --input-resize alexnet=64 --output-dir FOLDER

Writes NAME.safetensors (weights, what the net is, its accuracy) and NAME.json (options, accuracy, seconds) per net. The
same command again skips finished nets and goes on inside an unfinished one. Under torchrun each process trains other nets.
"""

import time
from dataclasses import asdict

import torch
import torch.nn.functional as F
from torch import nn

from data import datasets, run_folder
from models import networks
from models.bn_statistics import has_batch_norm
from models.evaluate import dataset_accuracy
from models.pretrain_args import get_args_parser, make_plans
from models.training_data import FolderBatches, MemoryBatches, steps_per_epoch
from utils import checkpoint, distributed, options
from utils.errors import UserError, memory_advice, own_work_begins, run_entry
from utils.files import check_writable, remove_leftovers, write_json
from utils.progress import progress_bar
from utils.seeding import seeded


def main(argv=None):
    args = get_args_parser().parse_args(argv)
    shard = options.settle_shard(args.shard)
    device, threads = distributed.choose_device(args.device), options.set_threads(args.threads)
    image_size = args.image_size or datasets.default_image_size(args.dataset)
    for name in args.teachers:
        networks.check_name(name)
    plans = make_plans(args, image_size, has_batch_norm)
    check_writable(args.output_dir)
    remove_leftovers(args.output_dir)
    train = datasets.open_images(args.dataset, "train", args.train_dir, image_size)
    val_dir = args.val_dir or (args.train_dir if args.dataset != "imagefolder" else None)
    test = datasets.open_images(args.dataset, "test", val_dir, image_size, train.classes)
    for plan in plans:  # every mistake in the options shows before the first epoch
        if min(plan.batch_size, len(train)) == 1 and has_batch_norm(plan.name):
            raise UserError(f"{plan.name}: --batch-size {plan.batch_size} and {len(train)} training images make batches of one "
                            "image, BatchNorm needs more. Raise --batch-size, or add images.")
        with torch.device("meta"):
            network = build_network(plan, train)
        networks.check_image_size(network, image_size)
    options.print_options("models.pretrain", {
        "dataset": f"{args.dataset}, {len(train.classes)} classes, {image_size} px",
        "images": f"{len(train)} to train, {len(test)} to test",
        **{plan.name: ", ".join(f"{k} {v}" for k, v in asdict(plan).items() if v is not None and k != "name") for plan in plans},
        "shard": options.shard_words(shard), "device": device, "threads": threads, "output_dir": args.output_dir})
    pixels = None
    own_work_begins()
    for plan in distributed.my_share(plans, shard):
        job = Job(plan, args, train, device)
        result = job.finished()
        if result is None:
            if pixels is None and plan.pad is not None:
                pixels = train.pixels(range(len(train)), args.workers)
            with memory_advice(f"Try --batch-size-for {plan.name}={max(1, plan.batch_size // 2)} (found {plan.batch_size}), after "
                               f"removing {job.manifest.name}."):
                result = job.run(pixels, test)
        seconds = "" if result["seconds"] is None else f", trained in {result['seconds']:.0f} s"
        print(f"{plan.name}: top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} % of {len(test)} test images{seconds}",
              flush=True)
        if result["top1"] < args.min_accuracy:
            raise UserError(f"{plan.name} gets {result['top1']:.2f} % of the test images right, below --min-accuracy "
                            f"{args.min_accuracy:g}. Remove {job.weights} and {job.manifest.name}, then train it longer "
                            f"(--epochs-for {plan.name}=...) or with another --lr-for.")


def build_network(plan, images):
    """The untrained network of a plan, seeded by (seed, "squeeze", name, "init")."""
    network = networks.build(plan.name, len(images.classes), plan.stem, plan.input_resize,
                             (plan.seed, "squeeze", plan.name, "init"), images.image_size)
    if plan.init == "he":
        with seeded(plan.seed, "squeeze", plan.name, "he"):
            he_initialisation(network)
    network.classes = images.classes
    return network


def he_initialisation(network):
    """He et al. 2015 in every convolution and linear layer, biases 0; the head N(0, 0.01), so that it starts at chance."""
    head = networks.head(network)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            if module is head:
                nn.init.normal_(module.weight, std=0.01)
            else:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class Job:
    """Training of one net: its files, its state, its epochs."""

    def __init__(self, plan, args, train, device):
        self.plan, self.args, self.train, self.device = plan, args, train, device
        stem = networks.file_stem(plan.name)
        self.weights, self.manifest, self.state = (args.output_dir / (stem + s) for s in (".safetensors", ".json", ".state.pt"))
        self.options = {"dataset": args.dataset, "image_size": train.image_size, **asdict(plan)}
        self.content = {"options": self.options, "identity": {"classes": train.classes, "train_images": len(train)},
                        "versions": {**run_folder.versions(), "threads": torch.get_num_threads(), "device": device.type}}

    def finished(self):
        """What is known of a finished net, or None. Refuses a folder that was made with other options."""
        if not self.weights.exists() and not self.state.exists():
            self.manifest.unlink(missing_ok=True)  # stopped before anything was kept (a damaged image): free to change
        found = run_folder.settle_manifest(self.manifest, self.content, "Use the same options, or another --output-dir.")
        if not self.weights.exists():
            return None
        _, about = networks.load_network(self.weights, self.plan.name)
        if about.get("options") != self.options:
            raise UserError(f"{self.weights}: was not made by this command. Remove it, or choose another --output-dir.")
        if "result" not in found:  # killed between writing the two files
            seconds = round(self._read_state()["seconds"], 1) if self.state.exists() else None
            found = {**found, "result": {**about["accuracy"], "seconds": seconds}}
            write_json(self.manifest, found)
        self.state.unlink(missing_ok=True)
        return found["result"]

    def run(self, pixels, test):
        """Train, measure, save. Returns {"top1", "top5", "count", "seconds"}."""
        plan, images = self.plan, self.train
        network = build_network(plan, images).to(self.device)
        if plan.dropout is not None:
            for module in network.modules():
                if isinstance(module, nn.Dropout):
                    module.p = plan.dropout
        if plan.pad is None:
            batches = FolderBatches(images, plan.batch_size, images.flips, self.device, self.args.workers)
        else:
            batches = MemoryBatches(pixels, torch.from_numpy(images.labels), plan.batch_size, plan.pad, images.flips, self.device)
        steps = steps_per_epoch(len(images), plan.batch_size)
        optimizer = torch.optim.SGD(network.parameters(), lr=plan.lr, momentum=0.9, nesterov=True,
                                    weight_decay=plan.weight_decay, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, plan.lr, total_steps=plan.epochs * steps + 1,
                                                       pct_start=plan.warmup, cycle_momentum=False)
        parts = {"network": network.net, "optimizer": optimizer, "schedule": schedule}
        first, before = self._load(parts)
        begin = saved = time.monotonic()
        bar = progress_bar(plan.epochs * steps, plan.name, " steps", initial=first * steps)
        with bar:
            for epoch in range(first, plan.epochs):
                loss = train_epoch(network, batches, optimizer, schedule, (plan.seed, "squeeze", plan.name, epoch), bar,
                                   plan.clip_norm)
                if not torch.isfinite(loss):
                    raise UserError(f"{plan.name}: the loss is not finite in epoch {epoch}. Choose a smaller learning rate than "
                                    f"{plan.lr:g} with --lr-for {plan.name}=...")
                bar.set_postfix_str(f"epoch {epoch + 1}/{plan.epochs}, loss {float(loss):.3f}")
                if epoch + 1 < plan.epochs and time.monotonic() - saved >= self.args.save_seconds:
                    self._save(parts, epoch + 1, before + time.monotonic() - begin)
                    saved = time.monotonic()
        accuracy = dataset_accuracy(network, test, self.device, self.args.workers, progress=f"{plan.name} test")
        networks.save_network(self.weights, network, {**self.content, "accuracy": accuracy})
        result = {**accuracy, "seconds": round(before + time.monotonic() - begin, 1)}
        write_json(self.manifest, {**self.content, "result": result})
        self.state.unlink(missing_ok=True)
        return result

    def _save(self, parts, epoch, seconds):
        checkpoint.save_state(self.state, {"options": self.options, "epoch": epoch, "seconds": seconds,
                                           **{name: part.state_dict() for name, part in parts.items()}})

    def _load(self, parts):
        """Fill the parts from a saved state. Returns the epoch to go on with and the seconds spent before."""
        if not self.state.exists():
            return 0, 0.0
        state = self._read_state()
        if state["options"] != self.options:  # NAME.json was removed by hand to start anew
            return 0, 0.0
        try:
            for name, part in parts.items():
                part.load_state_dict(state[name])
            checkpoint.check_optimizer(parts["optimizer"])
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise UserError(f"{self.state}: does not hold the state of {self.plan.name} ({networks.first_line(error)}). Remove it "
                            "and run this again: training begins anew.") from None
        return state["epoch"], state["seconds"]

    def _read_state(self):
        state = checkpoint.load_state(self.state)
        if not isinstance(state, dict) or not {"options", "epoch", "seconds"} <= set(state) or not isinstance(
                state["epoch"], int) or not 0 < state["epoch"] < self.plan.epochs or not isinstance(state["seconds"], float):
            raise UserError(f"{self.state}: does not hold the state of {self.plan.name}. Remove it and run this again: training "
                            "begins anew.")
        return state


def train_epoch(network, batches, optimizer, schedule, key, bar, clip_norm=None):
    """One epoch of cross-entropy. key names its random streams; returns the mean loss as a tensor on the device."""
    network.train()
    total, count = 0.0, 0
    with seeded(*key, "dropout"):
        for x, labels in batches.epoch(key):
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


if __name__ == "__main__":
    run_entry(main)
