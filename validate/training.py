"""All epochs of a student: training, testing every few epochs, saving, going on after a stop."""

import time

import torch

from models.evaluate import accuracy
from models.networks import first_line
from utils.checkpoint import check_optimizer
from utils.errors import UserError
from utils.precision import Arithmetic
from utils.progress import progress_bar, write_above
from validate.average import WeightAverage
from validate.engine import (
    factor,
    library_randomness,
    planned_batches,
    set_learning_rate,
    train_epoch,
)
from validate.passes import Passes

_SAVE_SECONDS = 60  # a state is saved after every test, and when the last one is older than this


def is_tested(epoch, epochs, every, start=0.0):
    """Whether a student is tested after epoch 0 ... epochs - 1: every so many in the part after `start`, and the last."""
    return epoch + 1 == epochs or ((epoch + 1) % every == 0 and epoch >= start * epochs - 1e-9)  # such products are not exact


class Training:
    """Train a network and keep its folder up to date; the same command goes on from the last state.

    settings: resolved options. source: epoch(e) -> (plan, soft labels), with .options (PlanOptions). views: validate.views.Views
    of the distilled images. labels: classes int64 [N]. test: (pixels, labels) of the real test images.
    loss: see engine.train_step. about: facts for the weight files' headers. ranks: validate.ranks.Ranks, None on one process; all
    ranks train and test together, folder is one that writes on rank 0 only.
    """

    def __init__(self, folder, network, optimizer, settings, source, views, labels, test, loss, device, about,
                 ranks=None):
        self.folder, self.network, self.optimizer, self.settings = folder, network, optimizer, settings
        self.source, self.views, self.labels, self.test, self.loss = source, views, labels, test, loss
        self.device, self.about = device, about
        self.passes = Passes(network, device, Arithmetic(settings["precision"], settings["compile"]),
                             settings["micro_batches"] == "together", ranks)
        self.ranks = ranks
        self.average = WeightAverage(network, settings["ema"]) if settings["ema"] else None
        self.start, self.last, self.best, self.seconds = 0, None, None, 0.0
        self.restore()

    def restore(self):
        state = self.folder.load_state()
        if state is not None:
            try:
                self._fill(state)
            except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
                raise UserError(f"{self.folder.path / 'state.pt'}: does not hold the state of this student "
                                f"({first_line(error)}). Remove it and run this again: training begins anew.") from None
        self.folder.drop_metrics(self.start)

    def _fill(self, state):
        """Take over what `save` has stored; any error for a state that does not fit."""
        self.network.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        check_optimizer(self.optimizer)
        for parameter, of_it in self.optimizer.state.items():  # fused steps take for granted that they lie in memory alike
            for name, value in of_it.items():
                if value.shape == parameter.shape:
                    of_it[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)
        self.start, self.last, self.best, self.seconds = (state[k] for k in ("epochs", "last", "best", "seconds"))
        if not isinstance(self.start, int) or not 0 < self.start <= self.settings["epochs"]:
            raise ValueError(f"epoch {self.start}")

    @property
    def tested(self):
        """The network that is tested and kept: the student, or the average of its weights."""
        return self.network if self.average is None else self.average.network

    def run(self):
        """Train to the end. Returns {"last": test result, "best": test result, "seconds": of all starts together}."""
        epochs, batches = self.settings["epochs"], self.source.options.batches
        self.saved_at = time.monotonic()
        with progress_bar(epochs * batches, f"epoch {self.start + 1}/{epochs}", "batch",
                          initial=self.start * batches) as self.bar:
            for epoch in range(self.start, epochs):
                self.one_epoch(epoch)
        return {"last": self.last, "best": self.best, "seconds": round(self.seconds, 1)}

    def one_epoch(self, epoch):
        began, settings = time.monotonic(), self.settings
        epochs = settings["epochs"]
        lr = settings["lr"] * factor(settings["lr_schedule"], epoch, epochs, settings["zeta"])
        set_learning_rate(self.optimizer, lr)
        self.bar.set_description(f"epoch {epoch + 1}/{epochs}", refresh=False)
        plan, soft_labels = self.source.epoch(epoch)
        batches = planned_batches(self.views.epoch(epoch, plan), self.labels, plan, self.source.options, soft_labels,
                                  settings["gt_target"] == "mixed", self.device)
        own = () if self.ranks is None or self.ranks.rank == 0 else (self.ranks.rank,)  # dropout: other masks for other images
        with library_randomness(self.device, settings["seed"], "student", epoch, *own):
            loss, train_top1, bad = train_epoch(self.passes, self.optimizer, batches, self.loss, self.source.options.batch_size,
                                           settings["gradient_accumulation_steps"], self.progress(lr), self.average)
        if bad is not None:
            raise UserError(f"epoch {epoch + 1}, batch {bad + 1} of {self.source.options.batches}: the training loss is {loss}. "
                            f"Try a smaller --lr, with another --student-name or after removing {self.folder.path}.")
        line = {"epoch": epoch, "lr": lr, "loss": loss, "train_top1": train_top1}
        tested = is_tested(epoch, epochs, settings["eval_every"], settings["eval_from"])
        if tested:
            line |= self.evaluate(epoch)
        line["seconds"] = round(time.monotonic() - began, 3)
        self.seconds += line["seconds"]
        self.folder.add_metrics(line)
        if tested or time.monotonic() - self.saved_at > _SAVE_SECONDS:
            self.save(epoch)

    def evaluate(self, epoch):
        """Test; keep the weights when they are the best so far (the first of equals)."""
        found = accuracy(self.tested, *self.test, self.device, progress="test", ranks=self.ranks)
        self.last = {"epoch": epoch, "top1": found["top1"], "top5": found["top5"]}
        if self.best is None or self.last["top1"] > self.best["top1"]:
            self.best = self.last
            self.folder.save_weights("best", self.tested, {**self.about, **self.best})
        write_above(self.bar, f"epoch {epoch + 1}/{self.settings['epochs']}: top-1 {found['top1']:.2f} %, top-5 "
                              f"{found['top5']:.2f} %, best top-1 {self.best['top1']:.2f} % (epoch {self.best['epoch'] + 1})")
        return {"top1": found["top1"], "top5": found["top5"]}

    def save(self, epoch):
        tested = self.last if self.last is not None and self.last["epoch"] == epoch else {"epoch": epoch}
        self.folder.save_weights("last", self.tested, {**self.about, **tested})
        average = None if self.average is None else self.average.state_dict()
        self.folder.save_state({"net": self.network.net.state_dict(), "optimizer": self.optimizer.state_dict(), "average": average,
                                "epochs": epoch + 1, "last": self.last, "best": self.best, "seconds": self.seconds})
        self.saved_at = time.monotonic()

    def progress(self, lr):
        """What to call after each batch. Sums are read only when the bar is drawn, so that a GPU is not stalled by every step."""
        best = "" if self.best is None else f", best test top-1 {self.best['top1']:.1f} %"

        def after_batch(seen, loss, hits):
            if self.bar.update(1):
                self.bar.set_postfix_str(f"loss {float(loss) / seen:.4f}, lr {lr:.2e}, top-1 {100 * int(hits) / seen:.1f} %{best}",
                                         refresh=False)

        return after_batch
