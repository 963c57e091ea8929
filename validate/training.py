"""All epochs of a student: training, testing every few epochs, saving, going on after a stop."""

import time

from models.evaluate import accuracy
from utils import distributed
from utils.errors import UserError, memory_advice
from utils.progress import progress_bar, write_above
from utils.seeding import library_randomness
from validate.average import WeightAverage
from validate.batches import epoch_batches
from validate.engine import (
    build_optimizer,
    load_optimizer,
    set_learning_rate,
    train_epoch,
)
from validate.experiment import describe_result, micro_batches
from validate.label_source import recipe_ensemble
from validate.passes import Passes
from validate.ranks import Ranks
from validate.student_folder import SAVE_SECONDS
from validate.testing import decoded_pixels
from validate.whole_images import WholeImages


def train(experiment, threads):
    """Train and test the student of an Experiment to the end. Returns its result.

    threads: of PyTorch, for the result.
    """
    o, images, device = experiment.options, experiment.images, experiment.device
    source = experiment.source

    # Whatever cannot be read is refused before anything is written.
    if source.kind == "online":
        weights = o.soft_labels.teacher_weights
        source.ensemble = recipe_ensemble(source.store, weights, images, device)
    whole_images = WholeImages(images, o.views, o.run.seed, o.run.workers, device)
    test_pixels = decoded_pixels(experiment.test, o.data)
    with experiment.folder.claimed(experiment.network, experiment.manifest):
        ranks = Ranks(device) if distributed.world_size() > 1 else None
        with memory_advice(smaller_pass(o.optimisation)):
            tests = Training(experiment, whole_images, test_pixels, ranks).run()
        result = describe_result(experiment, tests, threads)
        experiment.folder.finish(result)
    distributed.leave_group()
    return result


def smaller_pass(optimisation):
    """What to try when a pass does not fit into a GPU."""
    steps = optimisation.gradient_accumulation_steps
    if optimisation.micro_batches == "together" and steps > 1:
        return ("Found --micro-batches together, try --micro-batches apart: a pass for each of "
                "them. It may change last bits, so give another --student-name.")
    return (f"Found --gradient-accumulation-steps {steps}, try {2 * steps}: smaller micro-batches "
            "need less memory. It changes their BatchNorm statistics and so the result: give "
            "another --student-name.")


class Training:
    """Trains a student and keeps its folder up to date.

    experiment: validate.experiment.Experiment. whole_images: WholeImages of the distilled images.
    test_pixels: uint8 [N, 3, S, S] of the test images. ranks: validate.ranks.Ranks, or None on one
    process; all ranks train and test together, and rank 0 writes.
    """

    def __init__(self, experiment, whole_images, test_pixels, ranks=None):
        o = experiment.options
        self.experiment, self.options, self.folder = experiment, o, experiment.folder
        self.batches = experiment.source.plan_options.batches
        self.whole_images, self.test_pixels, self.ranks = whole_images, test_pixels, ranks

        self.network = experiment.network.to(experiment.device)
        self.optimizer = build_optimizer(self.network.net, o.optimisation)
        self.passes = Passes(self.network, experiment.device, micro_batches(o), o.arithmetic,
                             ranks)
        self.average = WeightAverage(self.network, o.student.ema) if o.student.ema else None
        # Facts for the headers of the weight files.
        self.about = {"dataset": o.data.dataset, "image_size": o.data.image_size,
                      "crop": o.data.crop, "options": experiment.manifest["options"]}
        self.start, self.last, self.best, self.seconds = 0, None, None, 0.0

    def run(self):
        """Train to the end, from the last saved state on.

        Returns {"last": test result, "best": test result, "seconds": of all starts together}.
        """
        epochs = self.options.optimisation.epochs
        self.folder.restore(self.take_over, epochs)
        self.saved_at = time.monotonic()
        with progress_bar(epochs * self.batches, f"epoch {self.start + 1}/{epochs}", "batch",
                          initial=self.start * self.batches) as self.bar:
            for epoch in range(self.start, epochs):
                self.one_epoch(epoch)
        return {"last": self.last, "best": self.best, "seconds": round(self.seconds, 1)}

    @property
    def tested(self):
        """The network that is tested and kept: the student, or the average of its weights."""
        return self.network if self.average is None else self.average.module

    def one_epoch(self, epoch):
        """Train and, where it is due, test and save."""
        began, epochs = time.monotonic(), self.options.optimisation.epochs
        line = self.train(epoch)
        tested = self.options.testing.tests_after(epoch, epochs)
        if tested:
            line |= self.test(epoch)

        line["seconds"] = round(time.monotonic() - began, 3)
        self.seconds += line["seconds"]
        self.folder.add_metrics(line)
        if tested or time.monotonic() - self.saved_at > SAVE_SECONDS:
            self.save(epoch)

    def train(self, epoch):
        """Train one epoch. Returns its line of metrics."""
        o, device = self.options, self.experiment.device
        lr = o.optimisation.lr_at(epoch)
        set_learning_rate(self.optimizer, lr)
        self.bar.set_description(f"epoch {epoch + 1}/{o.optimisation.epochs}", refresh=False)

        plan, labels = self.experiment.source.epoch(epoch)
        batches = epoch_batches(self.whole_images.epoch(epoch, plan),
                                self.experiment.images.labels, plan, labels,
                                o.objective.gt_target == "mixed", device)
        # Ranks see other images, so they draw other dropout masks.
        rank = [self.ranks.rank] if self.ranks is not None and self.ranks.rank else []
        with library_randomness(device, o.run.seed, "student", epoch, *rank):
            loss, top1, bad_batch = train_epoch(self.passes, self.optimizer, batches, o.objective,
                                                self.average, self.progress(lr))
        if bad_batch is not None:
            raise UserError(f"epoch {epoch + 1}, batch {bad_batch + 1} of {self.batches}: the "
                            f"training loss is {loss}. Try a smaller --lr, with another "
                            f"--student-name or after removing {self.folder.path}.")
        return {"epoch": epoch, "lr": lr, "loss": loss, "train_top1": top1}

    def test(self, epoch):
        """Test; keep the weights when they are the best so far (the first of equals)."""
        labels = self.experiment.test.labels
        scores = accuracy(self.tested, self.test_pixels, labels, self.experiment.device,
                          progress="test", ranks=self.ranks)
        result = {"top1": scores["top1"], "top5": scores["top5"]}
        self.last = {"epoch": epoch, **result}
        if self.best is None or self.last["top1"] > self.best["top1"]:
            self.best = self.last
            self.folder.save_weights("best", self.tested, {**self.about, **self.best})
        write_above(self.bar, f"epoch {epoch + 1}/{self.options.optimisation.epochs}: top-1 "
                    f"{result['top1']:.2f} %, top-5 {result['top5']:.2f} %, best top-1 "
                    f"{self.best['top1']:.2f} % (epoch {self.best['epoch'] + 1})")
        return result

    def progress(self, lr):
        """A function to call after each batch, which moves the bar.

        Sums are read only when the bar is drawn, so that a GPU is not stalled by every step.
        """
        best = "" if self.best is None else f", best test top-1 {self.best['top1']:.1f} %"

        def after_batch(seen, loss_sum, hits):
            if self.bar.update(1):
                self.bar.set_postfix_str(
                    f"loss {float(loss_sum) / seen:.4f}, lr {lr:.2e}, top-1 "
                    f"{100 * int(hits) / seen:.1f} %{best}", refresh=False)

        return after_batch

    # Going on after a stop

    def save(self, epoch):
        """Save the last weights and the state after an epoch."""
        tested_now = self.last is not None and self.last["epoch"] == epoch
        self.folder.save_last(self.tested,
                              {**self.about, **(self.last if tested_now else {"epoch": epoch})},
                              is_best=tested_now and self.last == self.best)
        self.folder.save_state({
            "net": self.network.net.state_dict(), "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "epochs": epoch + 1, "last": self.last, "best": self.best, "seconds": self.seconds})
        self.saved_at = time.monotonic()

    def take_over(self, state):
        """Take over what `save` has saved."""
        self.network.net.load_state_dict(state["net"])
        load_optimizer(self.optimizer, state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.start, self.last, self.best = state["epochs"], state["last"], state["best"]
        self.seconds = state["seconds"]
