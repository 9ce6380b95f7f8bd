"""Training runs of the quick tier for what a paper varies: MobileDiffusion's design rules one by one, SnapFusion's
evolution without robust training, and its half-width decoder; see `mdrepro.training.recipes.registry`.

All rows of a table are trained in the same way: they compare with each other and with no other table's rows.
"""

from collections.abc import Mapping
from dataclasses import replace

from mdrepro.diffusion.levels import V_FROM_PURE_NOISE
from mdrepro.training.engine.config import LoopConfig
from mdrepro.training.recipes import quick
from mdrepro.training.recipes.defaults import DROP, Values
from mdrepro.training.recipes.quick import AUTOENCODING, PRETRAINING, SMALL_UNET
from mdrepro.training.recipes.recipe import Recipe

SD_LIKE: Values = {
    **SMALL_UNET,
    "class": "MobileDiffusionUNet",
    "block_out_channels": (32, 48, 64),
    "resnets_per_level": (2, 2, 2),
    "transformer_blocks": (1, 1, 1),
    "mid_transformer_blocks": 1,
    "self_attention": (True, True, True),
    "cross_attention": (True, True, True),
    "shared_key_value": "none",
    "ffn_activation": "gelu",
    "ffn_ratio": 4.0,
    "separable_conv": (False, False, False),
    "mid_separable_conv": False,
    "attention_head_dim": 16,
    "time_embed_dim": 128,
}
"""Every rule turned back: SD's design on three levels of 8, 4 and 2 latent pixels a side, where the paper's network has
64, 32 and 16. The innermost level is its low resolution, the two outer ones are its high resolution."""

T1: Values = {"block_out_channels": (32, 48, 48), "transformer_blocks": (0, 1, 1), "mid_transformer_blocks": 13}
T2: Values = {"self_attention": (False, False, True)}
RULES: Mapping[str, Values] = {
    "base": {},  # 2.229M parameters
    # 2.221M: 13 blocks in the middle keep the size level, as the paper says of its own step
    "t1": T1,
    # 1.500M: the low resolution, which its transformers take as it comes, narrower still; the paper tells neither
    # how narrow nor whether the size was level
    "t1-narrow-input": {**T1, "block_out_channels": (32, 48, 32)},
    "t2": T2,  # 2.161M
    "t2-no-cross-attention": {**T2, "cross_attention": (False, False, True)},  # 2.024M: the feed-forward layers stay
    "t3": {"shared_key_value": "self"},  # 2.188M
    "t4": {"ffn_activation": "swish"},  # 2.229M
    "t6": {"ffn_ratio": 3.0},  # 2.104M
    "c1": {"separable_conv": (False, True, True), "mid_separable_conv": True},  # 1.470M
    # 1.495M: the transformer behind a ResNet goes with it; the middle keeps its two ResNets
    "c2": {"resnets_per_level": (1, 1, 1)},
}
"""What each rule of MobileDiffusion changes in `SD_LIKE`. T5 is a fine-tuning, below. Depthwise kernels of 7 or 9
(tried with C1, not adopted) are left out: the levels that are separable have 4 and 2 pixels a side, and such a kernel
covers all of them."""

PAIRED = replace(PRETRAINING, steps=600, warmup=50, ema=0.99)
TUNING = LoopConfig(
    steps=200, batch=64, learning_rate=2e-3, optimiser="muon", warmup=20, decay="linear", ema=0.99, threads=1
)
AFTER_SD = quick.ROBUST.steps + int(quick.EVOLUTION["rounds"]) * quick.ROUND.steps + quick.TUNING.steps
"""Updates from shapes-sd to shapes-snap."""
ON_SHAPES = replace(quick.ON_SHAPES, sampling={"steps": 25, "guidance": 3.0})


def half_decoder(name: str, unet: str, steps: int) -> Recipe:
    """Half the width of shapes-vae's decoder, trained on latents that ``unet`` samples in so many steps."""
    return replace(quick.ON_FRESH_SHAPES, parents=ON_SHAPES.parents).row(
        name,
        "synthetic",
        replace(AUTOENCODING, steps=500, warmup=25),
        unet=unet,
        network={"share": 0.5},
        options={"steps": steps, "guidance": 3.0},
    )


QUICK = (
    # wanted: which rules cost quality, at a tenth of shapes-base's training; measured in the table
    # mobilediffusion-ablation-quality
    *(
        ON_SHAPES.row(
            f"shapes-rule-{name}", "diffusion", PAIRED, network=network, noise=V_FROM_PURE_NOISE, options=DROP
        )
        for name, network in ((name, {**SD_LIKE, **changes}) for name, changes in RULES.items())
    ),
    # T5: ReLU for softmax in the trained base.
    # wanted: as base-tuned; measured in the same table
    ON_SHAPES.row("shapes-rule-t5", "relu", TUNING, unet="shapes-rule-base", options=DROP),
    # The base trained further for as long with its softmax: it shows what of T5's gain or loss is due to ReLU.
    ON_SHAPES.row("shapes-rule-base-tuned", "diffusion", TUNING, unet="shapes-rule-base", options=DROP),
    # shapes-evolved without robust training: Algorithm 1 on shapes-sd, blocks not skipped in training. A round is twice
    # as long, so that 8 rounds come to what shapes-robust and shapes-evolved together take.
    # wanted: a worse network than shapes-evolved; measured in snapfusion-evolution; 7 min of one core
    replace(
        quick.ON_SHAPES.row(
            "shapes-evolved-standard",
            "evolution",
            replace(quick.ROUND, steps=120),
            unet="shapes-sd",
            options={**quick.EVOLUTION, "skip_probability": 0.0},
        ),
        version=2,
    ),
    # The same, trained further as a whole, as shapes-snap is.
    # wanted: a worse network than shapes-snap; measured in snapfusion-evolution
    quick.ON_SHAPES.row(
        "shapes-snap-standard", "diffusion", quick.TUNING, unet="shapes-evolved-standard", options=DROP
    ),
    # shapes-sd trained on for as many updates as the evolved line has after it: robust training, rounds, tuning.
    # wanted: what more training alone gives; measured in snapfusion-evolution
    quick.ON_SHAPES.row(
        "shapes-sd-tuned", "diffusion", replace(quick.TUNING, steps=AFTER_SD), unet="shapes-sd", options=DROP
    ),
    # SnapFusion: half the channels, squared difference of the images alone, on latents that shapes-base samples in
    # 4 steps (the paper: 50).
    # wanted: 30 dB to the images of shapes-vae; measured in snapfusion-decoder
    half_decoder("shapes-decoder-half", "shapes-base", 4),
    # The same on latents of shapes-sd, in 8 steps: the decoder of SnapFusion's whole system.
    # wanted: 30 dB to the images of shapes-vae
    half_decoder("shapes-sd-decoder-half", "shapes-sd", 8),
)
