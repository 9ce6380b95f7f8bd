"""The papers' runs at full size, one row each: none of them was run here.

"paper" in a comment is what the paper came to, with the confidence of our reading (read-P: in its own text, read-S: in
a secondary source, inferred: worked out by us, recalled: unverified). "cost" is an estimate from the operations of the
networks at 100 TFLOP/s, about a third of an A100's bf16; the first line of a section says what the paper used. What
the papers leave out (learning rates, steps, weights of losses: docs/underspecified.yaml) is ours.

Needed on this machine: pictures with captions in data/captions, weights of CLIP ViT-L/14 and, for SnapFusion, SD-1.5 in
data/weights or on the hub; see docs/training.md. Micro-batches are for 8 GPUs of 80 GB.
"""

from dataclasses import replace

from mdrepro.data.folders import CLIP, SD15
from mdrepro.diffusion.levels import V_FROM_PURE_NOISE
from mdrepro.training.engine.config import LoopConfig
from mdrepro.training.recipes.defaults import DROP, ONE_STEP, SKIP, Defaults, Values

PICTURES: Values = {"source": "captions", "size": 512, "cache": False}
SD_LATENT = {"vae": SD15, "text": CLIP}
DRAWN: Values = {"steps": 50, "guidance": 7.5}

AUTOENCODING = LoopConfig(
    steps=250_000, batch=96, learning_rate=1e-4, betas=(0.5, 0.9), warmup=1000, ema=0.999, precision="bf16"
)
MD_STEPS = LoopConfig(
    steps=20_000, batch=2048, accumulation=16, learning_rate=5e-5, warmup=500, ema=0.999, precision="bf16"
)
MD_TUNING = replace(MD_STEPS, steps=10_000, accumulation=8, learning_rate=1e-4)
MD_PRETRAINING = replace(
    MD_STEPS, steps=750_000, accumulation=8, learning_rate=1e-3, warmup=10_000, ema=0.9999, checkpoint_every=2000
)
SF_TUNING = replace(MD_STEPS, steps=10_000, learning_rate=2e-5)
SF_PRETRAINING = replace(SF_TUNING, steps=20_000)
ROUND = replace(SF_TUNING, steps=200, warmup=0, ema=0.99)
EVOLUTION: Values = {"share": 0.51, "rounds": 20, "group": 2, **SKIP, "validation": 2000}
AFTER_SD = SF_TUNING.steps + EVOLUTION["rounds"] * ROUND.steps + SF_PRETRAINING.steps
"""Updates from sf-sd to sf-snap."""
GAN = replace(
    MD_TUNING, batch=512, betas=(0.0, 0.99), phase_betas={"discriminator": (0.0, 0.999)}, warmup=100, ema=0.99
)

MD_UNET: Values = {"class": "MobileDiffusionUNet"}
MD_VAE = Defaults(tier="paper", data={"source": "captions", "size": 256})
MD = Defaults(tier="paper", data=PICTURES, sampling=DRAWN, parents={"vae": "md-vae"}, pretrained={"text": CLIP})
SF = Defaults(tier="paper", data=PICTURES, sampling=DRAWN, pretrained=SD_LATENT)

PAPER = (
    # ------------------------------------------------------------------------------------------------ MobileDiffusion
    # Paper: 512 TPUs for 15 days (read-S, called the cost of the search), 150M image-text pairs (read-S).
    # Section 1.3: 8 channels, decoder of 38.6M (the paper says 39.3M); LDM's losses and their weights.
    # paper: PSNR 30.0, SSIM 0.83, LPIPS 0.032, where SD has 26.7, 0.76, 0.037 (read-P); cost: 7 A100-days
    MD_VAE.autoencoder("md-vae", AUTOENCODING, 128),
    # Half the width, encoder fixed: 9.7M (9.8M).
    # paper: PSNR 30.2, SSIM 0.84, LPIPS 0.032 (read-P); cost: 2 A100-days
    MD_VAE.autoencoder("md-vae-lite", AUTOENCODING, 128, encoder="md-vae"),
    # 385.1M, 182.2 GMAC (386M and 182, read-S), softmax attention. AdamW, 1e-3, 0.01, 2048 and 750,000 are recalled.
    # paper: FID 8.65, CLIP 0.325 on COCO 30K in 50 DDIM steps (read-S; after T5); cost: 390 A100-days
    MD.row("md-base", "diffusion", MD_PRETRAINING, network=MD_UNET, noise=V_FROM_PURE_NOISE, options=DROP),
    # T5: 10,000 iterations (read-S).
    # paper: FID 12.50 -> 12.31 in its ablation (read-S); cost: 5 A100-days
    MD.row("md-relu", "relu", MD_TUNING, unet="md-base", options=DROP),
    # v1's 8-step model by SnapFusion's guidance-aware distillation (read-P), first half of the chain.
    # paper: nothing on 16 steps; cost: 15 A100-days
    MD.few_steps("md-16", 16, "md-relu", MD_STEPS),
    # paper: 8 steps are the fewest without visible loss (read-S), its FID and CLIP not found; cost: 15 A100-days
    MD.few_steps("md-8", 8, "md-16", MD_STEPS),
    # Section 1.5, UFOGen: under 10,000 iterations (read-S); level, weights and loss as on the 2-D bed.
    # paper: FID 11.67, CLIP 0.320, HPS 26.65 in one step (read-S); cost: 2.5 A100-days
    MD.few_steps("md-1", 1, "md-relu", GAN, kind="gan", guidance=1.0, options=ONE_STEP),
    # ----------------------------------------------------------------------------------------------------- SnapFusion
    # Paper: AdamW, weight decay 0.01, batch 2048 on 16 or 32 nodes of 8 A100, LAION-5B and COYO-700M (read-P).
    # Section 2.5, first: SD-1.5 learns to predict v.
    # paper: SD-1.5 has its lowest FID, 13.7, at CLIP 0.283, and 19.5 at 0.304 (inferred); cost: 17 A100-days
    SF.from_sd("sf-sd", SF_PRETRAINING),
    # The last teacher: SD-1.5, directly 32 -> 16 steps, guidance-aware (read-P).
    # paper: nothing on 16 steps; cost: 13 A100-days
    SF.few_steps("sf-sd-16", 16, "sf-sd", SF_TUNING),
    # The control of the evolved network: SD-1.5 trained on for as many updates.
    # paper: none; cost: 25 A100-days
    SF.row("sf-sd-tuned", "diffusion", replace(SF_PRETRAINING, steps=AFTER_SD), unet="sf-sd", options=DROP),
    # Section 2.2: blocks are skipped; neither p nor the length is in the paper.
    # paper: without it SD-1.5 collapses when a block is removed (read-P), no number; cost: 8 A100-days
    SF.row("sf-robust", "robust", SF_TUNING, unet="sf-sd", options=SKIP),
    # Algorithm 1, with this machine's latencies, and the negative loss of 2,000 held-out samples where the paper takes
    # the CLIP score of 2,000 images (2.5 A100-hours an action, read-P). The target is its Table 5: 26.2 of 51.2 ms.
    # paper: Table 3, 848M by Table 1 (read-P; they do not fit together); cost: 3.5 A100-days
    SF.row("sf-evolved", "evolution", ROUND, unet="sf-robust", options=EVOLUTION),
    # The evolved network, trained further as a whole.
    # paper: no number before distillation; cost: 13 A100-days
    SF.row("sf-snap", "diffusion", SF_PRETRAINING, unet="sf-evolved", options=DROP),
    # Its own 16-step version, where the last student begins (read-P).
    # paper: nothing on 16 steps; cost: 10 A100-days
    SF.few_steps("sf-16", 16, "sf-snap", SF_TUNING),
    # The product: student sf-16, teacher the 16-step SD-1.5 (read-P).
    # paper: COCO 30K: lowest FID 13.6 at CLIP 0.294, CLIP 0.307 at FID 17.3 (inferred, read off its Fig. 4); COCO-2017
    # 5K: FID 24.2, CLIP 0.30 (read-P); cost: 11 A100-days
    SF.few_steps("sf-8", 8, "sf-16", SF_TUNING, guidance=4.5, teacher="sf-sd-16"),
    # Section 2.4: half of SD's decoder (12.4M; the paper says 13M) on latents of 50 DDIM steps; prompts, steps and rate
    # are not in the paper. Nearly all of the cost is SD-1.5 making latents.
    # paper: close to SD's decoder, only as a figure (read-P); cost: 13 A100-days
    SF.half_decoder("sf-decoder", replace(MD_STEPS, batch=64, accumulation=1, learning_rate=1e-4)),
)
