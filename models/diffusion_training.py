"""Training of a diffusion model in pixel space: its files, its state, its steps, its samples."""

import copy
import math
import time
from dataclasses import asdict, dataclass, fields

import torch
import torch.nn.functional as F
from torch import nn

from data import augment, run_folder
from data.images import save_grid
from data.names import class_words
from models import diffusion
from models.diffusion_options import CHANNELS
from utils import checkpoint
from utils.errors import UserError
from utils.files import damaged
from utils.progress import duration, progress_bar, write_above
from utils.report_to import open_tracker
from utils.schedules import cosine
from utils.seeding import seeded, stream

LABEL_DROPOUT = 0.1  # DiT's
_WARMUP = 0.05  # part of the steps in which the learning rate rises
_MADE_BY = "models.pretrain_diffusion"
_TIMED = 10  # steps that the estimate of the time is made from
_REPORT = 50  # steps between the losses on the bar
_SAMPLES, _SAMPLE_CLASSES, _SAMPLE_STEPS, _SAMPLE_GUIDANCE = 8, 10, 50, 2.0


# Formulas

@dataclass(frozen=True)
class Draw:
    """The random numbers of one step: which images, mirrored or not, how noisy, without a label.

    index, t: int64 [n]. flips, dropped: bool [n]. noise: float32 [n, C, S, S].
    """

    index: torch.Tensor
    flips: torch.Tensor
    t: torch.Tensor
    noise: torch.Tensor
    dropped: torch.Tensor

    def to(self, device):
        """The same Draw on a device."""
        return Draw(*(augment.to_device(getattr(self, field.name), device)
                      for field in fields(self)))


def draw_step(images, shape, timesteps, flip_prob, generator):
    """The Draw of a step. images: how many there are. shape: (n, C, S, S). timesteps: 1000."""
    count = shape[0]
    return Draw(torch.randint(images, (count,), generator=generator),
                augment.draw_flips(count, flip_prob, generator),
                torch.randint(timesteps, (count,), generator=generator),
                torch.randn(shape, generator=generator),
                augment.draw_flips(count, LABEL_DROPOUT, generator))


def noise_loss(predict, x0, labels, draw, scheduler, null):
    """Mean of (eps - eps_theta(x_t, t, y))^2 (Ho et al. 2020, Eq. 14).

    x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps. y is `null` where the draw drops the label
    (Ho and Salimans 2022). predict: eps_theta. x0: [n, C, S, S]; it, labels and draw lie on one
    device.
    """
    x_t = scheduler.add_noise(x0, draw.noise, draw.t)
    y = torch.where(draw.dropped, null, labels)
    return F.mse_loss(predict(x_t, draw.t, y).float(), draw.noise)


def learning_rate_factor(step, steps):
    """Linear from 0 to 1 over the warm-up, then a cosine to 0. step: from 0 to steps - 1."""
    warmup = max(1, round(_WARMUP * steps))
    if step < warmup:
        return (step + 1) / warmup
    return cosine(step - warmup + 1, steps - warmup + 1)


def average_decay(step, decay):
    """Decay of the average after a step, counted from 0: min(decay, (1 + step) / (10 + step)).

    In the beginning it is low, so that the random first weights are forgotten in short trainings
    too.
    """
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_average(average, network, decay):
    """a <- decay a + (1 - decay) w for every weight w of the network and a of its average."""
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)


@torch.no_grad()
def draw_samples(network, scheduler, labels, guidance, generator):
    """Images by DDPM with classifier-free guidance, from -1 to 1: float32 [n, C, S, S].

    eps = eps(x, none) + guidance (eps(x, label) - eps(x, none)). labels: int64 [n].
    """
    config, count = network.config, len(labels)
    both = torch.cat([labels, torch.full_like(labels, config.num_embeds_ada_norm)])
    x = torch.randn(count, config.in_channels, config.sample_size, config.sample_size,
                    generator=generator).to(labels.device)

    scheduler.set_timesteps(_SAMPLE_STEPS)
    for t in scheduler.timesteps:
        output = network(torch.cat([x, x]), timestep=t.expand(2 * count).to(x.device),
                         class_labels=both).sample
        conditional, free = output.chunk(2)
        eps = free + guidance * (conditional - free)
        x = scheduler.step(eps, t, x, generator=generator).prev_sample
    return x


def initialise(network):
    """adaLN-Zero (Peebles and Xie 2023): every block starts as the identity, the output at 0.

    diffusers leaves PyTorch's initialisation, because it expects trained weights.
    """
    for block in network.transformer_blocks:
        nn.init.zeros_(block.norm1.linear.weight)
        nn.init.zeros_(block.norm1.linear.bias)
    for layer in (network.proj_out_1, network.proj_out_2):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def is_grey(pixels):
    """Whether the channels of all images, uint8 [N, 3, S, S], are equal."""
    return all(torch.equal(part[:, 0], part[:, 1]) and torch.equal(part[:, 0], part[:, 2])
               for part in pixels.split(1000))


# Files and steps

class DiffusionTraining:
    """Training of a pixel-dit by a Plan on an ImageSet, kept in a folder.

    channels: auto, grey or rgb. arithmetic: Arithmetic. run: DiffusionRun. device: a torch.device.
    """

    def __init__(self, plan, images, channels, arithmetic, run, device):
        self.plan, self.images, self.channels = plan, images, channels
        self.arithmetic, self.run, self.device = arithmetic, run, device
        self.weights = run.output_dir / diffusion.PIXEL_FILE
        self.manifest, self.state = (self.weights.with_suffix(suffix)
                                     for suffix in (".json", ".state.pt"))
        self.samples = run.output_dir / "samples.png"
        self.options = {"dataset": images.dataset, "channels": channels, **asdict(plan),
                        **asdict(arithmetic)}
        self.content = {
            "options": self.options,
            "identity": {"classes": images.classes, "train_images": images.contents_hash()},
            "versions": {**run_folder.versions(), "diffusers": diffusion.diffusers().__version__,
                         "threads": torch.get_num_threads(), "device": device.type}}
        self.scheduler = diffusion.pixel_noise()

    def finished(self):
        """{"loss", "seconds": None} of a finished model, or None.

        Raises UserError for a folder that was made with other options.
        """
        if not self.weights.exists() and not self.state.exists():
            self.manifest.unlink(missing_ok=True)  # nothing was kept, so options may change
        run_folder.settle_manifest(self.manifest, self.content,
                                   "Use the same options, or another --output-dir.")
        if not self.weights.exists():
            return None

        about = checkpoint.read_header(self.weights).get("about", {})
        if about.get("options") != self.options:
            raise UserError(f"{self.weights}: was not made by this command. Remove it, or choose "
                            "another --output-dir.")
        self.state.unlink(missing_ok=True)
        return {"loss": about["loss"], "seconds": None}

    def train_and_keep(self):
        """Train, draw samples and save. Returns {"loss": means of ten parts, "seconds"}."""
        begin = time.monotonic()
        channels = CHANNELS.get(self.channels) or (1 if is_grey(self.images.all_pixels) else 3)
        network = self._build(channels)
        weights = sum(weight.numel() for weight in network.parameters())
        print(f"network: {weights / 1e6:.2f} million weights, images of {self.plan.sample_size} px "
              f"in {channels} channel{'s' if channels > 1 else ''}", flush=True)

        average, losses, before = self._run_steps(network)
        self._save_samples(average)
        parts = losses.double().tensor_split(min(10, len(losses)))
        loss = [round(float(part.mean()), 6) for part in parts]
        # The weights come last: where they are, everything is.
        diffusion.save_pixel_dit(self.weights, average, self.images.classes,
                                 {**self.content, "loss": loss})
        self.state.unlink(missing_ok=True)
        return {"loss": loss, "seconds": before + time.monotonic() - begin}

    def _build(self, channels):
        plan = self.plan
        with seeded(plan.seed, "diffusion", "init"):
            network = diffusion.build_pixel_dit(
                plan.sample_size, channels, len(self.images.classes), patch=plan.patch_size,
                width=plan.width, layers=plan.layers, heads=plan.heads)
            initialise(network)
        # In train mode each block of diffusers' DiT would drop labels of its own, so that hardly
        # any image had none in all of them. The Draw drops them for all; nothing else differs.
        return network.eval().to(self.device)

    def _run_steps(self, network):
        """Train from the saved state on. Returns (average, loss of each step, seconds before)."""
        plan, average = self.plan, copy.deepcopy(network)
        optimizer = torch.optim.AdamW(network.parameters(), lr=plan.lr, fused=True,
                                      weight_decay=plan.weight_decay)
        predict = self.arithmetic.of(lambda x, t, y: network(x, timestep=t, class_labels=y).sample)
        pixels, null = self.images.cache_on(self.device), network.config.num_embeds_ada_norm
        parts = {"network": network, "average": average, "optimizer": optimizer}
        losses = torch.zeros(plan.steps, device=self.device)

        first, before = self._load(parts, losses)
        self.tracker = open_tracker(self.run.report_to, self.run.output_dir, self.weights.stem,
                                    first)
        begin = saved = time.monotonic()
        with progress_bar(plan.steps, "pixel-dit", " steps", initial=first) as bar:
            for step in range(first, plan.steps):
                x0, labels, draw = self._batch(step, pixels, network.config.in_channels)
                loss = noise_loss(predict, x0, labels, draw, self.scheduler, null)
                for group in optimizer.param_groups:
                    group["lr"] = plan.lr * learning_rate_factor(step, plan.steps)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                update_average(average, network, average_decay(step, plan.ema))
                losses[step] = loss.detach()

                bar.update(1)
                done, now = step + 1, time.monotonic()
                self._report(bar, losses, first, done, now - begin)
                if done < plan.steps and now - saved >= self.run.save_seconds:
                    self._save(parts, losses, done, before + now - begin)
                    saved = time.monotonic()
        self.tracker.close()
        return average, losses.cpu(), before

    def _batch(self, step, pixels, channels):
        """(x0, labels, Draw) of a step on the device. pixels: PixelCache."""
        plan, images = self.plan, self.images
        shape = (plan.batch_size, channels, plan.sample_size, plan.sample_size)
        draw = draw_step(len(images), shape, len(self.scheduler.betas), plan.flip_prob,
                         stream(plan.seed, "diffusion", step))
        x0 = diffusion.to_pixel_space(
            augment.apply_flips(pixels[draw.index], draw.flips), channels)
        return x0, augment.to_device(images.labels[draw.index], self.device), draw.to(self.device)

    def _report(self, bar, losses, first, done, seconds):
        """An estimate after the first steps; now and then the loss, which must be finite."""
        if done == first + _TIMED:
            left = seconds / _TIMED * (self.plan.steps - done)
            write_above(bar, f"pixel-dit: about {duration(left)} for the next "
                        f"{self.plan.steps - done} steps")
        if done % _REPORT == 0 or done == self.plan.steps:
            loss = float(losses[max(0, done - _REPORT):done].mean())
            if not math.isfinite(loss):
                raise UserError(f"the loss is not finite after {done} steps. Choose a smaller "
                                f"learning rate than --lr {self.plan.lr:g}, after removing "
                                f"{self.manifest.name} and {self.state.name}.")
            bar.set_postfix_str(f"loss {loss:.4f}")
            self.tracker.log(done - 1, {"loss": loss})

    def _save_samples(self, average):
        """samples.png: some images of each of the first classes."""
        classes = self.images.classes[:_SAMPLE_CLASSES]
        labels = torch.arange(len(classes), device=self.device).repeat_interleave(_SAMPLES)
        x = draw_samples(average, self.scheduler, labels, _SAMPLE_GUIDANCE,
                         stream(self.plan.seed, "diffusion", "samples"))
        rows = diffusion.from_pixel_space(x).cpu().split(_SAMPLES)
        save_grid(list(rows), self.samples, [class_words(name) for name in classes])

    def _save(self, parts, losses, step, seconds):
        states = {name: part.state_dict() for name, part in parts.items()}
        checkpoint.save_state(self.state, {"options": self.options, "step": step,
                                           "seconds": seconds, "losses": losses, **states})

    def _load(self, parts, losses):
        """Fill parts and losses from a saved state. Returns the step to go on with, and seconds."""
        if not self.state.exists():
            return 0, 0.0
        state = checkpoint.load_state(self.state)
        try:
            if state["options"] != self.options:  # the manifest was removed to start anew
                return 0, 0.0
            for name, part in parts.items():
                part.load_state_dict(state[name])
            losses.copy_(state["losses"])
            return int(state["step"]), float(state["seconds"])
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise damaged(self.state, _MADE_BY, error) from None
