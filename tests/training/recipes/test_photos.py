"""Rows of autoencoders on photographs: rates and crops over both runs, and settings that reach the parents."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from mdrepro.core.errors import BadInput
from mdrepro.models.mobilediffusion import vae
from mdrepro.training.objectives import kinds
from mdrepro.training.recipes import registry
from mdrepro.training.recipes.photos import autoencoders
from mdrepro.training.recipes.recipe import Recipe
from mdrepro.training.runs import settings, store


def runs(row: str = "ours", **changes: Any) -> list[Recipe]:
    """The runs of a network, the first one first."""
    recipe = autoencoders(**changes)[row]
    start = recipe.parents.get("start")
    return [registry.get(start), recipe] if start else [recipe]


def test_the_learning_rate_warms_up_and_ends_near_zero() -> None:
    loops = [run.loop for run in runs(steps=100, learning_rate=1.0)]
    rates = [loop.rate("autoencoder", step) for loop in loops for step in range(loop.steps)]
    assert len(rates) == 100
    assert rates[:5] == pytest.approx([(k + 1) / 5 for k in range(5)])
    assert rates[5:71] == pytest.approx([1] * 66)
    assert rates[85] == pytest.approx(0.5)
    assert rates[-1] < 5e-3
    assert all(a > b for a, b in pairwise(rates[70:]))


def test_the_last_crops_are_twice_as_large_and_half_as_many() -> None:
    def plan(**changes: int) -> list[tuple[int, int, int]]:
        return [(run.data["size"], run.loop.batch, run.loop.steps) for run in runs(**changes)]

    assert plan(crop=16, batch=8, steps=10) == [(16, 8, 7), (32, 4, 3)]
    assert plan(crop=16, batch=1, steps=1) == [(32, 1, 1)]
    assert {run.loop.seed for seed in (0, 1) for run in runs(seed=seed)} == {0, 1, 2, 3}


def test_all_networks_see_the_same_crops_in_the_same_order() -> None:
    seen = {tuple((str(run.data), run.loop.seed, run.loop.batch) for run in runs(row)) for row in vae.FAMILY}
    assert len(seen) == 1


def test_defaults_are_the_rows_and_every_setting_changes_all_keys() -> None:
    keys = {row: store.key(recipe) for row, recipe in autoencoders().items()}
    assert keys == {row: store.key(registry.get(f"photos-{row}")) for row in vae.FAMILY}
    changes: tuple[dict[str, Any], ...] = (
        {"width": 8},
        {"crop": 32},
        {"batch": 4},
        {"steps": 100},
        {"learning_rate": 0.01},
        {"seed": 1},
        {"threads": 2},
        {"precision": "bf16"},
    )
    found = [store.key(recipe) for change in changes for recipe in autoencoders(**change).values()]
    assert len({*keys.values(), *found}) == 3 * (len(changes) + 1)


def test_a_change_of_the_first_run_alone_changes_the_keys_of_all_that_begin_with_it() -> None:
    start, ours = runs()
    other = settings.changed(start, ["loop.learning_rate=0.1"])
    changed = store.key(Recipe(**(vars(ours) | {"parents": {"start": other}})))
    assert changed != store.key(ours)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"precision": "fp16"}, "precision"), ({"steps": 0}, "steps"), ({"batch": 0}, "batch"), ({"seed": -1}, "seed")],
)
def test_values_that_are_not_allowed(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        autoencoders(**wrong)


@pytest.mark.parametrize(
    ("wrong", "message"), [({"width": 12}, "width 12: a multiple of 8"), ({"row": "other"}, "unknown row 'other'")]
)
def test_networks_that_no_layout_gives_are_refused_before_training(wrong: dict[str, Any], message: str) -> None:
    ours = autoencoders()["ours"]
    with pytest.raises(BadInput, match=message):
        kinds.kind_of(replace(ours, network={**ours.network, **wrong}))


def test_photographs_have_no_captions() -> None:
    with pytest.raises(BadInput, match=r"shapes-base: diffusion needs captions; data\.source=photos has none"):
        settings.changed(registry.get("shapes-base"), ["data.source=photos"])
    assert settings.changed(registry.get("shapes-vae"), ["data.source=photos", "data.size=32"]).data["size"] == 32
