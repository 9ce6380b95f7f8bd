"""Training runs of the quick tier whose checkpoints are published; see `mdrepro.training.recipes.registry`.

All of them together train within 90 minutes on two cores.
"""

from dataclasses import replace

from mdrepro.diffusion.levels import V_FROM_PURE_NOISE
from mdrepro.training.engine.config import LoopConfig
from mdrepro.training.recipes.defaults import DROP, ONE_STEP, SKIP, Defaults, Values

SMALL_UNET = {"sample_size": 8, "in_channels": 8, "out_channels": 8, "cross_attention_dim": 128, "norm_num_groups": 8}
READING = LoopConfig(
    steps=1200, batch=64, learning_rate=2e-3, warmup=50, decay="cosine", threads=1, checkpoint_every=500
)
AUTOENCODING = replace(READING, steps=900, batch=32, learning_rate=0.02, optimiser="muon", warmup=45)
CONTRASTING = replace(READING, steps=1000, learning_rate=1e-3, checkpoint_every=250)
PRETRAINING = LoopConfig(
    steps=6000, batch=64, learning_rate=4e-3, optimiser="muon", warmup=100, decay="linear", ema=0.998, threads=1
)
FEW_STEPS = LoopConfig(steps=600, batch=64, learning_rate=2e-4, warmup=50, decay="linear", ema=0.99, threads=1)
HALF = replace(FEW_STEPS, steps=400)
"""The first half of a chain to few steps."""
GAN = replace(
    FEW_STEPS, steps=2400, phase_betas={"discriminator": (0.0, 0.999)}, ema=0.995, warmup=20, decay="constant"
)
NOISED_GAN = replace(
    GAN,
    steps=900,
    batch=48,
    learning_rate=3e-4,
    learning_rates={"discriminator": 2e-4},
    betas=(0.0, 0.99),
    decay="cosine",
    ema=0.99,
)
BASE_UNET: Values = {
    **SMALL_UNET,
    "class": "MobileDiffusionUNet",
    "block_out_channels": (64, 112),
    "resnets_per_level": (1, 1),
    "transformer_blocks": (1, 1),
    "mid_transformer_blocks": 3,
    "self_attention": (False, False),
    "cross_attention": (True, True),
    "separable_conv": (False, True),
    "attention_head_dim": 16,
    "time_embed_dim": 128,
}
ROBUST = LoopConfig(steps=500, batch=64, learning_rate=3e-4, warmup=50, ema=0.99, threads=1)
ROUND = LoopConfig(steps=60, batch=64, learning_rate=2e-4, ema=0.95, threads=1)
TUNING = LoopConfig(steps=1000, batch=64, learning_rate=5e-4, warmup=50, decay="cosine", ema=0.999, threads=1)
EVOLUTION: Values = {"share": 0.7, "rounds": 8, "group": 2, **SKIP, "validation": 256}
SQUARED_ERROR: Values = {"perceptual": 0.0, "adversarial": 0.0, "power": 2}
"""Nothing else: LPIPS needs weights, and a critic needs longer."""
ON_FRESH_SHAPES = Defaults(tier="quick", data={"source": "shapes", "count": 1_000_000})
"""More than any run sees: none twice."""
ON_SHAPES = Defaults(
    tier="quick",
    data={"source": "shapes", "count": 40_000},  # encoded once, then seen many times
    sampling={"steps": 50, "guidance": 3.0},
    parents={"vae": "shapes-vae", "text": "shapes-text"},
)

QUICK = (
    # The independent scorer: sees real renders only, never captions or generated images.
    # measured: 99.9 % of 1,000 validation scenes read wholly right; 7 min of a shared core
    ON_FRESH_SHAPES.row("shapes-reader", "reader", READING, network={"width": 64, "depth": 6}),
    # CLIP score's pair of towers: another than shapes-text.
    # measured: 96 % of captions first among 64; 27 min of a core with much other work, 4 min of it this run's
    ON_FRESH_SHAPES.row(
        "shapes-clip",
        "clip",
        replace(CONTRASTING, seed=1),
        network={"features": 64, "image_width": 16, "width": 64, "layers": 2, "heads": 4},
    ),
    # MobileDiffusion's 8-channel autoencoder at an eighth of its width.
    # measured: PSNR 32.4 dB on 1,000 validation scenes; 16 min of a shared core
    ON_FRESH_SHAPES.autoencoder("shapes-vae", AUTOENCODING, 16, options={**SQUARED_ERROR, "kl": 5e-4}),
    # MobileDiffusion: half the width, encoder fixed.
    # measured: PSNR 34.2 dB on 1,000 validation scenes, above the full decoder's, which saw half as many; 13 min of a
    # shared core
    ON_FRESH_SHAPES.autoencoder(
        "shapes-vae-lite", replace(AUTOENCODING, steps=1600, warmup=80), 16, encoder="shapes-vae", options=SQUARED_ERROR
    ),
    # Stands in for CLIP's text model, which both papers condition on.
    # measured: 96 % of captions first among 64, registers read out at 0.002 nats; 3 min of a shared core
    ON_FRESH_SHAPES.row(
        "shapes-text",
        "text",
        replace(CONTRASTING, steps=700),
        network={"width": 128, "layers": 2, "heads": 4, "registers": 6},
        options={"weight": 3.0, "image_width": 16},
    ),
    # MobileDiffusion's design on 8 x 8 latents, two levels, 2.1M parameters.
    # measured: 94.9 % of attributes and 73 % of scenes right (256 validation captions, 25 DDIM steps, w 3); 35 min of a
    # shared core
    ON_SHAPES.row("shapes-base", "diffusion", PRETRAINING, network=BASE_UNET, noise=V_FROM_PURE_NOISE, options=DROP),
    # SnapFusion, the first half of the chain: 8 steps stand for the paper's 16.
    # wanted: as shapes-base in 50 steps (400 validation captions, w 3: 95.0 % of attributes, 74 % of scenes)
    ON_SHAPES.few_steps("shapes-8", 8, "shapes-base", HALF),
    # SnapFusion: 8 -> 4 steps, for the paper's 16 -> 8; p, range and gamma are the paper's.
    # wanted: as shapes-base in 50 steps, which has 91.3 % of attributes and 67 % of scenes in 4 (as above)
    ON_SHAPES.few_steps("shapes-4", 4, "shapes-8", FEW_STEPS),
    # A latent GAN: with jumps 1 its level is always 0, so the discriminator sees latents with hardly any noise.
    # measured: 89.4 % of attributes and 60 % of scenes right in one step (512 validation captions; 87.3 and 55 after
    # half as many steps); 64 min of a core with much other work, where half as many steps took 15 min of a quiet one
    ON_SHAPES.few_steps(
        "shapes-1",
        1,
        "shapes-base",
        GAN,
        guidance=1.0,
        kind="gan",
        options={"jumps": 1, "last": 0.5, "gamma": "x0", "reconstruction": 0.5, "every": 2},
    ),
    # UFOGen, as MobileDiffusion describes it: what the discriminator sees is noised.
    # wanted: 90 % of attributes and 60 % of scenes right in one step
    # measured: 87.8 % and 57 % (400 validation captions); 30 min of one core
    ON_SHAPES.few_steps(
        "shapes-1-gan",
        1,
        "shapes-base",
        NOISED_GAN,
        guidance=1.0,
        kind="gan",
        options={**ONE_STEP, "guidance": 10.0, "penalty": 0.05},
    ),
    # Stable Diffusion's design on 8 x 8 latents, 2.1M parameters: the network that SnapFusion's evolution begins with.
    # Half of shapes-base's steps, each of which takes twice as long.
    # measured: 91.9 % of attributes and 56 % of scenes right (256 validation captions, 25 DDIM steps, w 3); 54 min of a
    # shared core
    ON_SHAPES.row(
        "shapes-sd",
        "diffusion",
        replace(PRETRAINING, steps=3000),
        network={
            **SMALL_UNET,
            "class": "EvolvableUNet",
            "block_out_channels": (32, 64, 56),
            "cross_attention": (True, True, False),
            "attention_heads": 4,
        },
        noise=V_FROM_PURE_NOISE,
        options=DROP,
    ),
    # SnapFusion: blocks are skipped, so that the network bears the loss of any. Version 2: a ResNet's shortcut stays.
    # measured at version 1: 87.2 % of attributes and 47 % of scenes right, with all blocks (as shapes-sd); 3 min of one
    # core
    replace(ON_SHAPES.row("shapes-robust", "robust", ROBUST, unet="shapes-sd", options=SKIP), version=2),
    # SnapFusion, Algorithm 1, with latencies of this machine. A round is 60 steps of robust training.
    # measured from version 1: 0.69 of the latency of shapes-sd, and half of its parameters; 5 min of one core
    ON_SHAPES.row("shapes-evolved", "evolution", ROUND, unet="shapes-robust", options=EVOLUTION),
    # The evolved network, trained further as a whole.
    # measured from version 1: 90.8 % of attributes and 54 % of scenes right (as shapes-sd), with half of its
    # parameters; 5 min of one core
    ON_SHAPES.row("shapes-snap", "diffusion", TUNING, unet="shapes-evolved", options=DROP),
)
