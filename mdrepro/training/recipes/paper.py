"""The papers' runs at full size, one row each: none of them was run here.

"paper" in a comment is what the paper came to, with the confidence of our reading (read-P: in its own text, read-S: in
a secondary source, inferred: worked out by us, recalled: unverified). "cost" is an estimate from the operations of the
networks at 100 TFLOP/s, about a third of an A100's bf16; the first line of a section says what the paper used. What
the papers leave out (learning rates, steps, weights of losses: docs/underspecified.yaml) is ours.

Wanted on this machine: pictures with captions in data/captions, weights of CLIP ViT-L/14 and, for SnapFusion, SD-1.5 in
data/weights or on the hub; see docs/training.md. Micro-batches are for 8 GPUs of 80 GB.
"""

from dataclasses import replace
from types import MappingProxyType

from mdrepro.data.folders import CLIP, SD15
from mdrepro.diffusion.levels import SD_NOISE, V_FROM_PURE_NOISE, V
from mdrepro.training.engine.config import LoopConfig
from mdrepro.training.recipes.recipe import Recipe

CROPS = MappingProxyType({"source": "captions", "size": 256})
PICTURES = MappingProxyType({"source": "captions", "size": 512, "cache": False})
SD_LATENT = MappingProxyType({"vae": SD15, "text": CLIP})
DISTILLATION = MappingProxyType({"probability": 0.1, "guidance": (2.0, 14.0), "gamma": 0.2})  # SnapFusion's defaults
DROP = MappingProxyType({"drop": 0.1})
DRAWN = MappingProxyType({"steps": 50, "guidance": 7.5})

AUTOENCODING = LoopConfig(
    steps=250_000, batch=96, learning_rate=1e-4, betas=(0.5, 0.9), warmup=1000, ema=0.999, precision="bf16"
)
MD_STEPS = LoopConfig(
    steps=20_000, batch=2048, accumulation=16, learning_rate=5e-5, warmup=500, ema=0.999, precision="bf16"
)
SF_TUNING = LoopConfig(
    steps=10_000, batch=2048, accumulation=16, learning_rate=2e-5, warmup=500, ema=0.999, precision="bf16"
)

# ---------------------------------------------------------------------------------------------------- MobileDiffusion
# Paper: 512 TPUs for 15 days (read-S, called the cost of the search), 150M image-text pairs (read-S).
MOBILEDIFFUSION = (
    # Section 1.3: 8 channels, decoder of 38.6M (the paper says 39.3M); LDM's losses and their weights.
    # paper: PSNR 30.0, SSIM 0.83, LPIPS 0.032, where SD has 26.7, 0.76, 0.037 (read-P); cost: 7 A100-days
    Recipe(
        name="md-vae",
        tier="paper",
        kind="autoencoder",
        data=CROPS,
        network={"row": "ours", "width": 128},
        loop=AUTOENCODING,
    ),
    # Half the width, encoder fixed: 9.7M (9.8M).
    # paper: PSNR 30.2, SSIM 0.84, LPIPS 0.032 (read-P); cost: 2 A100-days
    Recipe(
        name="md-vae-lite",
        tier="paper",
        kind="decoder",
        parents={"vae": "md-vae"},
        data=CROPS,
        network={"row": "ours-lite", "width": 128},
        loop=AUTOENCODING,
    ),
    # 385.1M, 182.2 GMAC (386M and 182, read-S), softmax attention. AdamW, 1e-3, 0.01, 2048 and 750,000 are recalled.
    # paper: FID 8.65, CLIP 0.325 on COCO 30K in 50 DDIM steps (read-S; after T5); cost: 390 A100-days
    Recipe(
        name="md-base",
        tier="paper",
        kind="diffusion",
        parents={"vae": "md-vae"},
        pretrained={"text": CLIP},
        data=PICTURES,
        network={"class": "MobileDiffusionUNet"},
        noise=V_FROM_PURE_NOISE,
        options=DROP,
        loop=LoopConfig(
            steps=750_000,
            batch=2048,
            accumulation=8,
            learning_rate=1e-3,
            weight_decay=0.01,
            warmup=10_000,
            ema=0.9999,
            precision="bf16",
            checkpoint_every=2000,
        ),
        sampling=DRAWN,
    ),
    # T5: 10,000 iterations (read-S).
    # paper: FID 12.50 -> 12.31 in its ablation (read-S); cost: 5 A100-days
    Recipe(
        name="md-relu",
        tier="paper",
        kind="relu",
        parents={"vae": "md-vae", "unet": "md-base"},
        pretrained={"text": CLIP},
        data=PICTURES,
        options=DROP,
        loop=LoopConfig(
            steps=10_000, batch=2048, accumulation=8, learning_rate=1e-4, warmup=500, ema=0.999, precision="bf16"
        ),
        sampling=DRAWN,
    ),
    # v1's 8-step model by SnapFusion's guidance-aware distillation (read-P), first half of the chain.
    # paper: nothing on 16 steps; cost: 15 A100-days
    Recipe(
        name="md-16",
        tier="paper",
        kind="steps",
        parents={"vae": "md-vae", "unet": "md-relu"},
        pretrained={"text": CLIP},
        data=PICTURES,
        options={"steps": 16, **DISTILLATION},
        loop=MD_STEPS,
        sampling={"steps": 16, "guidance": 7.5},
    ),
    # paper: 8 steps are the fewest without visible loss (read-S), its FID and CLIP not found; cost: 15 A100-days
    Recipe(
        name="md-8",
        tier="paper",
        kind="steps",
        parents={"vae": "md-vae", "unet": "md-16"},
        pretrained={"text": CLIP},
        data=PICTURES,
        options={"steps": 8, **DISTILLATION},
        loop=MD_STEPS,
        sampling={"steps": 8, "guidance": 7.5},
    ),
    # Section 1.5, UFOGen: under 10,000 iterations (read-S); settings of the reference code of UFOGen's first author.
    # paper: FID 11.67, CLIP 0.320, HPS 26.65 in one step (read-S); cost: 2.5 A100-days
    Recipe(
        name="md-1",
        tier="paper",
        kind="gan",
        parents={"vae": "md-vae", "unet": "md-relu"},
        pretrained={"text": CLIP},
        data=PICTURES,
        options={"jumps": 4, "every": 2},
        loop=LoopConfig(
            steps=10_000,
            batch=512,
            accumulation=8,
            learning_rate=1e-4,
            phase_betas={"discriminator": (0.0, 0.999)},
            warmup=100,
            ema=0.99,
            precision="bf16",
        ),
        sampling={"steps": 1, "guidance": 1.0},
    ),
)

# --------------------------------------------------------------------------------------------------------- SnapFusion
# Paper: AdamW, weight decay 0.01, batch 2048 on 16 or 32 nodes of 8 A100, LAION-5B and COYO-700M (read-P).
SNAPFUSION = (
    # Section 2.5, first: SD-1.5 learns to predict v.
    # paper: SD-1.5 has its lowest FID, 13.7, at CLIP 0.283, and 19.5 at 0.304 (inferred); cost: 17 A100-days
    Recipe(
        name="sf-sd",
        tier="paper",
        kind="diffusion",
        pretrained={**SD_LATENT, "unet": SD15},
        data=PICTURES,
        network={"class": "EvolvableUNet"},
        noise=V,
        options=DROP,
        loop=replace(SF_TUNING, steps=20_000),
        sampling=DRAWN,
    ),
    # The last teacher: SD-1.5, directly 32 -> 16 steps, guidance-aware (read-P).
    # paper: nothing on 16 steps; cost: 13 A100-days
    Recipe(
        name="sf-sd-16",
        tier="paper",
        kind="steps",
        parents={"unet": "sf-sd"},
        pretrained=SD_LATENT,
        data=PICTURES,
        options={"steps": 16, **DISTILLATION},
        loop=SF_TUNING,
        sampling={"steps": 16, "guidance": 7.5},
    ),
    # Section 2.2: blocks are skipped; neither p nor the length is in the paper.
    # paper: without it SD-1.5 collapses when a block is removed (read-P), no number; cost: 8 A100-days
    Recipe(
        name="sf-robust",
        tier="paper",
        kind="robust",
        parents={"unet": "sf-sd"},
        pretrained=SD_LATENT,
        data=PICTURES,
        options={"skip_probability": 0.1},
        loop=SF_TUNING,
        sampling=DRAWN,
    ),
    # Algorithm 1, with this machine's latencies, and the negative loss of 2,000 held-out samples where the paper takes
    # the CLIP score of 2,000 images (2.5 A100-hours an action, read-P). The target is its Table 5: 26.2 of 51.2 ms.
    # paper: Table 3, 848M by Table 1 (read-P; they do not fit together); cost: 3.5 A100-days
    Recipe(
        name="sf-evolved",
        tier="paper",
        kind="evolution",
        parents={"unet": "sf-robust"},
        pretrained=SD_LATENT,
        data=PICTURES,
        options={"share": 0.51, "rounds": 20, "group": 2, "skip_probability": 0.1, "validation": 2000},
        loop=LoopConfig(steps=200, batch=2048, accumulation=16, learning_rate=2e-5, ema=0.99, precision="bf16"),
        sampling=DRAWN,
    ),
    # The evolved network, trained on whole.
    # paper: no number before distillation; cost: 13 A100-days
    Recipe(
        name="sf-snap",
        tier="paper",
        kind="diffusion",
        parents={"unet": "sf-evolved"},
        pretrained=SD_LATENT,
        data=PICTURES,
        options=DROP,
        loop=replace(SF_TUNING, steps=20_000),
        sampling=DRAWN,
    ),
    # Its own 16-step version, where the last student begins (read-P).
    # paper: nothing on 16 steps; cost: 10 A100-days
    Recipe(
        name="sf-16",
        tier="paper",
        kind="steps",
        parents={"unet": "sf-snap"},
        pretrained=SD_LATENT,
        data=PICTURES,
        options={"steps": 16, **DISTILLATION},
        loop=SF_TUNING,
        sampling={"steps": 16, "guidance": 7.5},
    ),
    # The product: student sf-16, teacher the 16-step SD-1.5 (read-P).
    # paper: COCO 30K: lowest FID 13.6 at CLIP 0.294, CLIP 0.307 at FID 17.3 (inferred, read off its Fig. 4); COCO-2017
    # 5K: FID 24.2, CLIP 0.30 (read-P); cost: 11 A100-days
    Recipe(
        name="sf-8",
        tier="paper",
        kind="steps",
        parents={"unet": "sf-16", "teacher": "sf-sd-16"},
        pretrained=SD_LATENT,
        data=PICTURES,
        options={"steps": 8, **DISTILLATION},
        loop=SF_TUNING,
        sampling={"steps": 8, "guidance": 4.5},
    ),
    # Section 2.4: half of SD's decoder (12.4M; the paper says 13M) on latents of 50 DDIM steps; prompts, steps and rate
    # are not in the paper. Nearly all of the cost is SD-1.5 making latents.
    # paper: close to SD's decoder, only as a figure (read-P); cost: 13 A100-days
    Recipe(
        name="sf-decoder",
        tier="paper",
        kind="synthetic",
        pretrained={**SD_LATENT, "unet": SD15},
        data=PICTURES,
        network={"share": 0.5},
        noise=SD_NOISE,
        options=DRAWN,
        loop=LoopConfig(steps=20_000, batch=64, learning_rate=1e-4, warmup=500, ema=0.999, precision="bf16"),
    ),
)

PAPER = (*MOBILEDIFFUSION, *SNAPFUSION)
