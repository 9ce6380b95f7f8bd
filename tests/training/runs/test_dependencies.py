"""Which recipes have to be trained, in dependency order."""

import pytest

from mdrepro.core import paths
from mdrepro.training.recipes.recipe import Recipe
from mdrepro.training.runs import dependencies, store


def test_what_is_missing_comes_after_its_parents(rows: dict[str, Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    assert dependencies.missing(["t-1"]) == ["t-vae", "t-text", "t-base", "t-1"]
    found = dict.fromkeys(("t-base", "t-text"), paths.runs() / "quick/checkpoints/x")
    monkeypatch.setattr(store, "find", lambda name: store.Run(rows[name], found[name], {}) if name in found else None)
    assert dependencies.missing(["t-1"]) == ["t-vae", "t-1"]
    found["t-1"] = paths.runs() / "quick/checkpoints/t-1"
    assert dependencies.missing(["t-1"]) == ["t-vae"], "its pipeline needs it"
    found["t-vae"] = paths.published("quick") / "checkpoints/t-vae"
    assert dependencies.missing(["t-1", "t-reader"]) == ["t-reader"]
    assert dependencies.missing(["t-lite"], locally=True) == ["t-lite"], "a published parent is good enough"
    assert dependencies.missing(["t-lite", "t-vae"], locally=True) == ["t-vae", "t-lite"]
    assert dependencies.missing(["t-base", "t-vae"], locally=True) == ["t-vae"]
