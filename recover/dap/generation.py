"""DAP's work: what it prepares, the sampling of its units, and what it says at the end.

Imports PyTorch and the models, so the entry imports it after the options are parsed.
"""

import time
from dataclasses import dataclass

import torch
from PIL import Image

from data.class_lists import class_list
from data.image_set import ImageSet
from data.images import to_pil, to_tensor
from data.names import default_image_size
from data.opening import open_real
from data.run_folder import check_apart, settle_manifest, versions
from models import diffusion
from models.timing import best_time
from recover.dap.backbones import Backbone, choose_size
from recover.dap.guidance import gather_reals, guidance
from recover.dap.latents import RealFeatures, RealLatents
from recover.dap.options import Options, resolve
from recover.dap.sampler import sample
from recover.dap.units import plan_units, unfinished
from recover.unit_files import RESTART, UnitFiles
from utils import distributed, report_to
from utils.errors import UserError, memory_advice, own_work_begins, try_half
from utils.files import check_space, check_writable, remove_leftovers
from utils.options import print_options, settle_shard, shard_words, shown, stored, with_values
from utils.progress import duration, progress_bar, write_above
from utils.seeding import stable_seed, stream

_TIMED_IMAGES = 4  # on a CPU, where time is in proportion to the images from here on


@dataclass
class Job:
    """Everything that the work needs.

    options: resolved. real: ImageSet of the training images. weights: fingerprint of the model.
    reals: RealLatents. files: of the run folder. units: of the whole run. work: the unfinished
    ones of this rank.
    """

    options: Options
    real: ImageSet
    backbone: Backbone
    weights: str
    reals: RealLatents
    files: UnitFiles
    units: list
    work: list


def prepare(options):
    """Open the images, load the model, plan the units, and refuse what cannot work."""
    report_to.check(options.run.report_to)
    threads = distributed.set_threads(options.run.threads)
    device, options = distributed.choose_device(options.run.device), resolve(options)
    data, run = options.data, options.run
    classes, shard = data.classes and class_list(data.classes), settle_shard(run.shard)
    if data.dataset == "imagefolder":
        check_apart("--output-dir", run.output_dir / "images", data.train_dir)
    check_writable(run.output_dir)
    remove_leftovers(run.output_dir)

    # The model, the real images at its size, and what depends on them
    model = diffusion.load(options.model.backbone, options.model.weights, options.model.vae_weights)
    size = choose_size(model, options.model.sample_size)
    real = open_real(data.dataset, "train", data.train_dir, size, classes, run.workers,
                     crop="square")  # as diffusion models are trained
    backbone = Backbone(model, real.classes, options.model, size, options.arithmetic, device)
    options = settle_sizes(options, backbone)
    weights = model.fingerprint()
    vae = None if model.vae is None else diffusion.module_hash(model.vae)
    reals = RealLatents(real, backbone, options.real, run.seed, vae, latents_folder(options))
    if options.sampling.gamma > 0:
        reals.check()
    print_options("DAP", {**shown(options), "classes": len(real.classes),
                          "layer": backbone.layer, "shard": shard_words(shard),
                          "device": device, "threads": threads, "licence": model.licence or "-"})

    # What there is to do
    files = UnitFiles(run.output_dir, len(real.classes), options.images.ipc_end,
                      options.data.image_format)
    units = plan_units(len(real.classes), options.images)
    own_work_begins()
    groups = files.groups({"backbone": weights})
    mine = distributed.share_by_cost(units, lambda unit: len(unit.ipc_ids), shard)
    work = [left for unit in mine for left in unfinished(
        unit, groups, lambda image: files.image_path(*image).exists())]
    job = Job(options, real, backbone, weights, reals, files, units, work)

    made = sum(map(len, groups))
    check_space("DAP", run.output_dir, space(job, made), "Choose another --output-dir, a smaller "
                "--ipc-end, or --image-format jpg.")
    settle_manifest(files.manifest, manifest(job, threads), RESTART)
    return job


def settle_sizes(options, backbone):
    """The options with the sizes and the layer that follow from the model."""
    size, small = options.data.image_size, options.data.dataset != "imagefolder"
    if size is None:
        size = default_image_size(options.data.dataset) if small else backbone.size
    return with_values(options, image_size=size, sample_size=backbone.size, layer=backbone.layer)


def latents_folder(options):
    """Where latents of real images are kept."""
    return options.real.latents_dir or options.run.output_dir.parent / ".cache"


def space(job, made):
    """About how many bytes all processes write at most: images, and latents in float32.

    made: number of images that are there.
    """
    size = job.options.data.image_size
    image = size**2 * (3 if job.files.image_format == "png" else 0.75) + 1000
    left = sum(len(unit.ipc_ids) for unit in job.units) - made
    channels, height, width = job.backbone.latent_shape
    reals = 0
    if left > 0 and job.options.sampling.gamma > 0 and job.backbone.vae is not None:
        reals = sum(len(job.reals.indices(c)) for c in range(len(job.real.classes)))
    return int(max(0, left) * image + reals * channels * height * width * 4)


def manifest(job, threads):
    """The content of images.json."""
    options, real, model = job.options, job.real, job.backbone.model
    package = diffusion.diffusers()
    return {
        "method": "dap", "options": stored(options),
        "weights": {"backbone": options.model.weights, "vae": options.model.vae_weights},
        "licence": model.licence,
        "identity": {"classes": real.classes, "train_images": real.contents_hash(),
                     "backbone": job.weights},
        "asked": (options.images.ipc_start, options.images.ipc_end),
        "id_digits": job.files.id_digits, "threads": threads,
        "versions": {**versions(), "diffusers": package.__version__}}


# The work

def work(job):
    """Sample the units of this rank and save them."""
    o, batch_size = job.options, job.options.sampling.batch_size
    advice = try_half("--batch-size", batch_size, "fewer images go through the model together")
    with memory_advice(advice):
        print_plan(job)
        steps = o.sampling.steps * sum(len(unit.ipc_ids) for unit in job.work)
        with progress_bar(steps, "DAP", " image-steps", unit_scale=True) as bar:
            for unit in job.work:
                UnitSampling(unit, job, bar).run()


def summarise(job):
    """Say that it is done, and where the images are."""
    distributed.print0(f"DAP: done; the images are in {job.files.run / 'images'}")
    if job.backbone.model.licence:
        distributed.print0(f"note: {job.backbone.model.licence}")


class UnitSampling:
    """One unit, from noise to files. bar: the progress bar, in image-steps."""

    def __init__(self, unit, job, bar):
        self.unit, self.job, self.bar, self.terms = unit, job, bar, []
        self.key = (job.options.run.seed, "dap", unit.label)

    def run(self):
        """Sample the images, decode them, and write them with their record."""
        unit, job, backbone = self.unit, self.job, self.job.backbone
        o, begin = job.options, time.monotonic()
        condition, reals = backbone.condition(unit.label), None
        if o.sampling.gamma > 0:
            reals = RealFeatures(backbone, job.reals.latents(unit.label), condition,
                                 (o.run.seed, "dap real noise", unit.label), o.sampling)

        generators = [stream(*self.key, i) for i in unit.ipc_ids]
        x = sample(backbone, condition, generators, reals, o.sampling, self.after_step)
        self.check_finite(x)
        pixels = resized(backbone.decode(x), o.data.image_size)
        self.save(pixels, round(time.monotonic() - begin, 3))

    def after_step(self, step, t, measured):
        """Move the bar and note the mean distance and RMS(gamma g) / sigma of a guided step."""
        self.bar.update(len(self.unit.ipc_ids))
        text = f"{self.job.real.classes[self.unit.label]}, step {step + 1}"
        self.bar.set_postfix_str(text, refresh=False)
        if measured is not None:
            self.terms.append((step, t, measured.mean(1)))

    def check_finite(self, x):
        """Raise UserError where a number of x_0 is not finite: such an image is never kept."""
        if torch.isfinite(x).all():
            return
        bad = [step for step, _, measured in self.terms if not torch.isfinite(measured).all()]
        when = f"from step {bad[0]} on" if bad else "after the last step"
        gamma = self.job.options.sampling.gamma
        raise UserError(f"{self.unit.name}: numbers are not finite {when}, found --gamma "
                        f"{gamma:g}. No image of this unit was kept. Give a smaller --gamma, with "
                        "another --output-dir.")

    def save(self, pixels, seconds):
        """Write the images and their record. Prints the terms of the unit's guided steps."""
        unit, job, terms = self.unit, self.job, []
        for step, t, (distance, push) in self.terms:
            sigma = job.backbone.sigma(t)
            terms.append({"step": step, "t": t, "distance": float(distance),
                          "push_over_sigma": float(push) / sigma if sigma else None})
        seeds = [stable_seed(*self.key, i) for i in unit.ipc_ids]
        record = {"classes": unit.classes, "ipc_ids": unit.ipc_ids,
                  "steps": job.options.sampling.steps, "weights": {"backbone": job.weights},
                  "start": [f"noise {seed}" for seed in seeds], "units_together": [unit.name],
                  "terms": terms, "seconds": seconds}
        job.files.save_unit(unit, self.preview_rows(pixels), pixels, record, job.real.classes)
        if terms:
            self.show(terms)
            first, last = terms[0], terms[-1]
            write_above(self.bar, f"{unit.name}  distance {first['distance']:.1f} at t "
                        f"{first['t']}, {last['distance']:.1f} at t {last['t']}  push/sigma "
                        f"{first['push_over_sigma'] or 0:.3f} to "
                        f"{last['push_over_sigma'] or 0:.3f}")

    def show(self, terms):
        """Show the terms of the guided steps as curves, where --report-to asks for it."""
        run = self.job.options.run
        tracker = report_to.open_tracker(run.report_to, run.output_dir, self.unit.name)
        for term in terms:
            numbers = {name: term[name] for name in ("distance", "push_over_sigma")}
            tracker.log(term["step"], {name: number for name, number in numbers.items()
                                       if number is not None})
        tracker.close()

    def preview_rows(self, pixels):
        """Rows of the preview above the result: real images of the class."""
        if self.unit.preview is None:
            return {}
        indices = self.job.reals.indices(self.unit.label)[: len(pixels)]
        return {"real": resized(self.job.real.pixels(indices), pixels.shape[-1])}


def resized(pixels, size):
    """uint8 [n, 3, H, W] at size x size, bilinear and antialiased as real images in memory are."""
    if pixels.shape[-1] == size:
        return pixels
    return torch.stack([to_tensor(to_pil(image).resize((size, size), Image.Resampling.BILINEAR))
                        for image in pixels])


# The estimate

def print_plan(job):
    """Say how much there is to do and about how long it takes."""
    images = sum(len(unit.ipc_ids) for unit in job.work)
    text = f"DAP: {len(job.work)} of {len(job.units)} units to do on this rank, {images} images"
    if job.work:
        plain, guided = seconds_per_image_step(job)
        o = job.options.sampling
        steps_guided = sum(map(o.guides, range(o.steps)))
        # The features of a real image cost a forward, where guidance is a forward and a backward
        # to the image, which takes about as long.
        reals = len(job.reals.indices(0)) * len(job.work) * steps_guided * guided / 2
        seconds = images * (o.steps * plain + steps_guided * guided) + reals
        text += f", about {duration(seconds)} (timed on one step)"
        if job.backbone.vae is not None:
            text += ", beside encoding and decoding"
    distributed.print0(text)


def seconds_per_image_step(job):
    """(plain step, guidance) in seconds per image, measured on one batch."""
    o, backbone = job.options.sampling, job.backbone
    images = min(o.batch_size, max(len(unit.ipc_ids) for unit in job.work))
    if backbone.device.type == "cpu":
        images = min(images, _TIMED_IMAGES)
    x = torch.zeros(images, *backbone.latent_shape, device=backbone.device)
    t, condition = backbone.timesteps(o.steps)[0], backbone.condition(job.work[0].label)

    @torch.no_grad()
    def plain():
        backbone.predict(x, t, condition, o.cfg_scale, o.cfg_channels)

    def guided():
        guidance(lambda y: backbone.features(y, t, condition), x, reals)

    times = [best_time(plain, backbone.device, runs=2), 0.0]
    if o.gamma > 0:
        # Any features do: the time does not depend on them.
        latents = torch.zeros(1, *backbone.latent_shape, device=backbone.device)
        reals = gather_reals(backbone.features(latents, t, condition))
        times[1] = best_time(guided, backbone.device, runs=2)
    return [seconds / images for seconds in times]
