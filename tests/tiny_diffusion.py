"""Tiny random diffusion models, in the folders that diffusers writes, and pixel-dit files.

Whoever imports this begins with pytest.importorskip("diffusers").
"""

import json

import torch

from models import diffusion
from utils.seeding import seeded

LATENT = 8  # side of the latents; images have eight times as many pixels
_WORDS = ("a", "photo", "of", "tench", "church", "golf", "ball")


def dit(seed=0, **changed):
    """A random DiTTransformer2DModel with the inputs and outputs of DiT-XL/2, but 8 px latents."""
    config = {"num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4,
              "out_channels": 8, "num_layers": 4, "sample_size": LATENT, "patch_size": 2,
              "num_embeds_ada_norm": 1000, "attention_bias": True, **changed}
    with seeded(seed, "tiny", "dit"):
        return diffusion.diffusers().DiTTransformer2DModel(**config)


def vae(seed=0, **changed):
    """A random AutoencoderKL: images [n, 3, 8s, 8s], latents [n, 4, s, s]."""
    config = {"block_out_channels": (16, 16, 16, 16), "latent_channels": 4, "norm_num_groups": 8,
              "down_block_types": ("DownEncoderBlock2D",) * 4,
              "up_block_types": ("UpDecoderBlock2D",) * 4, "sample_size": 8 * LATENT, **changed}
    with seeded(seed, "tiny", "vae"):
        return diffusion.diffusers().AutoencoderKL(**config)


def unet(seed=0, **changed):
    """A random UNet2DConditionModel of two levels that reads text of width 16."""
    config = {"sample_size": LATENT, "in_channels": 4, "out_channels": 4, "layers_per_block": 1,
              "block_out_channels": (16, 32), "norm_num_groups": 8, "cross_attention_dim": 16,
              "attention_head_dim": 2, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
              "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), **changed}
    with seeded(seed, "tiny", "unet"):
        return diffusion.diffusers().UNet2DConditionModel(**config)


def vae_folder(root, seed=0, **changed):
    """A folder of a VAE alone, as those of other trainings are published. Returns root."""
    vae(seed, **changed).save_pretrained(root)
    return root


def dit_folder(root, seed=0, **changed):
    """transformer/, vae/ and scheduler/ as of facebook/DiT-XL-2-256. Returns root.

    changed: of the DiT's config.
    """
    dit(seed, **changed).save_pretrained(root / "transformer")
    config = root / "transformer/config.json"
    # The published file was written before diffusers gave DiT a class of its own.
    text = config.read_text().replace("DiTTransformer2DModel", "Transformer2DModel")
    config.write_text(text)
    vae_folder(root / "vae", seed)
    diffusion.diffusers().DDIMScheduler(
        beta_schedule="linear", beta_start=1e-4, beta_end=0.02).save_pretrained(root / "scheduler")
    return root


def sd_folder(root, seed=0, **changed):
    """unet/, vae/, text_encoder/, tokenizer/ and scheduler/ as of Stable Diffusion. Returns root.

    changed: of the U-Net's config. The tokenizer knows a few words and every letter.
    """
    unet(seed, **changed).save_pretrained(root / "unet")
    vae_folder(root / "vae", seed)
    diffusion.diffusers().PNDMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, skip_prk_steps=True,
        steps_offset=1).save_pretrained(root / "scheduler")
    _clip(root, seed)
    return root


def _clip(root, seed):
    from transformers import CLIPTextConfig, CLIPTextModel

    vocabulary, merges = _byte_pairs()
    (root / "tokenizer").mkdir(parents=True, exist_ok=True)
    (root / "tokenizer/vocab.json").write_text(json.dumps(vocabulary))
    (root / "tokenizer/merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    (root / "tokenizer/tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77,
         "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>",
         "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}))

    config = CLIPTextConfig(
        vocab_size=len(vocabulary), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=77, projection_dim=16,
        bos_token_id=vocabulary["<|startoftext|>"], eos_token_id=vocabulary["<|endoftext|>"],
        pad_token_id=vocabulary["<|endoftext|>"])
    with seeded(seed, "tiny", "clip"):
        CLIPTextModel(config).save_pretrained(root / "text_encoder")


def _byte_pairs():
    """({token: number}, merges) of a byte-pair encoding of letters and of _WORDS."""
    letters = [chr(c) for c in range(ord("!"), ord("~") + 1)]
    tokens, merges = [*letters, *(letter + "</w>" for letter in letters)], []
    for word in _WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            pair = f"{parts[0]} {parts[1]}"
            if pair not in merges:
                merges.append(pair)
            parts[:2] = [parts[0] + parts[1]]
            tokens.append(parts[0])
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    return {token: number for number, token in enumerate(tokens)}, merges


def pixel_file(root, classes, size=8, channels=3, seed=0, **changed):
    """A pixel-dit with random weights, as models.pretrain_diffusion writes it. Returns its path.

    changed: patch, width, layers or heads of build_pixel_dit.
    """
    shape = {"patch": 2, "width": 16, "layers": 3, "heads": 2, **changed}
    with seeded(seed, "tiny", "pixel"):
        network = diffusion.build_pixel_dit(size, channels, len(classes), **shape)
    path = root / diffusion.PIXEL_FILE
    diffusion.save_pixel_dit(path, network, classes, {})
    return path


def noise(model, count=2, seed=0):
    """Gaussian noise of the shape that a DiffusionModel's network takes: float32 [count, ...]."""
    config = model.network.config
    with seeded(seed, "tiny", "noise"):
        return torch.randn(count, config.in_channels, config.sample_size, config.sample_size)
