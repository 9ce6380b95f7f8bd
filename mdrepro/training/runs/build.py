"""From a recipe to a trained run."""

from collections.abc import Mapping
from pathlib import Path

import torch

from mdrepro.training.objectives import kinds
from mdrepro.training.objectives.inputs import Inputs, Parts, Trained
from mdrepro.training.recipes.recipe import Recipe


def run(
    recipe: Recipe,
    parents: Mapping[str, Parts],
    folder: Path,
    latents: Path,
    *,
    resume: bool = True,
    max_seconds: float | None = None,
) -> Trained:
    """Train a recipe.

    Args:
        recipe: the run.
        parents: by role.
        folder: where it is trained.
        latents: for latents and text features of its data.
        resume, max_seconds: as in `loop.train`.

    Raises:
        BadInput: a setting that is not allowed.
        NotAttempted: data or pretrained weights are not here.
    """
    torch.manual_seed(recipe.loop.seed)
    training = kinds.kind_of(recipe).build(Inputs(recipe, parents, latents))
    return training.run(recipe.loop, folder, resume=resume, max_seconds=max_seconds)
