import json
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers")

import tiny_diffusion

from models import diffusion
from utils.checkpoint import load_tensors, save_tensors
from utils.errors import UserError

CPU = torch.device("cpu")
T = torch.tensor([500, 20])


@pytest.fixture(scope="module")
def dit(tmp_path_factory):
    return tiny_diffusion.dit_folder(tmp_path_factory.mktemp("dit"))


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    return tiny_diffusion.sd_folder(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="module")
def pixel(tmp_path_factory):
    return tiny_diffusion.pixel_file(tmp_path_factory.mktemp("pixel"), ["a", "b"])


def change(path, **values):
    """Other values in a JSON file; None removes one."""
    content = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({name: v for name, v in content.items() if v is not None}))


# What is loaded

def test_dit(dit):
    model = diffusion.load("dit", dit).to(CPU)
    assert (model.kind, set(model.modules)) == ("dit", {"network", "vae"})
    assert model.classes is model.tokenizer is None
    assert "CC-BY-NC-4.0" in model.licence
    assert model.scheduler.config.variance_type == "learned_range"
    assert model.network.state_dict().keys() == tiny_diffusion.dit().state_dict().keys()
    assert not any(p.requires_grad or module.training for module in model.modules.values()
                   for p in module.parameters())

    x = tiny_diffusion.noise(model)
    labels = torch.tensor([0, 1000])  # the second one is no class
    y = model.network(x, timestep=T, class_labels=labels).sample
    expected = tiny_diffusion.dit().eval()(x, timestep=T, class_labels=labels).sample
    assert y.shape == (2, 8, 8, 8)
    assert torch.equal(y, expected)
    images = model.vae.decode(x).sample
    assert images.shape == (2, 3, 64, 64)
    assert model.vae.encode(images).latent_dist.mean.shape == x.shape


def test_a_dit_without_learned_variance(tmp_path):
    model = diffusion.load("dit", tiny_diffusion.dit_folder(tmp_path, out_channels=4))
    assert model.scheduler.config.variance_type == "fixed_small"


def test_stable_diffusion(sd):
    model = diffusion.load("sd", sd).to(CPU)
    assert set(model.modules) == {"network", "vae", "text_encoder"}
    assert "OpenRAIL-M" in model.licence
    config = model.scheduler.config
    assert (config.beta_schedule, config.beta_start, config.beta_end) == (
        "scaled_linear", 0.00085, 0.012)
    assert (config.timestep_spacing, config.clip_sample) == ("linspace", False)

    tokens = model.tokenizer(["a photo of church", "zebra"], padding="max_length",
                             return_tensors="pt").input_ids
    assert tokens.shape == (2, 77)
    text = model.text_encoder(tokens)[0]
    assert text.shape == (2, 77, 16)
    assert not torch.allclose(text[0], text[1])
    x = tiny_diffusion.noise(model)
    y = model.network(x, T, encoder_hidden_states=text).sample
    assert torch.equal(y, tiny_diffusion.unet().eval()(x, T, encoder_hidden_states=text).sample)


def test_a_file_of_weights_without_a_schedule_gets_that_of_its_training(dit, tmp_path):
    folder = shutil.copytree(dit, tmp_path / "dit")
    stated = diffusion.load("dit", folder)
    shutil.rmtree(folder / "scheduler")
    assumed = diffusion.load("dit", folder)
    assert assumed.fingerprint() == stated.fingerprint()
    assert assumed.scheduler.config.beta_end == 0.02


def test_the_schedule_of_the_training_is_read(dit, tmp_path):
    folder = shutil.copytree(dit, tmp_path / "dit")
    change(folder / "scheduler/scheduler_config.json", beta_end=0.01)
    model = diffusion.load("dit", folder)
    assert model.scheduler.config.beta_end == 0.01
    assert model.fingerprint() != diffusion.load("dit", dit).fingerprint()


def test_another_vae(dit, tmp_path):
    tiny_diffusion.vae_folder(tmp_path / "flat", seed=1)
    tiny_diffusion.vae_folder(tmp_path / "nested/vae", seed=1)
    flat, nested, own = (diffusion.load("dit", dit, vae).fingerprint()
                         for vae in (tmp_path / "flat", tmp_path / "nested", None))
    assert flat == nested != own


def test_published_vaes_have_names_of_before(tmp_path):
    """Those of Stable Diffusion were written when attention had query, key, value, proj_attn."""
    folder = tiny_diffusion.dit_folder(tmp_path)
    (file,) = (folder / "vae").glob("*.safetensors")
    before = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, tensor in load_file(file).items():
        for new, old in before.items() if ".attentions." in name else ():
            name = name.replace(f".{new}.", f".{old}.")
        tensors[name] = tensor
    assert any(".proj_attn." in name for name in tensors)
    save_file(tensors, file, {"format": "pt"})
    expected = tiny_diffusion.vae().state_dict()
    loaded = diffusion.load("dit", folder).vae.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.items())


@pytest.mark.parametrize("alone", [True, False])
def test_another_vae_of_the_hub_alone_or_in_a_whole_model(dit, tmp_path, monkeypatch, alone):
    """stabilityai/sd-vae-ft-mse holds nothing but the VAE; other repositories have it in vae/."""
    published = tmp_path / "published"
    tiny_diffusion.vae_folder(published if alone else published / "vae", seed=5)
    kind = diffusion.diffusers().AutoencoderKL
    original = kind.from_pretrained

    def from_hub(place, **options):
        place = published if place == "somebody/vae" else place
        return original(place, **options)

    monkeypatch.setattr(kind, "from_pretrained", from_hub)
    model = diffusion.load("dit", dit, "somebody/vae")
    expected = tiny_diffusion.vae(seed=5).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.vae.state_dict().items())


def test_a_fingerprint_is_that_of_the_weights(dit, tmp_path):
    again = diffusion.load("dit", tiny_diffusion.dit_folder(tmp_path / "again")).fingerprint()
    other = diffusion.load("dit", tiny_diffusion.dit_folder(tmp_path / "other", seed=1))
    assert diffusion.load("dit", dit).fingerprint() == again != other.fingerprint()


@pytest.mark.parametrize("steps", [1, 2, 10, 50, 250, 1000])
def test_respacing_is_openai_s(steps):
    """Their code takes round(i (1000 - 1) / (steps - 1)) for i = 0 ... steps - 1."""
    scheduler = diffusion.ddpm()
    scheduler.set_timesteps(steps)
    stride = 999 / max(1, steps - 1)
    expected = [round(i * stride) for i in range(steps)]
    assert scheduler.timesteps.tolist() == expected[::-1]


# What is refused

def refused(sentence, kind, weights, vae=None):
    with pytest.raises(UserError, match=sentence):
        diffusion.load(kind, weights, vae)


def no_weights(folder):
    for file in folder.glob("*.safetensors"):
        file.unlink()


def pickled(folder):
    no_weights(folder)
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"x")


def missing_tensor(folder):
    file = folder / "diffusion_pytorch_model.safetensors"
    tensors, _ = load_tensors(file)
    del tensors["proj_out_1.bias"]
    save_tensors(file, tensors)


def cut_short(folder):
    file = folder / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])


@pytest.mark.parametrize(("spoil", "sentence"), [
    (shutil.rmtree, "no transformer/config.json; found vae. Expected a folder that diffusers wrot"),
    (pickled, "found pickled weights .diffusion_pytorch_model.bin., expected saf.*refs/pr/1"),
    (no_weights, "found no weights, expected safetensors"),
    (missing_tensor, "not those of its config.json: 1 tensors are missing.*proj_out_1.bias"),
    (cut_short, "its transformer could not be read"),
    (lambda folder: (folder / "config.json").write_text("{"), "config.json: damaged"),
    (lambda folder: (folder / "config.json").write_text("[]"), "config.json: damaged"),
    (lambda folder: change(folder / "config.json", _class_name=None), "config.json: damaged"),
    (lambda folder: change(folder / "config.json", _class_name="UNet2DModel"),
     "describes a UNet2DModel, expected DiTTransformer2DModel. Choose another --backbone"),
    (lambda folder: change(folder / "config.json", num_layers=5), "not those of its config.json"),
    (lambda folder: change(folder / "config.json", num_layers=3), "not those of its config.json"),
    (lambda folder: change(folder / "config.json", patch_size=4), "transformer|config.json")])
def test_a_spoilt_dit(dit, tmp_path, spoil, sentence):
    folder = shutil.copytree(dit, tmp_path / "dit")
    spoil(folder / "transformer")
    refused(f"{tmp_path}.*{sentence}", "dit", folder)


def test_a_spoilt_scheduler_or_no_vae(dit, tmp_path):
    folder = shutil.copytree(dit, tmp_path / "dit")
    (folder / "scheduler/scheduler_config.json").write_text("{")
    refused("its scheduler could not be read", "dit", folder)
    shutil.rmtree(folder / "scheduler")
    shutil.rmtree(folder / "vae")
    refused("no vae/config.json; found transformer", "dit", folder)


def pickled_text_encoder(folder):
    (folder / "text_encoder/model.safetensors").rename(folder / "text_encoder/pytorch_model.bin")


def missing_text_tensor(folder):
    file = folder / "text_encoder/model.safetensors"
    tensors, _ = load_tensors(file)
    save_tensors(file, {name: t for name, t in tensors.items() if "1.layer_norm1.bias" not in name})


@pytest.mark.parametrize(("spoil", "sentence"), [
    (lambda folder: shutil.rmtree(folder / "tokenizer"), "the text encoder expects 210. Fetch"),
    (lambda folder: shutil.rmtree(folder / "text_encoder"), "its text_encoder or tokenizer could"),
    (lambda folder: (folder / "tokenizer/vocab.json").write_text("{"), "text_encoder or tokenizer"),
    (pickled_text_encoder, "its text_encoder or tokenizer could not be read"),
    (missing_text_tensor, "the weights in text_encoder are not those of its config.json: 1 tensors")
])
def test_a_spoilt_clip(sd, tmp_path, spoil, sentence):
    folder = shutil.copytree(sd, tmp_path / "sd")
    spoil(folder)
    refused(sentence, "sd", folder)


def test_another_kind_of_model(dit, sd, pixel):
    refused("no unet/config.json; found transformer, vae", "sd", dit)
    refused("no transformer/config.json; found text_encoder, unet, vae", "dit", sd)
    refused("no transformer/config.json; found no network", "dit", pixel.parent)
    refused("pixel_dit.safetensors: no such file. Train", "pixel-dit", dit)
    refused("describes a Transformer2DModel, expected AutoencoderKL", "dit", dit,
            dit / "transformer")


def test_a_vae_of_other_channels(dit, tmp_path):
    tiny_diffusion.vae_folder(tmp_path / "vae", latent_channels=8)
    refused("takes 4 channels, the VAE's latents have 8. Give the VAE", "dit", dit, tmp_path)


def test_a_folder_that_is_not_there(tmp_path):
    refused("nowhere: no such folder of a diffusion model", "dit", tmp_path / "nowhere")


def test_a_name_on_the_hub_that_cannot_be_fetched(monkeypatch):
    """Without a network; the revision goes to the hub as it was given."""
    asked = []

    def from_pretrained(name, revision=None, **_):
        asked.append((name, revision))
        raise OSError("no connection\nmore")

    monkeypatch.setattr(diffusion.diffusers().DiTTransformer2DModel, "from_pretrained",
                        from_pretrained)
    refused(r"somebody/dit@v2: its transformer could not be fetched as safetensors .no connection.",
            "dit", "somebody/dit@v2")
    refused("could not be fetched", "dit", None)
    assert asked == [("somebody/dit", "v2"), ("facebook/DiT-XL-2-256", "refs/pr/1")]


def test_without_diffusers_or_transformers(dit, sd, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "transformers", None)
        refused("Stable Diffusion needs the package transformers.*requirements-dap.txt", "sd", sd)
    monkeypatch.setitem(sys.modules, "diffusers", SimpleNamespace(__version__="0.40.2"))
    refused("diffusers 0.40.2 is too old, expected 0.41 or newer. Upgrade it", "dit", dit)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    refused("need the package diffusers.*Install it: pip install -r requirements-dap", "dit", dit)


# Models in pixel space

@pytest.mark.parametrize("given", ["file", "folder"])
def test_a_pixel_dit_comes_back(pixel, given):
    model = diffusion.load("pixel-dit", pixel if given == "file" else pixel.parent).to(CPU)
    assert (model.classes, model.vae, model.licence) == (("a", "b"), None, None)
    assert model.scheduler.config.clip_sample
    assert model.scheduler.config.variance_type == "fixed_small"

    written, _ = load_tensors(pixel)
    read = model.network.state_dict()
    assert read.keys() == written.keys()
    assert all(torch.equal(read[name], written[name]) for name in read)
    y = model.network(tiny_diffusion.noise(model), timestep=T, class_labels=torch.tensor([1, 2]))
    assert y.sample.shape == (2, 3, 8, 8)  # label 2 is none


def test_the_same_model_gives_the_same_bytes(pixel, tmp_path):
    again = tiny_diffusion.pixel_file(tmp_path, ["a", "b"])
    assert again.read_bytes() == pixel.read_bytes()


@pytest.mark.parametrize("shape", [{"patch": 3}, {"heads": 3}])
def test_a_pixel_dit_that_cannot_be_built(shape):
    with pytest.raises(ValueError, match="must be a multiple of"):
        diffusion.build_pixel_dit(8, 3, 2, **shape)


def without(name):
    def spoil(path):
        tensors, content = load_tensors(path)
        content["diffusion"].pop(name, None)
        save_tensors(path, {key: t for key, t in tensors.items() if key != name}, content)
    return spoil


@pytest.mark.parametrize("spoil", [
    *map(without, ("config", "noise", "classes", "proj_out_1.bias")),
    lambda path: save_tensors(path, {"x": torch.zeros(1)}),
    lambda path: path.write_bytes(path.read_bytes()[:-100])])
def test_a_damaged_pixel_dit(pixel, tmp_path, spoil):
    copy = shutil.copy(pixel, tmp_path)
    spoil(tmp_path / pixel.name)
    refused(f"{copy}: damaged", "pixel-dit", tmp_path)


def test_a_pixel_dit_that_is_not_there(pixel, tmp_path):
    refused("no weights are published, give --weights. Train them", "pixel-dit", None)
    refused("has no VAE. Leave it out", "pixel-dit", pixel, "somewhere")
    refused("pixel_dit.safetensors: no such file. Train a pixel-dit", "pixel-dit", tmp_path)
    (tmp_path / "net.pth").write_bytes(b"x")
    refused("found pickled weights .net.pth.", "pixel-dit", tmp_path / "net.pth")


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_there_and_back(channels):
    grey = torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8)
    pixels = torch.cat([grey, *([grey] * 2 if channels == 1 else [255 - grey, grey.flip(3)])], 1)
    x = diffusion.to_pixel_space(pixels, channels)
    assert x.shape == (4, channels, 8, 8)
    assert (x[0, 0, 0, 0], x[-1, 0, -1, -1]) == (-1, 1)
    assert torch.equal(diffusion.from_pixel_space(x), pixels)
    assert diffusion.from_pixel_space(torch.full((1, 1, 1, 1), 1.5)).max() == 255


def test_grey_is_the_mean_of_the_channels():
    pixels = torch.tensor([0, 60, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    assert diffusion.to_pixel_space(pixels, 1).item() == pytest.approx(105 / 127.5 - 1)
