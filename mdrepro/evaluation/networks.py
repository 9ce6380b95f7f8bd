"""Networks of the larger tiers in the place of the small ones that tables are written for."""

from collections.abc import Iterable, Mapping
from typing import Any

from mdrepro.data.folders import CLIP, SD15
from mdrepro.diffusion.levels import SD_NOISE
from mdrepro.models.latents import factor
from mdrepro.models.pipeline import MobileDiffusionPipeline
from mdrepro.training.recipes import registry as known
from mdrepro.training.runs import store
from mdrepro.training.runs.model_folders import Pretrained

PUBLISHED = "sd15"
"""In place of a recipe: Stable Diffusion 1.5 as published."""
Names = Mapping[str, str]
"""By the recipe that a table is written for: a tier's own."""


def at(names: Mapping[str, Names], tier: str, recipe: str) -> str | None:
    """What stands for a recipe of the quick tier; None where that tier has none.

    Args:
        names: by tier, the quick one excepted.
        tier: of the run.
        recipe: of the quick tier.
    """
    return recipe if tier == "quick" else names.get(tier, {}).get(recipe)


def no_recipe(tier: str) -> str:
    """Why a row is left out."""
    return f"mdrepro train has no recipe of its network at tier {tier}"


def pipelines(recipes: Iterable[str]) -> dict[str, Any]:
    """Text to image, by recipe or `PUBLISHED`, at the size of the recipe's pictures.

    Errors are those of `runs.pipeline` and `Pretrained.load`.
    """
    made = {name: published() if name == PUBLISHED else store.pipeline(name) for name in dict.fromkeys(recipes)}
    for name, pipeline in made.items():
        size = None if name == PUBLISHED else known.get(name).data.get("size")
        if size is not None:
            pipeline.unet.register_to_config(sample_size=size // factor(pipeline.vae))
    return made


def published() -> MobileDiffusionPipeline:
    """Stable Diffusion 1.5, from ``data/weights/``, the hub's cache or the hub."""
    from diffusers import DDIMScheduler

    sd, text = Pretrained(SD15), Pretrained(CLIP)
    return MobileDiffusionPipeline(
        vae=sd.load("vae"),
        text_encoder=text.load("text_encoder"),
        tokenizer=text.load("tokenizer"),
        unet=sd.load("unet"),
        scheduler=DDIMScheduler(**SD_NOISE),
    )
