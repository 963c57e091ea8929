"""The epochs of a teacher: steps, an estimate before them, a test after each epoch."""

import copy
import functools
import time
from dataclasses import asdict

import torch
import torch.nn.functional as F
from torch import nn

from models import teacher_state
from models.evaluate import accuracy, dataset_accuracy
from models.teacher_state import Place, random_state, set_random_state
from models.timing import CPU_PIXELS, best_time
from models.training_data import FolderBatches, MemoryBatches, steps_per_epoch
from utils import checkpoint
from utils.errors import UserError, signals_wait, worker_died
from utils.files import damaged
from utils.progress import duration, progress_bar, write_above
from utils.report_to import open_tracker
from utils.seeding import library_randomness

_TESTED = 5000  # images at most that are tested after an epoch; at the end all are


class TeacherEpochs:
    """The epochs of a network by a Plan, from the saved state on, if there is one.

    training: the TeacherTraining. network: on its device. test: ImageSet of the test images.
    """

    def __init__(self, training, network, test):
        self.begin = self.saved = time.monotonic()
        plan, self.images, self.device = training.plan, training.train, training.device
        self.plan, self.network, self.test, self.run = plan, network, test, training.run
        self.state, self.options = training.state, training.options
        self.manifest = training.manifest
        self.steps = steps_per_epoch(len(self.images), plan.batch_size)
        for module in network.modules():
            if isinstance(module, nn.Dropout) and plan.dropout is not None:
                module.p = plan.dropout
        self.optimizer = build_optimizer(network, plan)
        self.batches = open_batches(plan, self.images, self.run.workers, self.device)
        self.place, self.before = self._begin(0), 0.0
        self._load()
        self.kept = self.place
        self.schedule = one_cycle(self.optimizer, plan, self.steps, self._steps_done())
        self.tracker = open_tracker(self.run.report_to, self.run.output_dir,
                                    training.weights.stem, self.place.epoch)

    def run_all(self):
        """Train to the end, and test. Returns (accuracy, seconds of all starts together)."""
        name, total = self.plan.name, self.plan.epochs * self.steps
        try:
            self._print_estimate()
            with progress_bar(total, name, " steps", initial=self._steps_done()) as self.bar:
                while self.place.epoch < self.plan.epochs:
                    self._one_epoch()
            tested = dataset_accuracy(self.network, self.test, self.device, f"{name} test")
            self._log(tested, self.plan.epochs - 1)
            self.tracker.close()
            return tested, self._seconds()
        except (KeyboardInterrupt, RuntimeError) as error:
            if isinstance(error, KeyboardInterrupt) or worker_died(error):
                self._save_at_stop()
            raise

    def _begin(self, epoch):
        return Place(epoch, 0, torch.zeros((), device=self.device), {})

    def _seconds(self):
        return self.before + time.monotonic() - self.begin

    def _steps_done(self):
        return self.place.epoch * self.steps + self.place.done

    # An epoch

    def _one_epoch(self):
        """Train what is left of an epoch; test and say how it went, but for the last one."""
        plan, epoch = self.plan, self.place.epoch
        key = (plan.seed, "squeeze", plan.name, epoch)
        self.network.train()
        with library_randomness(self.device, *key, "dropout"):
            set_random_state(self.place.random, self.device)
            for x, labels in self.batches.epoch(key, self.place.done):
                self._step(x, labels)
                if time.monotonic() - self.saved >= self.run.save_seconds:
                    self._save()

        self._check_finite()
        mean = float(self.place.loss) / self.steps
        self.tracker.log(epoch, {"loss": mean, "lr": self.schedule.get_last_lr()[0]})
        loss = f"epoch {epoch + 1}/{plan.epochs}, loss {mean:.3f}"
        self.bar.set_postfix_str(loss)
        if epoch + 1 < plan.epochs:
            scores = accuracy(self.network, *self._test_sample, self.device)
            self._log(scores, epoch)
            write_above(self.bar, f"{plan.name} {loss}, top-1 {scores['top1']:.2f} % of "
                        f"{scores['count']} test images")
        self.place = self._begin(epoch + 1)

    def _log(self, scores, epoch):
        """Log the test after an epoch. scores: of models.evaluate."""
        self.tracker.log(epoch, {"top1": scores["top1"], "top5": scores["top5"]})

    def _step(self, x, labels):
        """One step. A signal waits until it is whole, so that the state can be saved then."""
        with signals_wait():
            loss = train_step(self.network, self.optimizer, x, labels, self.plan.clip_norm)
            self.schedule.step()
            self.place = Place(self.place.epoch, self.place.done + 1, self.place.loss + loss,
                               random_state(self.device))
        self.bar.update(1)

    @functools.cached_property
    def _test_sample(self):
        """(uint8 [n, 3, S, S], int64 [n]) of evenly spaced test images."""
        count = min(len(self.test), _TESTED)
        index = torch.tensor([i * len(self.test) // count for i in range(count)])
        return self.test.pixels(index), self.test.labels[index]

    def _check_finite(self):
        """Raise UserError where training has failed: such weights are never kept."""
        plan, weights = self.plan, self.network.net.state_dict().values()
        if torch.isfinite(self.place.loss) and all(torch.isfinite(w).all() for w in weights):
            return
        remove = f", after removing {self.state}" if self.state.exists() else ""
        raise UserError(f"{plan.name}: the loss is not finite in epoch {self.place.epoch}. Choose "
                        f"a smaller learning rate than {plan.lr:g} with --lr-for "
                        f"{plan.name}=...{remove}.")

    # An estimate

    def _print_estimate(self):
        """Say how long the steps that are left will take, with a test after each epoch."""
        plan, left = self.plan, self.plan.epochs * self.steps - self._steps_done()
        if not left:
            return
        step, views = self._step_seconds(), self.batches.batch_seconds()
        # Other processes decode while the network works.
        side_by_side = isinstance(self.batches, FolderBatches) and self.run.workers > 0
        each = max(step, views) if side_by_side else step + views

        # A forward is about a third of a step.
        tested = (-(-left // self.steps) - 1) * min(len(self.test), _TESTED) + len(self.test)
        seconds = each * left + step / 3 * tested / plan.batch_size
        print(f"{plan.name}: {each * 1e3:.0f} ms a step of {plan.batch_size} images, about "
              f"{duration(seconds)} for {left} steps", flush=True)

    def _step_seconds(self):
        """Seconds of a step, on copies of network and optimiser: the training does not notice."""
        size, batch = self.images.image_size, min(self.plan.batch_size, len(self.images))
        count = batch
        if self.device.type == "cpu":
            count = min(batch, max(2, CPU_PIXELS // size**2))
        network = copy.deepcopy(self.network).train()
        optimizer = build_optimizer(network, self.plan)
        x = torch.zeros(count, 3, size, size, device=self.device)
        labels = torch.zeros(count, dtype=torch.int64, device=self.device)

        def step():
            train_step(network, optimizer, x, labels, self.plan.clip_norm)

        with library_randomness(self.device, "estimate"):
            step()
            return best_time(step, self.device, runs=1) * batch / count

    # The state to go on from

    def _save_at_stop(self):
        if self.place is not self.kept and self._steps_done():
            with signals_wait():
                self._save()

    def _save(self):
        if not self.manifest.exists():
            raise UserError(f"{self.manifest.parent}: was removed while {self.plan.name} was "
                            "trained. Run the same command again: it starts anew.")
        self._check_finite()
        checkpoint.save_state(self.state, {
            "options": self.options, "seconds": self._seconds(), **asdict(self.place),
            **teacher_state.tensors(self.network.net, self.optimizer)})
        self.saved, self.kept = time.monotonic(), self.place

    def _load(self):
        """Take over the saved state. Raises UserError for one that does not fit."""
        if not self.state.exists():
            return
        state = checkpoint.load_state(self.state)
        try:
            if state["options"] != self.options:  # the manifest was removed to start anew
                return
            self.place, self.before = teacher_state.read_place(
                state, self.plan.epochs, self.steps, self.device)
            teacher_state.take_over(state, self.network.net, self.optimizer)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError,
                ValueError) as error:
            raise damaged(self.state, "models.pretrain", error) from None


def open_batches(plan, images, workers, device):
    """The batches of a Plan: MemoryBatches or FolderBatches of an ImageSet."""
    if plan.augment == "crop":
        return FolderBatches(images, plan.batch_size, plan.flip_prob, device, workers)
    return MemoryBatches(images, plan.batch_size, plan.pad or 0, plan.flip_prob, device)


def build_optimizer(network, plan):
    """SGD with Nesterov momentum 0.9."""
    return torch.optim.SGD(network.parameters(), lr=plan.lr, momentum=0.9, nesterov=True,
                           weight_decay=plan.weight_decay, fused=True)


def one_cycle(optimizer, plan, steps, done):
    """Warm-up and cosine of the learning rate, after `done` steps. steps: of an epoch."""
    total, warmup = plan.epochs * steps + 1, plan.warmup
    if warmup * total == 1:  # where a warm-up ends at step 0, PyTorch divides by its length
        warmup = 0.0

    def schedule(last):
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, plan.lr, total_steps=total, pct_start=warmup, cycle_momentum=False,
            last_epoch=last)

    first = schedule(-1)  # sets what one that goes on later reads
    return schedule(done - 1) if done else first


def train_step(network, optimizer, x, labels, clip_norm):
    """One step of cross-entropy. Returns the loss as a tensor on the device."""
    loss = F.cross_entropy(network(x), labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
    optimizer.step()
    return loss.detach()
