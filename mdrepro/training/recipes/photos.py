"""Autoencoders on crops of photographs, for MobileDiffusion's VAE table, in the paper's proportions.

Each network is trained in stages, each of which begins with the autoencoder of the one before (parent ``start``),
without momentum: at one size of crops; on crops of several sizes up to the measured one, because attention and norms
that never saw a large area fail on one; and, as MobileDiffusion trains, with LPIPS, a patch-GAN and KL. The first two
are by Muon, the last by AdamW. The lite decoder is trained with the encoder fixed. A step sees the area of
``MIXED_BATCH`` crops of the largest. The second stage sees one and a half times the area of the first: tiles are
measured at its sizes.

wanted: after two stages, on 256 px tiles of the nine held-out scenes, 27.0 dB and SSIM 0.80 with 8 channels, 25.7 dB
with 4; 128, 256 and 512 px within 0.7 dB; after the third LPIPS (alex) a fifth lower, PSNR within 1.5 dB.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mdrepro.models import systems
from mdrepro.training.engine.config import LoopConfig
from mdrepro.training.recipes.defaults import Values
from mdrepro.training.recipes.quick import SQUARED_ERROR
from mdrepro.training.recipes.recipe import Recipe

PERCEPTUAL = "-perceptual"
"""What a row's name ends in, where it was trained with LPIPS and a patch-GAN too."""
SIZES = (64, 128, 192, 256)
SIDES = (360, 540, 810)
"""Shorter sides, px, to which photographs are reduced: cameras' pictures are smooth at 64 px."""
MIXED_BATCH = 1
WARMUP = 0.05  # of a stage's steps
CURVE_ROWS = 100
ADVERSARIAL: Values = {
    "perceptual": 2.0,
    "backbone": "alex+vgg",
    "adversarial": 0.05,
    "balance": "constant",
    "start": 0,
    "patch_width": 16,
    "patch_layers": 2,
}
"""Absolute error, LPIPS, patch-GAN and KL; weights and both backbones chosen on the validation photographs."""


@dataclass(frozen=True)
class Stage:
    """One run of a network: what its name ends in, sizes of crops, batch, steps, and how it is trained."""

    suffix: str
    sizes: tuple[int, ...]
    loop: LoopConfig
    options: Values


def stages(
    crop: int, batch: int, steps: int, mixed: int, perceptual: int, learning_rate: float, precision: str
) -> list[Stage]:
    """The first one first; arguments as of `autoencoders`. Raises BadInput for a value that `LoopConfig` refuses."""
    muon = LoopConfig(
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        optimiser="muon",
        warmup=max(1, round(WARMUP * steps)),
        decay="cosine",
        precision=precision,
        checkpoint_every=100,
        log_every=max(1, steps // CURVE_ROWS),
    )
    sizes = tuple(size for size in SIZES if size > crop)
    mixing = replace(muon, batch=MIXED_BATCH, learning_rate=learning_rate / 7.5)
    tuning = replace(  # in bf16 VGG takes half the time where a CPU has it
        mixing, optimiser="adamw", learning_rate=learning_rate / 10, betas=(0.5, 0.9), precision="bf16"
    )
    found = [
        Stage("-start", (crop,), muon, SQUARED_ERROR),
        Stage("", (crop, *sizes), _of_steps(mixing, mixed), SQUARED_ERROR),
    ]
    if perceptual:
        found.append(Stage(PERCEPTUAL, (crop, *sizes), _of_steps(tuning, perceptual), ADVERSARIAL))
    return found


def autoencoders(
    *,
    photos: str = "packages",
    width: int = 16,
    crop: int = 64,
    batch: int = 8,
    steps: int = 3200,
    mixed: int = 2400,
    perceptual: int = 300,
    learning_rate: float = 1.5e-3,
    seed: int = 0,
    threads: int = 1,
    precision: str = "fp32",
) -> dict[str, Recipe]:
    """The table's networks by row, each with the recipes that it rests on as its parents.

    Rows are ``sd``, ``ours``, ``ours-lite``, and the same with `PERCEPTUAL`, which 0 steps leave out.

    Args:
        photos: "packages", or a folder; see `mdrepro.data.photos.split`.
        width: channels of the encoder's finest level, a multiple of 8.
        crop, batch: of the first stage: height and width in px, a multiple of 8, and number of crops a step.
        steps, mixed, perceptual: optimiser steps of the three stages.
        learning_rate: highest rate of the first stage; that of the second is 2 / 15 of it, of the third a tenth.
        seed, threads, precision: as in `LoopConfig`.

    Raises BadInput for a value that `LoopConfig` refuses. ``width``, ``crop`` and ``photos`` are checked when a recipe
    is trained, before its first step.
    """
    recipes: dict[str, Recipe] = {}
    encoders = {each.row: each.layout.encoder_of for each in systems.autoencoders().values() if each.row}
    plan = stages(crop, batch, steps, mixed, perceptual, learning_rate, precision)
    sides = SIDES if photos == "packages" else ()
    for row, encoder in encoders.items():
        start: Mapping[str, str | Recipe] = {}
        for number, stage in enumerate(plan):
            last = PERCEPTUAL if stage.suffix == PERCEPTUAL else ""
            parents = {"vae": recipes[encoder + last]} if encoder else {}
            recipe = Recipe(
                name=f"photos-{row}{stage.suffix}",
                tier="quick",
                kind="decoder" if encoder else "autoencoder",
                parents={**parents, **start},
                data={
                    "source": "photos",
                    "path": photos,
                    "sizes": stage.sizes,
                    "sides": sides,
                    "count": stage.loop.steps * stage.loop.batch,
                    "seed": seed,
                },
                network={"row": row, "width": width},
                options=stage.options,
                loop=replace(stage.loop, seed=3 * seed + number, threads=threads),
            )
            start = {"start": recipe}
            if stage.suffix != "-start":
                recipes[row + last] = recipe
    return recipes


def _of_steps(loop: LoopConfig, steps: int) -> LoopConfig:
    warmup, log_every = max(1, round(WARMUP * steps)), max(1, steps // CURVE_ROWS)
    return replace(loop, steps=steps, warmup=warmup, log_every=log_every)


PHOTOS = tuple(autoencoders().values())
