"""All epochs of a student with hard labels: training, testing, saving, going on after a stop."""

import copy
import math
import time

import torch

from data.augment import to_device
from models.evaluate import accuracy
from utils.errors import UserError, memory_advice
from utils.progress import progress_bar
from utils.seeding import library_randomness
from validate.batches import Batch
from validate.engine import (
    build_optimizer,
    load_optimizer,
    set_learning_rate,
    train_step,
)
from validate.experiment import describe_result
from validate.hard_views import draw_views, kept_part, make_views, plan_options
from validate.options import Objective
from validate.passes import MicroBatches, Passes
from validate.student_folder import SAVE_SECONDS, check_numbers

_CROSS_ENTROPY = Objective(loss_type="ce")


def train(experiment, pixels, test_pixels, threads):
    """Train and test the student of an Experiment to the end. Returns its result.

    pixels: PixelCache of the distilled images. test_pixels: uint8 [N, 3, S, S] on any device.
    threads: of PyTorch, for the result.
    """
    batch = experiment.study.recipe.batch_size
    advice = (f"Found --batch-size {batch}, try a smaller one. It changes the protocol: give "
              "another --student-name.")
    with experiment.folder.claimed(experiment.network, experiment.manifest):
        with memory_advice(advice):
            tests = Training(experiment, pixels, test_pixels).run()
        result = {**describe_result(experiment, tests, threads), "processes": 1}
        experiment.folder.finish(result)
    return result


class Training:
    """Trains a student and keeps its folder up to date. Arguments as those of `train`."""

    def __init__(self, experiment, pixels, test_pixels):
        study, recipe, device = experiment.study, experiment.study.recipe, experiment.device
        self.experiment, self.recipe, self.device = experiment, recipe, device
        self.folder, self.pixels, self.test_pixels = experiment.folder, pixels, test_pixels
        self.plan_options = plan_options(len(study.images), study.images.image_size,
                                         recipe.batch_size, recipe.mix_type, study.flips,
                                         experiment.seed)
        self.network = experiment.network.to(device)
        self.optimizer = build_optimizer(self.network.net, recipe)
        self.passes = Passes(self.network, device, MicroBatches(recipe.batch_size),
                             study.options.arithmetic)
        # The best weights so far: kept here, and written with the next state.
        self.best_network, self.best_is_new = copy.deepcopy(self.network), False
        self.start, self.last, self.best, self.seconds = 0, None, None, 0.0
        # Since the last test: the loss's sum and hits, which stay on the device, images, seconds.
        self.loss, self.hits, self.seen, self.tested_at = 0.0, 0, 0, 0.0

    def run(self):
        """Train to the end, from the last saved state on.

        Returns {"last": test result, "best": test result, "seconds": of all starts together}.
        """
        epochs = self.recipe.epochs
        self.folder.restore(self.take_over, epochs)
        self.began = self.saved_at = time.monotonic()
        with progress_bar(epochs, f"seed {self.experiment.seed}", " epochs",
                          initial=self.start) as self.bar:
            for epoch in range(self.start, epochs):
                self.one_epoch(epoch)

        self.save_best()
        self.folder.save_last(self.network, self.about(self.last), self.last == self.best)
        return {"last": self.last, "best": self.best, "seconds": round(self.elapsed(), 1)}

    def one_epoch(self, epoch):
        """Train and, where it is due, test and save."""
        self.train(epoch)
        if self.recipe.tests_after(epoch):
            self.test(epoch)
        if time.monotonic() - self.saved_at > SAVE_SECONDS:
            self.save(epoch)
        self.bar.update(1)

    def train(self, epoch):
        """Train one epoch. The host reads nothing back, so that it stays ahead of a GPU."""
        set_learning_rate(self.optimizer, self.recipe.lr_at(epoch))
        self.network.train()
        with library_randomness(self.device, self.experiment.seed, "student", epoch):
            for batch in self.batches(epoch):
                loss, hits, seen = train_step(self.passes, self.optimizer, batch, _CROSS_ENTROPY)
                self.loss, self.hits = self.loss + loss, self.hits + hits
                self.seen += seen

    def batches(self, epoch):
        """Yield the Batch objects of an epoch: mixed views and both classes of each."""
        views = draw_views(self.recipe.augment, self.plan_options, epoch).to(self.device)
        plan = views.plan
        classes = to_device(self.experiment.images.labels[plan.order], self.device)
        for batch in range(plan.options.batches):
            rows = plan.options.rows(batch)
            images = make_views(self.pixels[plan.order[rows]], views, batch)
            partners = None
            if self.recipe.mix_type != "none":
                partners = classes[rows][to_device(plan.partners[rows], self.device)]
            yield Batch(images, None, classes[rows], partners, kept_part(plan, batch))

    def test(self, epoch):
        """Test, add a line of metrics, and keep the weights when they are the best so far."""
        loss = float(self.loss) / self.seen
        if not math.isfinite(loss):
            raise UserError(f"epoch {epoch + 1}: the training loss is {loss}. Try a smaller --lr, "
                            f"with another --student-name or after removing {self.folder.path}.")
        scores = accuracy(self.network, self.test_pixels, self.experiment.study.test.labels,
                          self.device)
        self.last = {"epoch": epoch, "top1": scores["top1"], "top5": scores["top5"]}
        if self.best is None or self.last["top1"] > self.best["top1"]:
            self.best, self.best_is_new = self.last, True
            self.best_network.load_state_dict(self.network.state_dict())

        seconds = self.elapsed()
        self.folder.add_metrics({
            **self.last, "lr": self.recipe.lr_at(epoch), "loss": loss,
            "train_top1": 100 * int(self.hits) / self.seen,
            "seconds": round(seconds - self.tested_at, 3)})
        self.loss, self.hits, self.seen, self.tested_at = 0.0, 0, 0, seconds
        self.bar.set_postfix_str(f"loss {loss:.3f}, test top-1 {self.last['top1']:.1f} %, best "
                                 f"{self.best['top1']:.1f} %", refresh=False)

    def elapsed(self):
        """Seconds of all starts together."""
        return self.seconds + time.monotonic() - self.began

    # Going on after a stop

    def about(self, test):
        """Facts for the header of a weight file, with the test of these weights."""
        options = self.experiment.manifest["options"]
        return {"dataset": options["dataset"], "image_size": options["image_size"],
                "crop": self.experiment.study.test.crop, "options": options, **test}

    def save_best(self):
        """Write the best weights, unless they have been written."""
        if self.best_is_new:
            self.folder.save_weights("best", self.best_network, self.about(self.best))
            self.best_is_new = False

    def save(self, epoch):
        """Save the best weights and the state after an epoch.

        Weights that are newer than the state after a kill do no harm: they are found again.
        """
        self.save_best()
        self.folder.save_state({
            "net": self.network.net.state_dict(), "optimizer": self.optimizer.state_dict(),
            "epochs": epoch + 1, "last": self.last, "best": self.best, "loss": self.loss,
            "hits": self.hits, "seen": self.seen, "seconds": self.elapsed(),
            "tested_at": self.tested_at})
        self.saved_at = time.monotonic()

    def take_over(self, state):
        """Take over what `save` has saved."""
        self.network.net.load_state_dict(state["net"])
        load_optimizer(self.optimizer, state["optimizer"])
        check_numbers([state], ("seen", "tested_at"))
        self.start, self.last, self.best = state["epochs"], state["last"], state["best"]
        self.loss, self.hits = (torch.as_tensor(state[name]).to(self.device).reshape(())
                                for name in ("loss", "hits"))
        self.seen, self.seconds = state["seen"], state["seconds"]
        self.tested_at = state["tested_at"]
