"""A diffusion model as DAP uses it: conditions, noise prediction, features, latents and pixels."""

import contextlib

import torch
from timm.data import ImageNetInfo

from data.names import is_numbered
from models.diffusion import from_pixel_space, to_pixel_space
from utils.errors import UserError
from utils.precision import autocast, compiled

_WNIDS = 1000  # labels of the published DiT
_VAE_IMAGES = 8  # that go through the VAE together: at 512 px its activations take a GB each


class _Reached(Exception):
    """The tapped layer has run: the rest of the network is not needed."""


class Backbone:
    """A frozen diffusion model on a device.

    model: models.diffusion.DiffusionModel. classes: names of the class folders. o: its options,
    recover.dap.options.Model. size: of choose_size. arithmetic: how the network runs;
    latents, distances and the VAE stay in float32.
    Raises UserError for classes or a layer that the model does not have.
    """

    def __init__(self, model, classes, o, size, arithmetic, device):
        self.model, self.classes, self.o, self.device = model.to(device), classes, o, device
        self.network, self.scheduler, self.vae = model.network, model.scheduler, model.vae
        self.size, self.precision = size, arithmetic.precision
        self.layer, self.tap = choose_layer(model, o.layer)
        self.labels = class_labels(model, classes) if model.text_encoder is None else None
        self.words = class_words(classes)
        if arithmetic.compile:
            compile_blocks(model)

    # The noise schedule

    def timesteps(self, steps):
        """The steps' times as ints, from noise to image: OpenAI's respacing of 1000."""
        self.scheduler.set_timesteps(steps)
        return self.scheduler.timesteps.tolist()

    def noise_level(self, t):
        """sqrt(1 - abar_t), the standard deviation of the noise in x_t."""
        return float((1 - self.scheduler.alphas_cumprod[t]).sqrt())

    def sigma(self, t):
        """Standard deviation of a step's noise: that of the posterior q(x_{t-1} | x_t, x_0).

        A learned variance lies between its square and beta_t. It is 0 in the last step.
        """
        before, abar = self.scheduler.previous_timestep(t), self.scheduler.alphas_cumprod
        abar_before = float(abar[before]) if before >= 0 else 1.0
        abar_t = float(abar[t])
        return ((1 - abar_before) / (1 - abar_t) * (1 - abar_t / abar_before)) ** 0.5

    def diffuse(self, x0, noise, t):
        """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise."""
        # Plain numbers: the scheduler's own method would move its tables to the GPU.
        return float(self.scheduler.alphas_cumprod[t]) ** 0.5 * x0 + self.noise_level(t) * noise

    def denoise(self, prediction, t, x, generators):
        """x~_{t-1} of a DDPM step, with the learned variance where the network predicts one.

        prediction: of `predict`. generators: one for each image; its noise is drawn on the CPU.
        """
        return self.scheduler.step(prediction, t, x, generator=generators).prev_sample

    def noise(self, generators):
        """x_T ~ N(0, I), an image from each generator: float32 [n, C, H, W]."""
        draws = [torch.randn(1, *self.latent_shape, generator=g) for g in generators]
        return torch.cat(draws).to(self.device)

    # The network

    @property
    def latent_shape(self):
        """(C, H, W) of what is diffused."""
        side = self.size // vae_factor(self.model)
        return self.network.config.in_channels, side, side

    def condition(self, c):
        """(condition, null condition) of class number c: labels, or embeddings of text [L, E]."""
        if self.labels is not None:
            null = self.network.config.num_embeds_ada_norm
            return tuple(torch.tensor(label, device=self.device)
                         for label in (self.labels[c], null))
        prompt = self.o.prompt.replace("{}", self.words[c])
        return self._embed(prompt), self._embed(self.o.negative_prompt)

    @torch.no_grad()
    def _embed(self, text):
        tokenizer = self.model.tokenizer
        ids = tokenizer(text, padding="max_length", truncation=True, return_tensors="pt",
                        max_length=tokenizer.model_max_length).input_ids
        return self.model.text_encoder(ids.to(self.device))[0][0].float()

    def _run(self, x, t, conditions):
        """The network's output, float32. conditions: one per image, stacked."""
        times = torch.full((len(x),), t, device=self.device)
        with autocast(self.device, self.precision):
            if self.model.text_encoder is None:
                output = self.network(x, timestep=times, class_labels=conditions)
            else:
                output = self.network(x, times, encoder_hidden_states=conditions)
        return output.sample.float()

    def predict(self, x, t, condition, scale, channels):
        """Noise, and variance where the network predicts one, of images x of one class.

        Classifier-free guidance: eps = eps_null + scale (eps_class - eps_null) in the first
        `channels` channels, or all where it is None. The others, and the variance, are those of the
        class. Returns [B, C or 2 C, H, W].
        """
        channels = channels or x.shape[1]
        own, null = (part.expand(len(x), *part.shape) for part in condition)
        if scale == 1:
            return self._run(x, t, own)
        with_class, without = self._run(torch.cat([x, x]), t, torch.cat([own, null])).chunk(2)
        guided = without[:, :channels] + scale * (with_class - without)[:, :channels]
        return torch.cat([guided, with_class[:, channels:]], 1)

    def features(self, x, t, condition):
        """phi(x_t, t): output of the tapped layer for the class, float32 [B, D].

        Layers behind the tapped one do not run.
        """
        outputs, own = [], condition[0].expand(len(x), *condition[0].shape)

        def stop(*arguments):
            output = arguments[2]
            outputs.append(output[0] if isinstance(output, tuple) else output)
            raise _Reached

        hook = self.tap.register_forward_hook(stop)
        try:
            with contextlib.suppress(_Reached):
                self._run(x, t, own)
        finally:
            hook.remove()
        z = outputs[0].float()
        if self.o.pool == "mean":
            z = z.mean(1) if z.dim() == 3 else z.mean((2, 3))
        return z.flatten(1)

    # Latents and pixels

    @torch.no_grad()
    def encode(self, pixels):
        """uint8 [n, 3, S, S] -> x_0: the VAE's mean times its scale, or pixels from -1 to 1."""
        if self.vae is None:
            return to_pixel_space(pixels, self.network.config.in_channels).to(self.device)
        images = to_pixel_space(pixels, 3).split(_VAE_IMAGES)
        means = [self.vae.encode(part.to(self.device)).latent_dist.mean for part in images]
        return torch.cat(means) * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, x):
        """x_0 -> uint8 [n, 3, S, S] on the CPU."""
        if self.vae is None:
            return from_pixel_space(x).cpu()
        latents = (x / self.vae.config.scaling_factor).split(_VAE_IMAGES)
        return torch.cat([from_pixel_space(self.vae.decode(part).sample).cpu() for part in latents])


# Sizes

def vae_factor(model):
    """Pixels along a side of the image for each of the latents."""
    return 1 if model.vae is None else 2 ** (len(model.vae.config.block_out_channels) - 1)


def choose_size(model, size):
    """The side of the model's images in pixels: the given one, or the one it was trained at.

    Raises UserError for a size that network or VAE cannot take.
    """
    factor, config = vae_factor(model), model.network.config
    trained = config.sample_size * factor
    size = trained if size is None else size
    if model.kind != "sd":
        if size != trained:
            raise UserError(f"--sample-size {size}: this {model.kind} model was trained at "
                            f"{trained} px and takes no other size. Leave it out; --image-size "
                            "sets the size that images are saved at.")
        return size
    # Every down block of the U-Net but the last halves the side.
    multiple = factor * 2 ** (len(config.block_out_channels) - 1)
    if size % multiple:
        raise UserError(f"--sample-size {size}: the VAE and the U-Net take multiples of {multiple} "
                        f"px. Choose one, such as {max(multiple, size - size % multiple)}.")
    return size


# Layers

def layers(model):
    """{name: module} of the layers whose output can be phi, in order."""
    if model.kind != "sd":
        return {str(k): block for k, block in enumerate(model.network.transformer_blocks)}
    unet = model.network
    down = {f"down{k}": block for k, block in enumerate(unet.down_blocks)}
    up = {f"up{k}": block for k, block in enumerate(unet.up_blocks)}
    return {**down, "mid": unet.mid_block, **up}


def choose_layer(model, name):
    """(name, module) of a layer: the given one, or the middle of the range the paper found best.

    That is the mid block of a U-Net, and block 7 of DiT's 28, counted from 0, or in proportion.
    """
    known = layers(model)
    default = "mid" if model.kind == "sd" else str(len(known) // 4)
    name = default if name is None else name
    if name not in known:
        raise UserError(f"--layer {name}: the {model.kind} backbone has no such layer, it has "
                        f"{', '.join(known)}. Choose one of them, or leave --layer out "
                        f"({default}).")
    return name, known[name]


def compile_blocks(model):
    """torch.compile each block of the network, whose hooks stay outside of what is compiled."""
    for block in layers(model).values():
        block.forward = compiled(block.forward)


# Classes

def class_labels(model, classes):
    """The labels of class names, for a model that knows classes by label.

    Raises UserError for a class that the model was not trained on.
    """
    known = model.classes
    if known is None and model.network.config.num_embeds_ada_norm == _WNIDS:
        known = ImageNetInfo("imagenet-1k").label_names()
    if known is None or (is_numbered(classes) and len(classes) == len(known)):
        count = model.network.config.num_embeds_ada_norm
        known = classes if len(classes) == count else ()

    places = {name: label for label, name in enumerate(known)}
    strange = next((name for name in classes if name not in places), None)
    if strange is not None:
        count = model.network.config.num_embeds_ada_norm
        trained = (f"on {', '.join(model.classes[:3])}, ..." if model.classes else
                   "on ImageNet-1K, whose class folders are wnids (n01440764, ...)"
                   if count == _WNIDS else f"on {count} classes without names")
        raise UserError(f"the class {strange!r} is none that the {model.kind} model knows: it was "
                        f"trained {trained} and samples no others. Choose such classes with "
                        "--classes, train a model on your own images (python -m "
                        "models.pretrain_diffusion), or give --backbone sd, which is told class "
                        "names in words.")
    return [places[name] for name in classes]


def class_words(classes):
    """What classes are called in a prompt: their first ImageNet name, or the folder's in words.

    Where two classes share a name (crane, maillot), its definition is added.
    """
    words = [_description(name).split(",")[0] for name in classes]
    return [_description(name, detailed=True) if words.count(word) > 1 else word
            for name, word in zip(classes, words, strict=True)]


def _description(name, detailed=False):
    try:
        return ImageNetInfo("imagenet-1k").label_name_to_description(name, detailed=detailed)
    except KeyError:
        return name.replace("_", " ")
