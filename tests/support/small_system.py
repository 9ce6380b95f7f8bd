"""A whole text-to-image system of a few thousand random weights."""

import torch
from diffusers import DDIMScheduler

from mdrepro.models import text
from mdrepro.models.mobilediffusion.unet import MobileDiffusionUNet
from mdrepro.models.mobilediffusion.vae import Autoencoder
from mdrepro.models.pipeline import MobileDiffusionPipeline

WORDS = ("a", "red", "blue", "star", "circle", "left", "of")


def build() -> MobileDiffusionPipeline:
    """8 x 8 px, guidance 3, 3 steps; every weight drawn, the gains of norms too."""
    torch.manual_seed(0)
    tokenizer = text.word_tokenizer(WORDS, tokens=9)
    encoder = text.small_encoder(tokenizer, width=16, layers=1, heads=2, registers=2)
    unet = MobileDiffusionUNet(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        cross_attention_dim=16,
        block_out_channels=(16,),
        resnets_per_level=(1,),
        transformer_blocks=(0,),
        mid_transformer_blocks=1,
        self_attention=(False,),
        cross_attention=(False,),
        separable_conv=(False,),
        attention_head_dim=8,
        norm_num_groups=4,
        time_embed_dim=16,
    )
    vae = Autoencoder(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=8,
        scaling_factor=0.7,
        shift_factor=0.2,
    )
    for network in (encoder, unet, vae):
        with torch.no_grad():
            for weight in network.parameters():
                if weight.ndim == 1:
                    weight.add_(0.3 * torch.randn_like(weight))
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        timestep_spacing="trailing",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
    )
    return MobileDiffusionPipeline(vae, encoder, tokenizer, unet, scheduler, default_steps=3, default_guidance=3.0)
