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
    """Train a recipe in ``folder`` from its parents by role, with latents and text features of its data in ``latents``.

    ``resume``, ``max_seconds`` and errors are as of `loop.train`; BadInput for a setting that is not allowed,
    NotAttempted where data or pretrained weights are not here.
    """
    torch.manual_seed(recipe.loop.seed)
    training = kinds.kind_of(recipe).build(Inputs(recipe, parents, latents))
    return training.run(recipe.loop, folder, resume=resume, max_seconds=max_seconds)
