import math

import pytest
import torch
from torch import nn

pytest.importorskip("diffusers")

from models import diffusion
from models.diffusion_training import (
    Draw,
    average_decay,
    draw_samples,
    draw_step,
    initialise,
    is_grey,
    learning_rate_factor,
    noise_loss,
    update_average,
)
from utils.seeding import seeded, stream

SHAPE = (64, 1, 4, 4)


@pytest.fixture(scope="module")
def scheduler():
    return diffusion.pixel_noise()


def draw(step=0, flip_prob=0.5):
    return draw_step(10, SHAPE, 1000, flip_prob, stream("test", step))


def network():
    with seeded("test"):
        return diffusion.build_pixel_dit(4, 1, 3, patch=2, width=16, layers=2, heads=2).eval()


def test_a_draw_is_in_range_and_a_function_of_its_key():
    a, b, other = draw(), draw(), draw(step=1)
    for name in ("index", "flips", "t", "noise", "dropped"):
        assert torch.equal(getattr(a, name), getattr(b, name))
        assert not torch.equal(getattr(a, name), getattr(other, name))
    assert set(a.index.tolist()) == set(range(10))
    assert 0 <= a.t.min() < 100
    assert 900 < a.t.max() < 1000
    assert not draw(flip_prob=0).flips.any()
    many = torch.cat([draw(step).dropped for step in range(100)]).double().mean()
    assert float(many) == pytest.approx(0.1, abs=0.02)


def test_noised_images_and_labels_of_a_step(scheduler):
    """x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps, abar_t = prod (1 - beta), beta 1e-4 to 0.02."""
    x0 = torch.rand(3, 1, 4, 4, generator=stream("x0")) * 2 - 1
    noise = torch.randn(3, 1, 4, 4, generator=stream("noise"))
    t, labels = torch.tensor([0, 500, 999]), torch.tensor([2, 1, 0])
    dropped = torch.tensor([False, True, False])
    drawn = Draw(torch.arange(3), torch.zeros(3).bool(), t, noise, dropped)
    seen = []

    def predict(x_t, times, y):
        seen.append((x_t, times, y))
        return torch.full_like(x_t, 0.5)

    loss = noise_loss(predict, x0, labels, drawn, scheduler, null=3)
    ((x_t, times, y),) = seen
    for i in range(3):
        kept = math.prod(1 - (1e-4 + (0.02 - 1e-4) * s / 999) for s in range(int(t[i]) + 1))
        expected = math.sqrt(kept) * x0[i] + math.sqrt(1 - kept) * noise[i]
        assert torch.allclose(x_t[i], expected, atol=1e-5)
    assert torch.equal(times, t)
    assert y.tolist() == [2, 3, 0]
    assert float(loss) == pytest.approx(float(((noise - 0.5) ** 2).sum() / 48), rel=1e-6)


def test_learning_rate_rises_then_falls():
    factors = [learning_rate_factor(step, 100) for step in range(100)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[52] == pytest.approx(0.5, abs=0.01)
    assert factors[4:] == sorted(factors[4:], reverse=True)
    assert 0 < factors[-1] < 0.001
    assert learning_rate_factor(0, 1) == 1


def test_average_by_hand():
    """From 4: 0.1 x 4 + 0.9 x 1 = 1.3, 0.15 x 1.3 + 0.85 x 2, 0.15 x 1.895 - 0.85 x 3."""
    average, trained = nn.Linear(1, 1), nn.Linear(1, 1)
    nn.init.constant_(average.weight, 4.0)
    found = []
    for step, weight in enumerate((1.0, 2.0, -3.0)):
        nn.init.constant_(trained.weight, weight)
        update_average(average, trained, average_decay(step, 0.15))
        found.append(average.weight.item())
    assert found == pytest.approx([1.3, 1.895, -2.26575])


def test_a_network_starts_at_zero_and_learns_fixed_data(scheduler):
    net, images = network(), torch.rand(10, 1, 4, 4, generator=stream("images")) * 2 - 1
    initialise(net)
    drawn, labels = draw(), torch.arange(64) % 3
    x0 = images[drawn.index]

    def loss():
        return noise_loss(lambda x, t, y: net(x, timestep=t, class_labels=y).sample, x0, labels,
                          drawn, scheduler, 3)

    first = loss()
    assert first.item() == pytest.approx(drawn.noise.square().mean().item(), rel=1e-5)
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < 0.5 * first.item()


class Told:
    """A network of known outputs: the noise is 0.1 with a label y, times y + 1, and 0 without."""

    def __init__(self):
        self.config = network().config

    def __call__(self, x, timestep, class_labels):
        value = torch.where(class_labels == 3, 0.0, 0.1 * (class_labels + 1.0))
        assert len(timestep) == len(x)
        assert timestep.unique().numel() == 1
        return type("Output", (), {"sample": value.view(-1, 1, 1, 1).expand_as(x)})


def test_guidance_of_samples(scheduler, monkeypatch):
    """eps = eps(none) + guidance (eps(label) - eps(none)), at 50 times from 999 to 0."""
    given, step = [], scheduler.step

    def recorded(eps, t, x, **more):
        given.append((int(t), eps[:, 0, 0, 0]))
        return step(eps, t, x, **more)

    monkeypatch.setattr(scheduler, "step", recorded)
    x = draw_samples(Told(), scheduler, torch.tensor([0, 2]), 2.0, stream("samples"))
    assert x.shape == (2, 1, 4, 4)
    assert [t for t, _ in given][::49] == [999, 0]
    assert len(given) == 50
    for _, eps in given:
        assert torch.allclose(eps, torch.tensor([0.2, 0.6]))


def test_samples_are_a_function_of_weights_and_seed(scheduler):
    net, labels = network(), torch.tensor([0, 1, 2])
    a, b, other = (draw_samples(net, scheduler, labels, 2.0, stream("samples", seed))
                   for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, other)
    assert a.abs().max() <= 1  # predictions are clipped to the range of pixels


def test_is_grey():
    pixels = torch.randint(0, 256, (5, 1, 4, 4), dtype=torch.uint8).repeat(1, 3, 1, 1)
    assert is_grey(pixels)
    for channel in range(3):
        coloured = pixels.clone()
        coloured[4, channel, 3, 3] ^= 1
        assert not is_grey(coloured)
