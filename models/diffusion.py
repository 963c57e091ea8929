"""Diffusion models by name or folder, and small ones of our own in pixel space.

This is the only file that imports diffusers, when a function needs it. Weights come from
safetensors alone: nothing is unpickled.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from models.names import PUBLISHED_BACKBONES
from utils import checkpoint, options
from utils.distributed import first_on_node
from utils.errors import UserError
from utils.files import damaged

_INSTALL = "pip install -r requirements-dap.txt"
_LEAST = (0, 41)  # older versions were not tried
_LICENCES = {
    "dit": "The published DiT-XL/2 weights are CC-BY-NC-4.0: images made with them are for "
           "non-commercial use.",
    "sd": "The published Stable Diffusion weights are CreativeML OpenRAIL-M, whose use "
          "restrictions hold for images made with them.",
}
_NETWORKS = {"dit": ("transformer", "DiTTransformer2DModel"),
             "sd": ("unet", "UNet2DConditionModel")}
# What a file of weights does not say: OpenAI's and the latent diffusion authors' training.
_NOISE = {"dit": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
          "sd": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}}
_OF_TRAINING = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas",
                "prediction_type")


@dataclass
class DiffusionModel:
    """A frozen diffusion model and what surrounds it.

    kind: one of models.names.BACKBONES. network: DiTTransformer2DModel or UNet2DConditionModel.
    scheduler: DDPMScheduler with OpenAI's respacing. vae: AutoencoderKL, or None in pixel space.
    tokenizer, text_encoder: CLIP's, or None where classes are labels. classes: names in the order
    of the labels, or None where the file does not say them. licence: of the weights, or None.
    """

    kind: str
    network: nn.Module
    scheduler: object
    vae: nn.Module | None = None
    tokenizer: object | None = None
    text_encoder: nn.Module | None = None
    classes: tuple | None = None
    licence: str | None = None

    @property
    def modules(self):
        """{name: module} of the networks that there are."""
        named = {"network": self.network, "vae": self.vae, "text_encoder": self.text_encoder}
        return {name: module for name, module in named.items() if module is not None}

    def to(self, device):
        """Frozen, in eval mode and on a device. Returns itself."""
        for module in self.modules.values():
            module.requires_grad_(False).eval().to(device)
        return self

    def fingerprint(self):
        """SHA-256 over all that decides the images: weights, configurations, noise, tokens."""
        parts = [noise_settings(self.scheduler)]
        parts += [[name, module_hash(module)] for name, module in self.modules.items()]
        if self.tokenizer is not None:
            parts.append(sorted(self.tokenizer.get_vocab().items()))
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def module_hash(module):
    """SHA-256 over the weights and the configuration of a module of diffusers or transformers."""
    config = module.config if isinstance(module.config, dict) else module.config.to_dict()
    facts = {name: value for name, value in config.items()
             if not name.startswith("_") and name != "transformers_version"}
    text = json.dumps([facts, checkpoint.tensors_hash(module.state_dict())], sort_keys=True,
                      default=str)
    return hashlib.sha256(text.encode()).hexdigest()


# diffusers itself

def diffusers():
    """The package, or a UserError that says how to install it."""
    try:
        import diffusers as package
    except ImportError as error:
        raise UserError(f"diffusion models need the package diffusers ({error}). Install it: "
                        f"{_INSTALL}") from None
    version = tuple(int(part) for part in package.__version__.split(".")[:2])
    if version < _LEAST:
        raise UserError(f"diffusers {package.__version__} is too old, expected "
                        f"{'.'.join(map(str, _LEAST))} or newer. Upgrade it: {_INSTALL}")
    package.utils.logging.set_verbosity_error()
    package.utils.logging.disable_progress_bar()
    return package


def ddpm(**settings):
    """A DDPMScheduler (Ho et al. 2020) with the respacing of OpenAI's code.

    diffusers' own defaults are other ones. settings: of its constructor; what is not given is
    linear betas 1e-4 ... 0.02, fixed small variance, and no clipping.
    """
    own = {"variance_type": "fixed_small", "clip_sample": False, "timestep_spacing": "linspace"}
    return diffusers().DDPMScheduler(**{**own, **settings})


def noise_settings(scheduler):
    """{name: value} that make the same scheduler again."""
    names = (*_OF_TRAINING, "variance_type", "clip_sample", "clip_sample_range")
    return {name: scheduler.config[name] for name in names if scheduler.config[name] is not None}


# Published models

def load(kind, weights, vae_weights=None):
    """The DiffusionModel of a kind in models.names.BACKBONES.

    weights: a name on the Hugging Face hub, NAME@REVISION, or a local folder as diffusers keeps it;
    for pixel-dit the file of models.pretrain_diffusion or its folder. None for the published ones.
    vae_weights: likewise, for another VAE than that of `weights`.
    Raises UserError for what is missing, pickled, damaged or of another architecture.
    """
    diffusers()
    if kind == "pixel-dit":
        if vae_weights is not None:
            raise UserError(f"--vae-weights {vae_weights}: a pixel-dit has no VAE. Leave it out.")
        return load_pixel_dit(weights)

    source = _Source(weights or PUBLISHED_BACKBONES[kind], "--weights")
    folder, network_class = _NETWORKS[kind]
    network = source.load(network_class, folder)
    noise = {**_NOISE[kind], **source.noise()}
    if vae_weights is None:
        vae = source.load("AutoencoderKL", "vae")
    else:
        vae = _Source(vae_weights, "--vae-weights").load_alone("AutoencoderKL", "vae")
    check_channels(network, vae, source.name)

    if kind == "dit":
        learned = network.config.out_channels == 2 * network.config.in_channels
        scheduler = ddpm(**noise, variance_type="learned_range" if learned else "fixed_small")
        return DiffusionModel(kind, network, scheduler, vae, licence=_LICENCES[kind])
    tokenizer, text_encoder = source.load_clip()
    return DiffusionModel(kind, network, ddpm(**noise), vae, tokenizer, text_encoder,
                          licence=_LICENCES[kind])


def check_channels(network, vae, name):
    """Raise UserError where a VAE's latents are not what the network takes."""
    takes, gives = network.config.in_channels, vae.config.latent_channels
    if takes != gives:
        raise UserError(f"{name}: the diffusion network takes {takes} channels, the VAE's latents "
                        f"have {gives}. Give the VAE that the network was trained with.")


class _Source:
    """A folder of diffusers, or a repository on the hub, as "NAME" or "NAME@REVISION".

    option: the one that names it, for sentences.
    """

    def __init__(self, weights, option):
        self.name, self.option = str(weights), option
        folder = options.path(self.name)
        self.local = folder if folder.is_dir() else None
        if self.local is None and self.name.startswith((".", "/", "~")):
            raise UserError(f"{folder}: no such folder of a diffusion model. Expected what "
                            "diffusers' save_pretrained writes, or a name on the Hugging Face hub.")
        self.repository, _, revision = self.name.partition("@")
        self.revision = revision or None

    def load(self, class_name, subfolder):
        """A network of diffusers from a sub-folder, or from the folder itself if that is it."""
        if self.local is not None:
            subfolder = self._check(class_name, subfolder)
        model_class = getattr(diffusers(), class_name)
        with first_on_node():
            try:
                model, report = model_class.from_pretrained(
                    self.local or self.repository, subfolder=subfolder, revision=self.revision,
                    use_safetensors=True, output_loading_info=True, low_cpu_mem_usage=False)
            except Exception as error:  # diffusers and its HTTP library raise many kinds
                raise UserError(self._not_loaded(f"{subfolder or class_name}", error)) from None

        wrong = [*report["missing_keys"], *report["unexpected_keys"]]
        wrong += [str(entry) for entry in report.get("mismatched_keys") or ()]
        self._check_names(wrong, subfolder or ".")
        return model

    def load_alone(self, class_name, subfolder):
        """Likewise, from a repository that holds this network alone, or a whole model's."""
        if self.local is not None:
            return self.load(class_name, subfolder)
        try:
            return self.load(class_name, "")
        except UserError:
            return self.load(class_name, subfolder)

    def _check_names(self, wrong, folder):
        """Raise UserError when there are names of wrong tensors."""
        if wrong:
            raise UserError(f"{self.name}: the weights in {folder} are not those of its "
                            f"config.json: {len(wrong)} tensors are missing, surplus or of another "
                            f"shape (the first is {wrong[0]}). Fetch the model again.")

    def _check(self, class_name, subfolder):
        """The sub-folder of a local model, after looking at what is in it."""
        index = self.local / subfolder / "config.json"
        if not index.exists() and (self.local / "config.json").exists():
            subfolder, index = "", self.local / "config.json"
        if not index.exists():
            present = sorted(path.parent.name for path in self.local.glob("*/config.json"))
            raise UserError(f"{self.local}: no {subfolder}/config.json; found "
                            f"{', '.join(present) or 'no network'}. Expected a folder that "
                            f"diffusers wrote, with a {class_name} in {subfolder}.")
        try:
            found = json.loads(index.read_text())["_class_name"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{index}: damaged ({checkpoint.first_line(error)}). Fetch the model "
                            "again.") from None
        # DiT's published folder still has the name of before the class was split.
        if found not in (class_name, class_name.replace("DiT", "")):
            raise UserError(f"{index}: describes a {found}, expected {class_name}. Choose another "
                            "--backbone, or another folder.")

        files = [path.name for path in index.parent.iterdir()]
        if not any(name.endswith(".safetensors") for name in files):
            pickled = [name for name in files if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
            raise UserError(f"{index.parent}: {pickled_words(pickled)}")
        return subfolder

    def noise(self):
        """What scheduler_config.json says of the noise that the model was trained with, or {}."""
        if self.local is not None:
            file = self.local / "scheduler" / "scheduler_config.json"
            if not file.exists():
                return {}
        try:
            config = diffusers().DDPMScheduler.load_config(
                self.local or self.repository, subfolder="scheduler", revision=self.revision)
        except Exception as error:
            raise UserError(self._not_loaded("scheduler", error)) from None
        return {name: config[name] for name in _OF_TRAINING if config.get(name) is not None}

    def load_clip(self):
        """(tokenizer, text encoder) of CLIP, which Stable Diffusion reads its prompts with."""
        try:
            from transformers import CLIPTextModel, CLIPTokenizer
        except ImportError as error:
            raise UserError(f"Stable Diffusion needs the package transformers ({error}). Install "
                            f"it: {_INSTALL}") from None
        where = {"revision": self.revision} if self.revision else {}
        place = str(self.local or self.repository)
        with first_on_node():
            try:
                tokenizer = CLIPTokenizer.from_pretrained(place, subfolder="tokenizer", **where)
                text_encoder, report = CLIPTextModel.from_pretrained(
                    place, subfolder="text_encoder", use_safetensors=True,
                    output_loading_info=True, **where)
            except Exception as error:
                raise UserError(self._not_loaded("text_encoder or tokenizer", error)) from None

        # transformers fills what is missing with random weights, and an absent vocabulary with
        # nothing. Surplus tensors are left aside: older files hold position_ids.
        self._check_names(sorted(report["missing_keys"]), "text_encoder")
        words, rows = len(tokenizer), text_encoder.config.vocab_size
        if words != rows:
            raise UserError(f"{self.name}: the tokenizer knows {words} tokens, the text encoder "
                            f"expects {rows}. Fetch the model's tokenizer folder again.")
        return tokenizer, text_encoder.float()

    def _not_loaded(self, part, error):
        if self.local is not None:
            return (f"{self.local}: its {part} could not be read ({checkpoint.first_line(error)}). "
                    "Expected a folder that diffusers wrote, in safetensors. Fetch it again.")
        return (f"{self.name}: its {part} could not be fetched as safetensors "
                f"({checkpoint.first_line(error)}). Fetch the model elsewhere and give its folder "
                f"as {self.option}, or name another revision (NAME@REVISION).")


def pickled_words(files):
    """Why a folder without safetensors is refused. files: names of pickled weights in it."""
    found = f"found pickled weights ({', '.join(files)})" if files else "found no weights"
    return (f"{found}, expected safetensors, because a pickle can run anybody's code. The model's "
            "page on the hub may have them in another revision (DiT-XL/2-256: refs/pr/1).")


# Small models in pixel space

PIXEL_FILE = "pixel_dit.safetensors"


def build_pixel_dit(size, channels, classes, *, patch=2, width=64, layers=6, heads=4):
    """A DiT (Peebles and Xie 2023) with random weights that works on pixels, not on latents.

    size: side of its images in pixels. channels: 1 (grey) or 3. classes: how many; label `classes`
    means none (for classifier-free guidance), and training replaces one label in ten by it.
    Input and output are [n, channels, size, size]; it predicts the noise alone, no variance.
    """
    if size % patch or width % heads:
        raise ValueError(f"size {size} must be a multiple of patch {patch}, and width {width} of "
                         f"heads {heads}")
    return diffusers().DiTTransformer2DModel(
        num_attention_heads=heads, attention_head_dim=width // heads, in_channels=channels,
        out_channels=channels, num_layers=layers, sample_size=size, patch_size=patch,
        num_embeds_ada_norm=classes)


def pixel_noise():
    """The DDPM schedule of pixel-space models: predictions are clipped to the range of pixels."""
    return ddpm(clip_sample=True)


def save_pixel_dit(path, network, classes, about):
    """Write a pixel-space DiT whole or not at all.

    classes: names in the order of the labels. about: JSON-able facts of its training.
    """
    config = {name: value for name, value in network.config.items() if not name.startswith("_")}
    content = {"diffusion": {"config": config, "noise": noise_settings(pixel_noise()),
                             "classes": list(classes)}, "about": about}
    checkpoint.save_tensors(path, network.state_dict(), content)


def load_pixel_dit(weights):
    """The DiffusionModel of a file of save_pixel_dit, or of the folder that holds it."""
    if weights is None:
        raise UserError("--backbone pixel-dit: no weights are published, give --weights. Train "
                        "them with python -m models.pretrain_diffusion.")
    path = Path(options.path(str(weights)))
    path = path / PIXEL_FILE if path.is_dir() else path
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt") and path.exists():
        raise UserError(f"{path}: {pickled_words([path.name])}")
    if not path.exists():
        raise UserError(f"{path}: no such file. Train a pixel-dit with python -m "
                        "models.pretrain_diffusion, or give the right --weights.")

    tensors, content = checkpoint.load_tensors(path)
    try:
        described = content["diffusion"]
        network = diffusers().DiTTransformer2DModel(**described["config"])
        network.load_state_dict(tensors)
        scheduler, classes = ddpm(**described["noise"]), tuple(described["classes"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise damaged(path, "models.pretrain_diffusion", error) from None
    return DiffusionModel("pixel-dit", network, scheduler, classes=classes)


def to_pixel_space(pixels, channels):
    """uint8 [n, 3, S, S] -> float32 [n, channels, S, S] from -1 (black) to 1 (white)."""
    x = pixels.float() / 127.5 - 1
    return x.mean(1, keepdim=True) if channels == 1 else x


@torch.no_grad()
def from_pixel_space(x):
    """float [n, 1 or 3, S, S] from -1 to 1 -> uint8 [n, 3, S, S], clamped and rounded."""
    pixels = ((x.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return pixels.expand(-1, 3, -1, -1) if pixels.shape[1] == 1 else pixels
