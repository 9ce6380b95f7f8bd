"""A whole pipeline of tiny random networks: 16 px images, 2x2 latents times four, captions of a few words."""

from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from mdrepro.models import text
from mdrepro.models.mobilediffusion import vae
from mdrepro.models.mobilediffusion.unet import MobileDiffusionUNet
from mdrepro.models.pipeline import MobileDiffusionPipeline

WORDS = ["a", "red", "blue", "star", "circle", "left", "of", ","]
CROSS = 32
PROMPTS = [f"a {first} left of a {second}" for first in ("red star", "star", "blue circle") for second in WORDS[1:5]]
SHORT = {"steps": 2, "guidance": 2.0, "sampler": "ddim", "seed": 5}
"""Settings of short sets of images."""

UNET: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "cross_attention_dim": 24,
    "block_out_channels": (16, 32, 64),
    "mid_transformer_blocks": 2,
    "attention_head_dim": 16,
    "norm_num_groups": 8,
}
"""A MobileDiffusionUNet that differs from the paper's in its numbers alone."""


def unet(**changes: Any) -> MobileDiffusionUNet:
    """One that fits the other parts here: 8 latent channels, text of width `CROSS`."""
    torch.manual_seed(0)
    parts = {"in_channels": 8, "out_channels": 8, "cross_attention_dim": CROSS}
    smaller = {"block_out_channels": (16, 32, 32), "mid_transformer_blocks": 1}
    return MobileDiffusionUNet(**(UNET | parts | smaller | changes)).eval()


def sd_unet() -> UNet2DConditionModel:
    """diffusers' class, two levels, 4 latent channels, text of width `CROSS`."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=CROSS,
        attention_head_dim=8,
        norm_num_groups=8,
        layers_per_block=1,
    ).eval()


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
