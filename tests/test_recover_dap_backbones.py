"""Diffusion models as DAP uses them, on tiny random ones of diffusers' own classes."""

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

import tiny_diffusion  # noqa: E402

from models import diffusion  # noqa: E402
from recover.dap.backbones import Backbone, choose_size, class_words, layers  # noqa: E402
from recover.dap.options import Model  # noqa: E402
from utils.errors import UserError  # noqa: E402
from utils.precision import Arithmetic  # noqa: E402

WNIDS = ["n01440764", "n03028079"]  # labels 0 and 497
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    tiny_diffusion.dit_folder(root / "dit")
    tiny_diffusion.sd_folder(root / "sd")
    tiny_diffusion.pixel_file(root / "pixel-dit", ["cat", "dog"], size=8, channels=1)
    return root


def backbone(folders, kind, classes=None, arithmetic=Arithmetic(), **options):  # noqa: B008
    model = diffusion.load(kind, folders / kind)
    classes = classes or (["cat", "dog"] if kind == "pixel-dit" else WNIDS)
    return Backbone(model, classes, Model(backbone=kind, **options), choose_size(model, None),
                    arithmetic, CPU)


def noise(backbone, count=3):
    return backbone.noise([torch.Generator().manual_seed(seed) for seed in range(count)])


def test_noise_levels_are_those_of_linear_betas(folders):
    dit = backbone(folders, "dit")
    times = dit.timesteps(50)
    assert times[:3] == [999, 979, 958]
    assert times[-2:] == [20, 0]
    # OpenAI's space_timesteps(1000, "50"): rounded multiples of 999/49
    assert sorted(times) == [round(k * 999 / 49) for k in range(50)]

    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000, dtype=np.float64))
    assert dit.noise_level(510) == pytest.approx(np.sqrt(1 - abar[510]), rel=1e-4)
    before = times[times.index(510) + 1]
    beta = 1 - abar[510] / abar[before]
    expected = np.sqrt((1 - abar[before]) / (1 - abar[510]) * beta)
    assert dit.sigma(510) == pytest.approx(expected, rel=1e-3)
    assert dit.sigma(0) == 0

    x0, eps = noise(dit), noise(dit, 3).flip(0)
    expected = np.sqrt(abar[510]) * x0.double() + np.sqrt(1 - abar[510]) * eps.double()
    torch.testing.assert_close(dit.diffuse(x0, eps, 510).double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [3, 4, None])
def test_classifier_free_guidance_of_three_or_four_channels(folders, channels):
    dit = backbone(folders, "dit")
    x = noise(dit)
    with torch.no_grad():
        own, null = (dit.network(x, timestep=torch.full((3,), 500),
                                 class_labels=torch.full((3,), label)).sample
                     for label in (497, 1000))
        mixed = dit.predict(x, 500, dit.condition(1), 4.0, channels)
    for channel in range(8):
        expected = own[:, channel]
        if channel < (channels or 4):
            expected = null[:, channel] + 4 * (own - null)[:, channel]
        torch.testing.assert_close(mixed[:, channel], expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(dit.predict(x, 500, dit.condition(1), 1, channels), own)


@pytest.mark.parametrize("kind", ["dit", "sd", "pixel-dit"])
def test_early_exit_gives_the_features_of_the_whole_pass(folders, kind):
    for name in layers(diffusion.load(kind, folders / kind)):
        model = backbone(folders, kind, layer=name)
        x, condition, ran, outputs = noise(model), model.condition(1), [], []
        last = model.network.proj_out_2 if kind != "sd" else model.network.conv_out
        last.register_forward_hook(lambda *_, ran=ran: ran.append(True))
        with torch.no_grad():
            early = model.features(x, 500, condition)
            assert not ran
            model.tap.register_forward_hook(lambda *a, outputs=outputs: outputs.append(a[2]))
            model.predict(x, 500, condition, 1, None)
        assert ran
        whole = outputs[0][0] if isinstance(outputs[0], tuple) else outputs[0]
        assert torch.equal(early, whole.flatten(1)), name
        assert early.shape[0] == 3
        assert early.dim() == 2


def test_the_default_layer_and_pooled_features(folders):
    assert backbone(folders, "sd").layer == "mid"
    dit = backbone(folders, "dit")
    assert dit.layer == "1"  # 4 blocks // 4
    x, condition = noise(dit), dit.condition(0)
    pooled = backbone(folders, "dit", pool="mean")
    with torch.no_grad():
        tokens = dit.features(x, 500, condition).view(3, 16, 32)
        torch.testing.assert_close(pooled.features(x, 500, condition), tokens.mean(1))


def test_features_know_the_class_and_the_time_and_have_a_gradient(folders):
    dit = backbone(folders, "dit")
    x = noise(dit).requires_grad_(True)
    z = dit.features(x, 500, dit.condition(0))
    (gradient,) = torch.autograd.grad(z.sum(), x)
    assert gradient.abs().sum() > 0
    assert not torch.equal(z, dit.features(x, 500, dit.condition(1)))
    assert not torch.equal(z, dit.features(x, 400, dit.condition(0)))


def test_prompts_are_class_names(folders):
    assert class_words(["n01440764", "golf_ball"]) == ["tench", "golf ball"]
    bird, machine = class_words(["n02012849", "n03126707"])
    assert bird.startswith("crane")
    assert machine.startswith("crane")
    assert bird != machine
    sd = backbone(folders, "sd", prompt="a photo of a {}")
    tokens = sd.model.tokenizer("a photo of a tench").input_ids
    with torch.no_grad():
        positive, negative = sd.condition(0)
        text = torch.tensor([tokens + [sd.model.tokenizer.pad_token_id] * (77 - len(tokens))])
        expected = sd.model.text_encoder(text).last_hidden_state[0]
    torch.testing.assert_close(positive, expected)
    assert not torch.equal(positive, negative)


def test_latents_and_pixels_are_the_vaes(folders):
    dit = backbone(folders, "dit")
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        expected = dit.vae.encode(pixels.float() / 127.5 - 1).latent_dist.mode() * 0.18215
        torch.testing.assert_close(dit.encode(pixels), expected)
        image = dit.vae.decode(expected / 0.18215).sample
    expected = ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(dit.decode(dit.encode(pixels)), expected)

    grey = backbone(folders, "pixel-dit")
    pixels = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8).expand(-1, 3, -1, -1)
    assert grey.encode(pixels).shape == (2, 1, 8, 8)
    assert torch.equal(grey.decode(grey.encode(pixels)), pixels)


@pytest.mark.parametrize("kind", ["dit", "sd"])
def test_low_precision_stays_near(folders, kind):
    full = backbone(folders, kind)
    low = backbone(folders, kind, arithmetic=Arithmetic("bf16"))
    x, condition = noise(full), full.condition(0)
    with torch.no_grad():
        a, b = (m.predict(x, 500, condition, 4.0, None) for m in (full, low))
    assert b.dtype == torch.float32
    assert 0 < (a - b).abs().mean() < 0.1 * a.abs().mean()

    gradients = []
    for model in (full, low):
        leaf = x.clone().requires_grad_(True)
        z = model.features(leaf, 500, condition)
        assert z.dtype == torch.float32
        gradients.append(torch.autograd.grad(z.square().sum(), leaf)[0].flatten())
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99


@pytest.mark.slow
def test_compiled_blocks_give_the_same_numbers(folders):
    plain = backbone(folders, "dit")
    compiled = backbone(folders, "dit", arithmetic=Arithmetic(compile=True))
    x, condition = noise(plain), plain.condition(0)
    with torch.no_grad():
        for function in (lambda m: m.predict(x, 500, condition, 4.0, 3),
                         lambda m: m.features(x, 500, condition)):
            torch.testing.assert_close(function(compiled), function(plain), rtol=1e-4, atol=1e-4)


# Refusals

def test_classes_that_the_model_does_not_know(folders):
    with pytest.raises(UserError, match="'cat' is none that the dit model knows.*--backbone sd"):
        backbone(folders, "dit", ["cat", "n01440764"])
    with pytest.raises(UserError, match="'cow' .* trained on cat, dog"):
        backbone(folders, "pixel-dit", ["cat", "cow"])
    assert backbone(folders, "pixel-dit", ["dog"]).labels == [1]
    numbered = [f"new{c:03d}" for c in range(2)]
    assert backbone(folders, "pixel-dit", numbered).labels == [0, 1]
    with pytest.raises(UserError, match="new000"):
        backbone(folders, "dit", numbered)


def test_layers_and_sizes_that_do_not_exist(folders):
    with pytest.raises(UserError, match="--layer 9: the dit backbone has no such layer.*0, 1, 2"):
        backbone(folders, "dit", layer="9")
    with pytest.raises(UserError, match="--layer 1: the sd backbone.*down0, .*mid"):
        backbone(folders, "sd", layer="1")
    dit, sd = (diffusion.load(kind, folders / kind) for kind in ("dit", "sd"))
    assert choose_size(dit, None) == 64
    with pytest.raises(UserError, match="trained at 64 px"):
        choose_size(dit, 128)
    assert choose_size(sd, 128) == 128
    with pytest.raises(UserError, match="multiples of 16 px.*such as 96"):
        choose_size(sd, 100)
