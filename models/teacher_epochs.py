"""The epochs of a teacher: steps, the state to go on from, an estimate, a test after each epoch."""

import copy
import functools
import math
import time
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn

from models.evaluate import accuracy, dataset_accuracy
from models.timing import CPU_PIXELS, best_time
from models.training_data import FolderBatches, MemoryBatches, steps_per_epoch
from utils import checkpoint
from utils.errors import UserError, signals_wait, worker_died
from utils.files import damaged
from utils.progress import duration, progress_bar, write_above
from utils.seeding import library_randomness

_TESTED = 5000  # images at most that are tested after an epoch; at the end all are


@dataclass(frozen=True)
class Place:
    """How far a training is.

    epoch: number of the epoch. done: its steps that are done. loss: float32 tensor, the sum of
    their losses. random: {"cpu", "cuda"}: states of the generators that dropout draws from next;
    empty before the first step of an epoch.
    """

    epoch: int
    done: int
    loss: torch.Tensor
    random: dict


class TeacherEpochs:
    """The epochs of a network by a Plan, from the saved state on, if there is one.

    training: the TeacherTraining. network: on its device. test: ImageSet of the test images.
    """

    def __init__(self, training, network, test):
        self.begin = self.saved = time.monotonic()
        plan, self.images, self.device = training.plan, training.train, training.device
        self.plan, self.network, self.test, self.run = plan, network, test, training.run
        self.state, self.options = training.state, training.options
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

    def run_all(self):
        """Train to the end, and test. Returns (accuracy, seconds of all starts together)."""
        name, total = self.plan.name, self.plan.epochs * self.steps
        try:
            self._print_estimate()
            with progress_bar(total, name, " steps", initial=self._steps_done()) as self.bar:
                while self.place.epoch < self.plan.epochs:
                    self._one_epoch()
            tested = dataset_accuracy(self.network, self.test, self.device, f"{name} test")
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
        loss = f"epoch {epoch + 1}/{plan.epochs}, loss {float(self.place.loss) / self.steps:.3f}"
        self.bar.set_postfix_str(loss)
        if epoch + 1 < plan.epochs:
            scores = accuracy(self.network, *self._test_sample, self.device)
            write_above(self.bar, f"{plan.name} {loss}, top-1 {scores['top1']:.2f} % of "
                        f"{scores['count']} test images")
        self.place = self._begin(epoch + 1)

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
        self._check_finite()
        momentum = [self.optimizer.state[weight].get("momentum_buffer")
                    for weight in self.network.parameters()]
        checkpoint.save_state(self.state, {
            "options": self.options, "seconds": self._seconds(),
            "network": self.network.net.state_dict(), "momentum": momentum, **asdict(self.place)})
        self.saved, self.kept = time.monotonic(), self.place

    def _load(self):
        """Take over the saved state. Raises UserError for one that does not fit."""
        if not self.state.exists():
            return
        state = checkpoint.load_state(self.state)
        try:
            if state["options"] != self.options:  # the manifest was removed to start anew
                return
            self._take_over(state)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError,
                ValueError) as error:
            raise damaged(self.state, "models.pretrain", error) from None

    def _take_over(self, state):
        epoch, done, seconds = state["epoch"], state["done"], state["seconds"]
        check_number("epoch", epoch, int, self.plan.epochs)
        check_number("done", done, int, self.steps)
        check_number("seconds", seconds, float, 1e12)
        check_like("loss", state["loss"], torch.zeros(()))
        random = state["random"] if done else {}
        if done:
            check_random_state(random, self.device)

        weights, saved = self.network.net.state_dict(), state["network"]
        if set(saved) != set(weights):
            raise ValueError("it holds another network's weights")
        parameters, momentum = list(self.network.parameters()), state["momentum"]
        pairs = [*((name, saved[name], weights[name]) for name in weights),
                 *(("momentum", *pair) for pair in zip(momentum, parameters, strict=True)
                   if pair[0] is not None)]
        for pair in pairs:
            check_like(*pair)

        self.network.net.load_state_dict(saved)
        for parameter, value in zip(parameters, momentum, strict=True):
            if value is not None:
                # Fused steps take for granted that it lies in memory as its parameter does.
                own = torch.empty_like(parameter, requires_grad=False)
                self.optimizer.state[parameter]["momentum_buffer"] = own.copy_(value)
        self.before = seconds
        self.place = Place(epoch, done, state["loss"].to(self.device), random)


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
    def schedule(last):
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, plan.lr, total_steps=plan.epochs * steps + 1, pct_start=plan.warmup,
            cycle_momentum=False, last_epoch=last)

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


# Generators that dropout draws from

def _generators(device):
    cuda = {"cuda": torch.cuda.default_generators[device.index]} if device.type == "cuda" else {}
    return {"cpu": torch.default_generator, **cuda}


def random_state(device):
    """The states of PyTorch's global generators: {"cpu": uint8 tensor, and "cuda" on a GPU}."""
    return {name: generator.get_state() for name, generator in _generators(device).items()}


def set_random_state(states, device):
    """Put the global generators into the states of random_state; {} leaves them as they are."""
    for name, state in states.items():
        _generators(device)[name].set_state(state)


def check_random_state(states, device):
    """Raise an error for what random_state cannot have given."""
    if set(states) != set(_generators(device)):
        raise ValueError("its generators are those of another device")
    for name, state in states.items():
        torch.Generator(device if name == "cuda" else "cpu").set_state(state)


# What a state may hold

def check_number(name, value, kind, most):
    """Raise ValueError unless a value is a number of this kind from 0 to `most`."""
    if type(value) is not kind or not 0 <= value <= most or not math.isfinite(value):
        raise ValueError(f"{name} {value!r:.40}, expected a number from 0 to {most:g}")


def check_like(name, value, expected):
    """Raise an error unless a value is a finite tensor of the type and shape that is expected."""
    fits = (isinstance(value, torch.Tensor) and value.dtype == expected.dtype
            and value.shape == expected.shape and torch.isfinite(value).all())
    if not fits:
        raise ValueError(f"{name} is not what the network has, or not finite")
