"""Both papers' runs on real pictures of 256 px, each within a day on one GPU of 80 GB: none of them was run here.

They test the papers' claims, as the quick tier does, and never their numbers. "wanted" in a comment is what a run has
to come to; "cost" is an estimate from the operations of the networks at 100 TFLOP/s, about a third of an A100's bf16.
The scale is BK-SDM's: one A100, batches of 256, 0.2M pairs (its own are LAION-Aesthetics 6.5+; read-P).

Needed on this machine: as for `mdrepro.training.recipes.paper`. Latents and text features of 0.2M captions are 30 GB.
"""

from dataclasses import replace

from mdrepro.data.folders import CLIP
from mdrepro.diffusion.levels import V_FROM_PURE_NOISE
from mdrepro.training.engine.config import LoopConfig
from mdrepro.training.recipes import paper
from mdrepro.training.recipes.defaults import DROP, ONE_STEP, SKIP, Defaults, Values
from mdrepro.training.recipes.paper import DRAWN, MD_UNET, SD_LATENT

CRITIC: Values = {"start": 30_000}
PICTURES: Values = {"source": "captions", "size": 256}

AUTOENCODING = replace(paper.AUTOENCODING, steps=100_000, batch=32)
MD_TUNING = LoopConfig(steps=20_000, batch=256, learning_rate=1e-4, warmup=200, ema=0.999, precision="bf16")
MD_PRETRAINING = replace(
    MD_TUNING, steps=100_000, learning_rate=3e-4, warmup=2000, decay="cosine", ema=0.9999, checkpoint_every=2000
)
SF_TUNING = replace(paper.SF_TUNING, batch=128, accumulation=4, warmup=200)
SF_PRETRAINING = replace(SF_TUNING, steps=20_000, warmup=500)
ROUND = replace(SF_TUNING, steps=250, warmup=0, ema=0.99)
EVOLUTION: Values = {**paper.EVOLUTION, "rounds": 12, "group": 3, "validation": 1000}
AFTER_SD = SF_TUNING.steps + EVOLUTION["rounds"] * ROUND.steps + SF_PRETRAINING.steps
"""Updates from proxy-sd to proxy-snap."""
GAN = replace(paper.GAN, batch=256, accumulation=1)

UNET: Values = {**MD_UNET, "sample_size": 32, "block_out_channels": (192, 384, 640), "mid_transformer_blocks": 9}
MD_VAE = Defaults(tier="proxy", data=PICTURES)
MD = Defaults(tier="proxy", data=PICTURES, sampling=DRAWN, parents={"vae": "proxy-vae"}, pretrained={"text": CLIP})
SF = Defaults(tier="proxy", data=PICTURES, sampling=DRAWN, pretrained=SD_LATENT)

PROXY = (
    # ------------------------------------------------------------------------------------------------ MobileDiffusion
    # The 8-channel autoencoder at half its width.
    # wanted: PSNR above that of SD's autoencoder on the same pictures (paper: 30.0 against 26.7, read-P); cost: 7 h
    MD_VAE.autoencoder("proxy-vae", AUTOENCODING, 64, options=CRITIC),
    # wanted: as proxy-vae with a quarter of its decoder's parameters (paper: 30.2 against 30.0, read-P); cost: 3 h
    MD_VAE.autoencoder("proxy-vae-lite", AUTOENCODING, 64, encoder="proxy-vae", options=CRITIC),
    # MobileDiffusion's design at 0.6 of its width: 115M, 15.6 GMAC.
    # wanted: a CLIP score with its captions above that with others' by ten standard errors; cost: 7 h
    MD.row("proxy-base", "diffusion", MD_PRETRAINING, network=UNET, noise=V_FROM_PURE_NOISE, options=DROP),
    # T5. wanted: FID not above proxy-base's beyond noise (paper: 12.50 -> 12.31, read-S); cost: 0.5 h
    MD.row("proxy-relu", "relu", replace(MD_TUNING, steps=5000), unet="proxy-base", options=DROP),
    # wanted: as proxy-relu at 50 steps; cost: 2.5 h
    MD.few_steps("proxy-16", 16, "proxy-relu", MD_TUNING),
    # wanted: better than proxy-relu run for 8 steps (paper: no visible loss at 8, read-S); cost: 2.5 h
    MD.few_steps("proxy-8", 8, "proxy-16", MD_TUNING),
    # UFOGen.
    # wanted: better than proxy-8 run for one step (paper: FID 8.65 -> 11.67 from 50 steps to 1, read-S); cost: 2 h
    MD.few_steps("proxy-1", 1, "proxy-relu", GAN, kind="gan", guidance=1.0, options=ONE_STEP),
    # ----------------------------------------------------------------------------------------------------- SnapFusion
    # SD-1.5's network, 859.5M, learns v and 256 px: 90.1 GMAC.
    # wanted: FID at 256 px below that of SD-1.5 as it comes; cost: 4 h
    SF.from_sd("proxy-sd", SF_PRETRAINING),
    # wanted: as proxy-sd at 50 steps; cost: 3.5 h
    SF.few_steps("proxy-sd-16", 16, "proxy-sd", SF_TUNING),
    # proxy-sd trained on for as many updates as the evolved network has after it.
    # wanted: what more training alone gives; cost: 6 h
    SF.row("proxy-sd-tuned", "diffusion", replace(SF_PRETRAINING, steps=AFTER_SD), unet="proxy-sd", options=DROP),
    # wanted: FID as proxy-sd; without a transformer block of the down path, better than proxy-sd without it; cost: 2 h
    SF.row("proxy-robust", "robust", SF_TUNING, unet="proxy-sd", options=SKIP),
    # wanted: 0.51 of the latency by this machine's table (paper, Table 5: 26.2 of 51.2 ms, read-P); cost: 1 h
    SF.row("proxy-evolved", "evolution", ROUND, unet="proxy-robust", options=EVOLUTION),
    # wanted: FID as proxy-sd; cost: 3 h
    SF.row("proxy-snap", "diffusion", SF_PRETRAINING, unet="proxy-evolved", options=DROP),
    # wanted: as proxy-snap at 50 steps; cost: 3 h
    SF.few_steps("proxy-snap-16", 16, "proxy-snap", SF_TUNING),
    # wanted: at equal FID, CLIP score in 8 steps not below proxy-sd's in 50 (paper: 0.004 to 0.010 above, read-P);
    # cost: 3 h
    SF.few_steps("proxy-snap-8", 8, "proxy-snap-16", SF_TUNING, guidance=4.5, teacher="proxy-sd-16"),
    # Half of SD's decoder on latents that SD-1.5 makes at 256 px, which it was not trained for: not what it draws
    # matters here but the range of its latents.
    # wanted: PSNR against SD's decoder above 30 dB; cost: 9 h
    SF.half_decoder("proxy-decoder", replace(MD_TUNING, steps=5000, batch=32)),
)
