"""A whole pipeline of tiny random networks: 16 px images, 2x2 latents times four, captions of a few words."""

from typing import Any

import torch
from diffusers import DDIMScheduler

from mdrepro.models import text, vae
from mdrepro.models.pipeline import MobileDiffusionPipeline
from mdrepro.models.unet import MobileDiffusionUNet

WORDS = ["a", "red", "blue", "star", "circle", "left", "of", ","]
CROSS = 32


def unet(**changes: Any) -> MobileDiffusionUNet:
    torch.manual_seed(0)
    config = {
        "sample_size": 8,
        "in_channels": 8,
        "out_channels": 8,
        "cross_attention_dim": CROSS,
        "block_out_channels": (16, 32, 32),
        "mid_transformer_blocks": 1,
        "attention_head_dim": 16,
        "norm_num_groups": 8,
    }
    return MobileDiffusionUNet(**(config | changes)).eval()


def autoencoder(scaling_factor: float = 0.5) -> vae.Autoencoder:
    torch.manual_seed(1)
    model = vae.build("ours", 8).eval()
    model.register_to_config(scaling_factor=scaling_factor)
    return model


def scheduler(**changes: Any) -> DDIMScheduler:
    config = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "timestep_spacing": "trailing",
    }
    return DDIMScheduler(**(config | changes))


def pipeline(**components: Any) -> MobileDiffusionPipeline:
    tokenizer = text.word_tokenizer(WORDS, 10)
    torch.manual_seed(2)
    parts = {
        "tokenizer": tokenizer,
        "text_encoder": text.small_encoder(tokenizer, width=CROSS, layers=2, heads=2),
        "unet": unet(),
        "vae": autoencoder(),
        "scheduler": scheduler(),
        "default_steps": 4,
        "default_guidance": 3.0,
    }
    made = MobileDiffusionPipeline(**(parts | components))
    made.set_progress_bar_config(disable=True)
    return made


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]
