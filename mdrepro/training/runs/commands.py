"""What the command line does with recipes: plain functions behind ``mdrepro train`` and ``mdrepro generate``."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdrepro.core import paths
from mdrepro.core.errors import BadInput, NotAttempted, unknown
from mdrepro.training.recipes import registry
from mdrepro.training.recipes.recipe import Recipe
from mdrepro.training.runs import pipelines, store


def listed() -> list[dict[str, Any]]:
    """All recipes: name, tier, kind, parents, key, ``state`` (trained, published, missing or needs data), folder."""
    return [_listed(recipe) for recipe in registry.RECIPES.values()]


def _listed(recipe: Recipe) -> dict[str, Any]:
    row = {name: getattr(recipe, name) for name in ("name", "tier", "kind", "pretrained", "sampling")}
    row |= {"parents": recipe.parent_names, "steps": recipe.loop.steps, "batch": recipe.loop.batch}
    row |= {"key": None, "folder": None}
    try:
        row["key"] = store.key(recipe)
        run = store.find(recipe)
    except NotAttempted:
        return row | {"state": "needs data"}
    if run is None:
        return row | {"state": "missing"}
    return row | {"state": "trained" if run.local else "published", "folder": paths.relative(run.folder)}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The list for people."""
    from mdrepro.core.console import columns

    lines = [("recipe", "tier", "kind", "steps", "state", "from")]
    for row in rows:
        origins = dict.fromkeys([*row["parents"].values(), *row["pretrained"].values()])
        lines.append((row["name"], row["tier"], row["kind"], str(row["steps"]), row["state"], ", ".join(origins)))
    return columns(lines, indent="")


def train(
    name: str, settings: Sequence[str], *, resume: bool = True, max_seconds: float | None = None
) -> dict[str, Any]:
    """Train one recipe with settings of ``--set``; return its record, or ``{"finished": False}`` where time ran out.

    Raises BadInput for an unknown recipe or setting, and where data or pretrained weights are missing.
    """
    from mdrepro.training.runs.session import Unfinished
    from mdrepro.training.runs.settings import changed

    try:
        run = store.train(changed(registry.get(name), settings), resume=resume, max_seconds=max_seconds)
    except Unfinished as rest:
        print(rest)
        return {"recipe": name, "finished": False}
    except NotAttempted as missing:  # on the command line the user has to provide it
        raise BadInput(str(missing)) from missing
    print(f"{name}: {run.record['seconds']:.0f} s, {paths.relative(run.folder)}")
    return run.record | {"finished": True, "folder": paths.relative(run.folder)}


def pipeline(checkpoint: str, decoder: str | None = None) -> Any:
    """The pipeline of a recipe, or of a folder.

    Raises BadInput for anything else, or a folder with another decoder; NotAttempted where the recipe is not trained.
    """
    if checkpoint in registry.RECIPES:
        return pipelines.load(checkpoint, vae=decoder)
    folder = Path(checkpoint)
    if not folder.is_dir():
        raise unknown("recipe or folder", checkpoint, registry.RECIPES)
    if decoder is not None:
        raise BadInput("--decoder needs a recipe, not a folder: leave it out")
    from diffusers import DiffusionPipeline

    from mdrepro.models.pipeline import MobileDiffusionPipeline
    from mdrepro.models.safe import refuse_pickles

    try:
        name = json.loads((folder / "model_index.json").read_text())["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{folder} holds no diffusers pipeline: model_index.json cannot be read ({error})") from None
    if name == MobileDiffusionPipeline.__name__:
        return MobileDiffusionPipeline.from_pretrained(folder)
    refuse_pickles(folder)
    return DiffusionPipeline.from_pretrained(folder, use_safetensors=True)


def shard(text: str | None) -> tuple[int, int] | None:
    """``1/4`` as (1, 4). Raises BadInput for another form."""
    if text is None:
        return None
    if not (match := re.fullmatch(r"(\d+)/(\d+)", text)):
        raise BadInput(f"--shard {text}: expected I/N, such as 0/4")
    return int(match[1]), int(match[2])
