"""Algorithm 1, beside diffusers' own pipeline and beside steps written out in float64."""

import numpy as np
import pytest
import torch

diffusers = pytest.importorskip("diffusers")

import tiny_diffusion  # noqa: E402

from models import diffusion  # noqa: E402
from recover.dap.backbones import Backbone, choose_size  # noqa: E402
from recover.dap.guidance import gather_reals, guidance, rms  # noqa: E402
from recover.dap.options import Model, Sampling  # noqa: E402
from recover.dap.sampler import sample  # noqa: E402
from utils.precision import Arithmetic  # noqa: E402
from utils.seeding import stream  # noqa: E402

CPU = torch.device("cpu")
CLASS = "n03028079"  # label 497


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    tiny_diffusion.dit_folder(root / "learned")
    tiny_diffusion.dit_folder(root / "fixed", out_channels=4)
    return root


def open_dit(folder):
    model = diffusion.load("dit", folder)
    return Backbone(model, [CLASS], Model(), choose_size(model, None), Arithmetic(), CPU)


def settings(**changed):
    return Sampling(**{"gamma": 0.0, "steps": 10, "guide_to": 5, "cfg_scale": 4.0,
                       "cfg_channels": 3, "batch_size": 8, **changed})


def run(backbone, o, images=2, reals=None, **more):
    generators = [stream("image", i) for i in range(images)]
    return sample(backbone, backbone.condition(0), generators, reals, o, **more)


def some_reals(backbone, count=6):
    generator = stream("reals")
    x0 = torch.randn(count, *backbone.latent_shape, generator=generator)

    def reals(t):
        noised = backbone.diffuse(x0, torch.randn(x0.shape, generator=stream("noise", t)), t)
        with torch.no_grad():
            return gather_reals(backbone.features(noised, t, backbone.condition(0)))

    return reals


def test_plain_sampling_equals_diffusers_pipeline(root):
    """DiTPipeline guides all four channels and does not read a learned variance."""
    backbone = open_dit(root / "fixed")
    ours = backbone.decode(run(backbone, settings(cfg_channels=4), images=1))

    generator = stream("image", 0)

    class Scheduler(diffusers.DDPMScheduler):  # the pipeline hands no generator on to its steps
        def step(self, output, t, x):
            return super().step(output, t, x, generator=[generator, stream("unused")])

    scheduler = Scheduler(clip_sample=False, timestep_spacing="linspace")
    pipeline = diffusers.DiTPipeline(backbone.network, backbone.vae, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline([497], guidance_scale=4.0, generator=generator, num_inference_steps=10,
                      output_type="pt").images
    difference = (ours / 255 - theirs.float()).abs()
    assert theirs.std() > 0.01
    assert difference.max() < 1.5 / 255


def test_learned_variance_equals_steps_written_out(root):
    """Nichol and Dhariwal 2021: sigma^2 = exp(v log beta + (1 - v) log beta~), v in 0 ... 1."""
    backbone, o = open_dit(root / "learned"), settings()
    generators = [stream("image", i) for i in range(2)]
    x = torch.cat([torch.randn(1, 4, 8, 8, generator=g) for g in generators]).double()
    times = np.linspace(0, 999, 10).round().astype(int)
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[times]

    for k in reversed(range(10)):
        t = torch.full((2,), int(times[k]))
        with torch.no_grad():
            own, null = (backbone.network(x.float(), timestep=t,
                                          class_labels=torch.full((2,), label)).sample.double()
                         for label in (497, 1000))
        eps = torch.cat([(null + 4 * (own - null))[:, :3], own[:, 3:4]], 1)
        before = abar[k - 1] if k else 1.0
        beta = 1 - abar[k] / before
        posterior = max((1 - before) / (1 - abar[k]) * beta, 1e-20)
        x0 = (x - np.sqrt(1 - abar[k]) * eps) / np.sqrt(abar[k])
        mean = (np.sqrt(before) * beta * x0
                + np.sqrt(1 - beta) * (1 - before) * x) / (1 - abar[k])
        v = (own[:, 4:] + 1) / 2
        sigma = torch.exp(0.5 * (v * np.log(beta) + (1 - v) * np.log(posterior)))
        x = mean
        if k:
            noise = torch.cat([torch.randn(1, 4, 8, 8, generator=g) for g in generators])
            x = mean + sigma * noise.double()

    ours = run(backbone, o)
    assert ours.std() > 0.1
    torch.testing.assert_close(ours.double(), x, rtol=1e-3, atol=1e-3 * float(x.abs().max()))


def test_gamma_zero_is_plain_sampling_bit_for_bit(root):
    backbone, calls = open_dit(root / "learned"), []
    sampled = run(backbone, settings(gamma=0.0), reals=some_reals(backbone),
                  after_step=lambda *step: calls.append(step))
    assert [measured for _, _, measured in calls] == [None] * 10

    generators, condition = [stream("image", i) for i in range(2)], backbone.condition(0)
    x = backbone.noise(generators)
    for t in backbone.timesteps(10):
        with torch.no_grad():
            x = backbone.denoise(backbone.predict(x, t, condition, 4.0, 3), t, x, generators)
    assert torch.equal(sampled, x)
    guided = run(backbone, settings(gamma=1.0), reals=some_reals(backbone))
    assert not torch.equal(sampled, guided)


@pytest.mark.parametrize("by", ["none", "sigma", "rms"])
def test_a_guided_step_is_algorithm_1(root, by):
    """x_{t-1} = x~_{t-1} + gamma g_t, with the gradient at x_t, in the guided steps alone."""
    backbone = open_dit(root / "learned")
    o = settings(gamma=2.0, guide_from=1, guide_to=2, steps=3, guidance_scale_by=by)
    reals, logs = some_reals(backbone), []
    guided = run(backbone, o, reals=reals, after_step=lambda *step: logs.append(step))

    generators = [stream("image", i) for i in range(2)]
    x, condition = backbone.noise(generators), backbone.condition(0)
    for step, t in enumerate([999, 500, 0]):
        with torch.no_grad():
            prediction = backbone.predict(x, t, condition, 4.0, 3)
        after = backbone.denoise(prediction, t, x, generators)
        if step == 1:
            g, distance = guidance(lambda y, t=t: backbone.features(y, t, condition), x, reals(t))
            scale = {"none": 1.0, "sigma": backbone.sigma(t),
                     "rms": backbone.noise_level(t) * rms(prediction[:, :4]) / rms(g)}[by]
            push = 2.0 * scale * g
            after = after + push
        x = after
    torch.testing.assert_close(guided, x, rtol=1e-5, atol=1e-5)

    assert [measured is None for _, _, measured in logs] == [True, False, True]
    measured = logs[1][2]
    torch.testing.assert_close(measured[0], distance)
    torch.testing.assert_close(measured[1], rms(push).flatten())


def test_a_small_step_along_the_guidance_lowers_the_distance(root):
    backbone = open_dit(root / "learned")
    condition, x = backbone.condition(0), backbone.noise([stream("image", i) for i in range(4)])
    for t in (999, 510, 100):
        reals = some_reals(backbone)(t)

        def measure(x, t=t, reals=reals):
            return guidance(lambda y: backbone.features(y, t, condition), x, reals)

        g, distance = measure(x)
        assert (measure(x + 1e-3 * g / rms(g))[1] < distance).all()


def test_an_image_depends_on_its_seed_and_not_on_its_batch(root):
    """Equal up to rounding: matrix products of other shapes add up in another order."""
    backbone, reals = open_dit(root / "learned"), some_reals(open_dit(root / "learned"))
    seven = run(backbone, settings(gamma=1.0), 7, reals)
    for batch_size in (1, 3, 7):
        other = run(backbone, settings(gamma=1.0, batch_size=batch_size), 7, reals)
        torch.testing.assert_close(other, seven, rtol=1e-3, atol=1e-3)
    alone = run(backbone, settings(gamma=1.0), 2, reals)
    torch.testing.assert_close(alone, seven[:2], rtol=1e-3, atol=1e-3)
    assert not torch.equal(seven[0], seven[1])
