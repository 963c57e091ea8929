"""The real images of a class: which ones, their latents (kept on disk), their noised features."""

import hashlib
import json

import PIL
import torch

from data.augment import to_device
from recover.dap.guidance import gather_reals
from utils.checkpoint import load_tensors, save_tensors
from utils.errors import UserError
from utils.seeding import stream

_VERSION = 1  # of the arithmetic behind the files


class RealLatents:
    """x_0 of the real images that each class is guided towards.

    real: ImageSet of the training images at the size that the model works at. backbone:
    recover.dap.backbones.Backbone. o: recover.dap.options.RealImages. vae: fingerprint of the VAE.
    folder: of the files.
    """

    def __init__(self, real, backbone, o, seed, vae, folder):
        self.real, self.backbone, self.o, self.seed = real, backbone, o, seed
        self.vae, self.folder = vae, folder

    def check(self):
        """Raise UserError for a class with fewer images than are asked for."""
        if self.o.reals == "all":
            return
        for name, indices in zip(self.real.classes, self.real.by_class, strict=True):
            if len(indices) < self.o.reals:
                raise UserError(f"class {name} has {len(indices)} training images, found --reals "
                                f"{self.o.reals}. Give --reals {len(indices)} or fewer, or --reals "
                                "all.")

    def indices(self, label):
        """Which images of the set are the real ones of a class, drawn without repetition."""
        own = self.real.by_class[label]
        if self.o.reals == "all":
            return own
        order = torch.randperm(len(own), generator=stream(self.seed, "dap reals", label))
        return own[order[: self.o.reals]]

    def latents(self, label):
        """x_0 [N, C, H, W] of a class, float32 on the device; from the file where there is one."""
        indices, device = self.indices(label), self.backbone.device
        if self.backbone.vae is None:
            return self.backbone.encode(self.real.pixels(indices))

        path = self.folder / f"latents_{self._key(indices)}.safetensors"
        if path.exists():
            return load_tensors(path)[0]["latents"].to(device)
        latents = self.backbone.encode(self.real.pixels(indices))
        save_tensors(path, {"latents": latents}, {"class": self.real.classes[label]})
        return latents

    def _key(self, indices):
        """A hash of what decides the latents: VAE, size, and the images' names, sizes and times.

        Another kind of device rounds otherwise, so it has files of its own.
        """
        images = []
        for i in indices.tolist():
            stat = None if self.real.paths is None else self.real.paths[i].stat()
            images.append([self.real.names[i], stat and [stat.st_size, stat.st_mtime_ns]])
        text = json.dumps([_VERSION, PIL.__version__, self.backbone.device.type, self.vae,
                           self.real.dataset, self.backbone.size, images])
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class RealFeatures:
    """phi(x_t^i, t) of the real images of a class, as guidance.Reals. Called with t.

    latents: [N, C, H, W]. condition: of the backbone for the class. key: of the stream of the
    noise, which is fixed per class and t. o: recover.dap.options.Sampling.
    """

    def __init__(self, backbone, latents, condition, key, o):
        self.backbone, self.latents, self.condition = backbone, latents, condition
        self.key, self.o = key, o

    @torch.no_grad()
    def __call__(self, t):
        noise = torch.randn(self.latents.shape, generator=stream(*self.key, t))
        noised = self.backbone.diffuse(self.latents, to_device(noise, self.latents.device), t)
        features = (self.backbone.features(part, t, self.condition)
                    for part in noised.split(self.o.batch_size))
        if self.o.mean_form == "class-mean":
            total = sum(z.sum(0, keepdim=True) for z in features)
            return gather_reals(total / len(noised))
        try:
            return gather_reals(torch.cat(list(features)), self.o.kernel)
        except ValueError as error:
            raise UserError(f"--kernel {self.o.kernel}: {error}. Remove copies of images from the "
                            "training folder, or give --kernel linear.") from None
