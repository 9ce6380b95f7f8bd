"""Tiny recipes in place of all others, in a checkout of their own."""

from pathlib import Path

import pytest

from mdrepro.training.recipes.recipe import Recipe
from tests.support.recipe_rows import put, tiny


@pytest.fixture
def rows(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Recipe]:
    """By name."""
    return put(tiny(), monkeypatch)
