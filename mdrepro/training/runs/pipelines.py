"""Trained runs assembled to text-to-image pipelines."""

from typing import TYPE_CHECKING, Any

from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.training.objectives import kinds
from mdrepro.training.recipes import registry
from mdrepro.training.recipes.recipe import Recipe
from mdrepro.training.runs import store
from mdrepro.training.runs.model_folders import Pretrained

if TYPE_CHECKING:
    from mdrepro.models.pipeline import MobileDiffusionPipeline
    from mdrepro.training.objectives.inputs import Parts


def load(recipe: Recipe | str, *, vae: str | None = None) -> "MobileDiffusionPipeline":
    """Text to image with a trained denoiser, and the text encoder and autoencoder that it was trained on.

    ``vae`` is a recipe whose autoencoder, with a lighter decoder for the same latents, stands for the row's own. Raises
    BadInput for a recipe of something else, or an autoencoder of other latents, and NotAttempted where one of the runs
    is missing; the message has the command.
    """
    from mdrepro.models.pipeline import MobileDiffusionPipeline

    row = registry.get(recipe)
    if kinds.kind_of(row).gives != "unet":
        raise BadInput(f"{row.name} is a run of kind {row.kind}: must be of a denoiser")
    if vae is not None and vae != row.parents.get("vae") and _latent_source(registry.get(vae)) != _latent_source(row):
        raise BadInput(f"{vae} decodes other latents than those of {row.name}: must be a decoder of the same encoder")
    denoiser, text = _finished(row), _parts(row, "text")
    autoencoder = _finished(registry.get(vae)) if vae else _parts(row, "vae")
    sampling: dict[str, Any] = {f"default_{name}": value for name, value in row.sampling.items()}
    return MobileDiffusionPipeline(
        vae=autoencoder.load("vae"),
        text_encoder=text.load("text_encoder"),
        tokenizer=text.load("tokenizer"),
        unet=denoiser.load("unet"),
        scheduler=denoiser.load("scheduler"),
        **sampling,
    )


def _latent_source(row: Recipe) -> str | Recipe | None:
    """The autoencoder that a row rests on: a recipe, or pretrained weights."""
    return row.parents.get("vae", row.pretrained.get("vae"))


def _parts(row: Recipe, role: str) -> "Parts":
    return Pretrained(row.pretrained[role]) if role in row.pretrained else _finished(registry.get(row.parents[role]))


def _finished(row: Recipe) -> store.Run:
    if (run := store.find(row)) is None:
        raise NotAttempted(f"there is no checkpoint of {row.name}: mdrepro train {row.name}")
    return run
