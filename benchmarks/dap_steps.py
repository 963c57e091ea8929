"""What benchmarks.dap times: sampling of one unit, plain, guided, and with real features."""

from dataclasses import replace

import torch

from models import diffusion
from recover.dap.backbones import Backbone, choose_size
from recover.dap.latents import RealFeatures
from recover.dap.options import Model, Sampling
from recover.dap.sampler import sample
from utils.precision import Arithmetic
from utils.seeding import seeded, stream


def random_dit(width, latent_size, layers):
    """A DiffusionModel of random weights that predicts noise and variance, as DiT-XL/2."""
    with seeded("benchmark", "dit"):
        network = diffusion.diffusers().DiTTransformer2DModel(
            num_attention_heads=16, attention_head_dim=width // 16, in_channels=4, out_channels=8,
            num_layers=layers, sample_size=latent_size, num_embeds_ada_norm=1000)
    scheduler = diffusion.ddpm(variance_type="learned_range")
    return diffusion.DiffusionModel("dit", network, scheduler)


def variants(args, device):
    """{name: function that samples a unit}. args: of benchmarks.dap."""
    model = random_dit(args.width, args.latent_size, args.layers)
    backbone = Backbone(model, ["n01440764"], Model(layer=str(args.layer)),
                        choose_size(model, None), Arithmetic(args.precision, args.compile), device)
    condition = backbone.condition(0)
    guided = Sampling(gamma=1.0, steps=args.steps, guide_to=max(1, args.steps // 2), cfg_scale=4.0,
                      cfg_channels=3, batch_size=args.batch_size)
    plain = replace(guided, gamma=0.0)

    shape = (args.reals, *backbone.latent_shape)
    latents = torch.randn(shape, generator=stream("benchmark", "reals")).to(device)
    features = RealFeatures(backbone, latents, condition, ("benchmark",), guided)
    known = {}

    def given(t):
        if t not in known:
            known[t] = features(t)
        return known[t]

    def run(o, reals):
        generators = [stream("benchmark", i) for i in range(args.batch_size)]
        return sample(backbone, condition, generators, reals, o)

    return {"plain": lambda: run(plain, None), "guided": lambda: run(guided, given),
            "with reals": lambda: run(guided, features)}


def sample_once(args, device, name):
    """Run one variant, in a process that measures its memory."""
    variants(args, device)[name]()


def expected_ratios(args):
    """{variant: seconds in proportion to plain sampling} from the number of blocks alone."""
    share = max(1, args.steps // 2) / args.steps
    blocks = share * (args.layer + 1) / args.layers
    return {"plain": 1.0, "guided": 1 + blocks,
            "with reals": 1 + blocks * (1 + args.reals / (2 * args.batch_size))}
