"""What the command line does with recipes: plain functions behind ``mdrepro train`` and ``mdrepro generate``."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mdrepro.core import paths
from mdrepro.core.errors import BadInput, NotAttempted, unknown
from mdrepro.core.reading import read_json
from mdrepro.core.replicas import replica, split
from mdrepro.training.objectives.kinds import kind_of
from mdrepro.training.recipes import registry
from mdrepro.training.recipes.recipe import Recipe
from mdrepro.training.runs import pipelines, store

FINISHED = ("trained", "published")


def listed(names: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """These recipes, or one line for each row: name, tier, kind, parents, key, ``state``, folder.

    The state is trained, published, missing or needs data. A finished one has its ``seconds`` and ``cpu_seconds`` of
    training; a row also ``other_seeds``: by training seed the state of those that are finished.
    """
    rows = [_listed(registry.get(name)) for name in (registry.RECIPES if names is None else names)]
    for row in rows if names is None else ():
        recipe = registry.get(row["name"])
        others = {str(seed): _listed(registry.with_seed(recipe, seed))["state"] for seed in store.other_seeds(recipe)}
        row["other_seeds"] = {seed: state for seed, state in others.items() if state in FINISHED}
    return rows


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
    took = {name: run.record.get(name) for name in ("seconds", "cpu_seconds")}
    return row | took | {"state": FINISHED[not run.local], "folder": paths.relative(run.folder)}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The list for people."""
    from mdrepro.core.console import columns

    lines = [("recipe", "tier", "kind", "steps", "state", "other seeds", "from")]
    for row in rows:
        origins = dict.fromkeys([*row["parents"].values(), *row["pretrained"].values()])
        seeds = ", ".join(f"{seed} {state}" for seed, state in row["other_seeds"].items())
        fields = (row["name"], row["tier"], row["kind"], str(row["steps"]), row["state"], seeds)
        lines.append((*fields, ", ".join(origins)))
    return columns(lines, indent="")


def by_seeds(names: Sequence[str], seeds: int, *, denoisers: bool = False) -> list[str]:
    """Rows by ``seeds`` training seeds each: the rows themselves, then all by the next seed.

    ``denoisers``: by other seeds those of denoisers alone, as tables take them. Raises BadInput for the name of another
    seed's run.
    """
    if strange := [name for name in names if seeds > 1 and split(name)[1]]:
        raise BadInput(f"--seeds {seeds}: {strange[0]} is of one training seed: expected {split(strange[0])[0]}")
    of_kind = names if seeds == 1 or not denoisers else [n for n in names if kind_of(registry.get(n)).gives == "unet"]
    return [*names, *(replica(name, seed) for seed in range(1, seeds) for name in of_kind)]


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
    if registry.find(checkpoint):
        return pipelines.load(checkpoint, vae=decoder)
    folder = Path(checkpoint)
    if not folder.is_dir():
        raise unknown(
            "recipe or folder", checkpoint, registry.RECIPES, f"a folder of a diffusers pipeline, or {registry.LISTED}"
        )
    if decoder is not None:
        raise BadInput("--decoder needs a recipe, not a folder: leave it out")
    from diffusers import DiffusionPipeline

    from mdrepro.models import safe
    from mdrepro.models.pipeline import MobileDiffusionPipeline

    if not isinstance(name := read_json(folder / safe.INDEX, dict[str, Any]).get("_class_name"), str):
        raise BadInput(f"{folder} holds no diffusers pipeline: {safe.INDEX} names no class")
    if name == MobileDiffusionPipeline.__name__:
        return MobileDiffusionPipeline.from_pretrained(folder)
    return safe.pipeline(DiffusionPipeline, folder)


def shard(text: str | None) -> tuple[int, int] | None:
    """``1/4`` as (1, 4). Raises BadInput for another form."""
    if text is None:
        return None
    if not (match := re.fullmatch(r"(\d+)/(\d+)", text)):
        raise BadInput(f"--shard {text}: expected I/N, such as 0/4")
    return int(match[1]), int(match[2])
