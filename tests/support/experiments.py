"""Experiments whose recipes have all been trained: tiny pipelines and scorers whose networks count as the runs' own."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mdrepro.core import paths
from mdrepro.evaluation import networks, scenes
from mdrepro.evaluation.experiment import Experiment, references, rows_of
from mdrepro.evaluation.scenes import Scenes, Scorers
from mdrepro.metrics.image.statistics import Statistics
from mdrepro.models.scenes.clip import SceneClip
from mdrepro.models.scenes.reader import SceneReader
from mdrepro.papers import ledger
from mdrepro.papers.schema import PUBLISHED
from mdrepro.reproduce.workflow.parameters import resolve
from mdrepro.reproduce.workflow.record import RUN
from mdrepro.sampling import generate
from mdrepro.training.recipes import registry
from mdrepro.training.runs import loaded, store
from mdrepro.training.runs.store import Run
from tests.support import tiny_pipeline as tiny
from tests.support.checkout import REPOSITORY
from tests.support.notebooks import run_cells

N = 10
"""Images of a set, more than features."""
VALUES: dict[str, Any] = {"guidance": 3.0, "steps": 2, "scales": ["1.5", "3", "8"]}


class TinyRun(Run):
    """A finished run whose networks are tiny."""

    def load(self, part: str) -> Any:
        torch.manual_seed(0)
        makers: dict[str, Callable[[], Any]] = {
            "vae": tiny.autoencoder,
            "reader": lambda: SceneReader(width=8, depth=1).eval(),
            "clip": lambda: SceneClip(features=8, image_width=8).eval(),
        }
        return loaded.noted(makers[part](), self)


def run(recipe: str, folder: Path) -> Run:
    """A finished run of a recipe as it stands."""
    place = folder / f"{recipe}-key_of_{recipe}"
    place.mkdir(parents=True, exist_ok=True)
    record = {"recipe": recipe, "key": f"key_of_{recipe}", "parameters": 1, "steps": 2, "seconds": 1.0}
    record |= {"commit": None, "dirty": False, "files": {"reader/weights.safetensors": "0" * 64}}
    made = TinyRun(registry.get(recipe), place, record)
    made.file.write_text("{}")
    return made


def trained(patch: pytest.MonkeyPatch, folder: Path, pipeline: Callable[[str], Any] | None = None) -> None:
    """Every recipe has a finished run below ``folder``.

    Args:
        patch: undoes it.
        folder: of the runs.
        pipeline: makes that of a recipe; its denoiser counts as the recipe's. None: `tiny_pipeline`, all with the same
            weights.
    """

    def load(recipe: str) -> Any:
        made = tiny.pipeline() if pipeline is None else pipeline(recipe)
        if recipe != PUBLISHED:
            loaded.noted(made.unet, run(recipe, folder))
        return made

    patch.setattr(store, "key", lambda recipe: f"key_of_{recipe.name}")
    patch.setattr(store, "load_or_train", lambda name: run(name, folder))
    patch.setattr(networks, "pipeline", load)


def experiment(table: str, tier: str = "quick", **changes: Any) -> Experiment:
    """The rows of a table, with `VALUES` for the parameters that they refer to, and ``changes``."""
    wanted = references(ledger.find(table), ledger.check_tier(tier))
    return rows_of(table, tier, **{name: VALUES[name] for name in wanted} | changes)


def scored(**fields: Any) -> Scenes:
    """An evaluation on scenes without networks: for tests that score nothing."""
    scorers = Scorers(None, None, fields.pop("scoring", "a scorer"), "0")  # type: ignore[arg-type]
    other = Statistics.of(np.random.default_rng(8).normal(size=(50, 4)))
    given: dict[str, Any] = {"scorers": scorers, "scenes": (), "reference": other, "renders": None}
    return Scenes(**given | fields)


def resolved(table: str, tier: str) -> dict[str, Any]:
    """The parameters at a tier of the notebook as it is in the repository."""
    paths.root.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MDREPRO_ROOT", str(REPOSITORY))
        values = resolve(ledger.find(table), ledger.check_tier(tier))
    paths.root.cache_clear()
    return values


def execute(table: str, tier: str, folder: Path, patch: pytest.MonkeyPatch, **changes: Any) -> dict[str, Any]:
    """The result of a notebook's cells with ``changes`` of its parameters, recorded in ``folder`` as a batch run."""
    values = resolved(table, tier) | changes
    state = {"commit": None, "dirty": False, "changed_files": []}
    run = {"table": table, "prefix": sys.prefix, "parameters": values, "state": state, "fingerprint": {}}
    folder.mkdir(parents=True)
    patch.setenv(RUN, json.dumps(run | {"folder": str(folder)}))
    run_cells(table, values)
    return json.loads((folder / "result.json").read_text())


class Denoiser(nn.Module):
    """One that makes no images and has no blocks."""

    layout = SimpleNamespace(blocks=list, stages={})

    def replay(self, actions: Any) -> None:
        assert list(actions) == []


class Pipeline:
    """Its components, in a pipeline that is never called."""

    def __init__(self, **components: Any) -> None:
        vars(self).update(components)

    @property
    def components(self) -> dict[str, Any]:
        return vars(self)


def plant(patch: pytest.MonkeyPatch, folder: Path, recipe: str) -> None:
    """Everything is trained, but what is taken for one recipe is another's checkpoint; images are black."""
    other, find = run("shapes-sd-8", folder), TinyRun.load
    trained(patch, folder, lambda _: Pipeline(unet=Denoiser(), vae=nn.Module()))
    load = networks.pipeline

    def pipeline(name: str) -> Any:
        made = load(name)
        if name == recipe:
            loaded.noted(made.unet, other)
        return made

    def part(self: TinyRun, name: str) -> Any:
        network = find(self, name)
        return loaded.noted(network, other) if self.recipe.name == recipe else network

    patch.setattr(networks, "pipeline", pipeline)
    patch.setattr(TinyRun, "load", part)
    patch.setattr(generate, "images", lambda _, texts, **__: torch.zeros(len(texts), 3, 64, 64, dtype=torch.uint8))
    patch.setattr(networks, "latents", lambda *_, **__: torch.zeros(N, 8, 8, 8))
    patch.setattr(scenes, "autoencoded", lambda _, images: images)
    features = np.random.default_rng(0).normal(size=(50, 8))
    patch.setattr(scenes, "reference", lambda scorers, skip: Statistics.of(features))
