"""Rows of autoencoders on photographs: rates and crops over both runs, and settings that reach the parents."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from mdrepro.core.errors import BadInput
from mdrepro.models.mobilediffusion import vae
from mdrepro.training.objectives import kinds
from mdrepro.training.recipes import registry
from mdrepro.training.recipes.photos import PERCEPTUAL, autoencoders
from mdrepro.training.recipes.recipe import Recipe
from mdrepro.training.runs import settings, store

ROWS = [*vae.FAMILY, *(row + PERCEPTUAL for row in vae.FAMILY)]


def runs(row: str = "ours", **changes: Any) -> list[Recipe]:
    """The runs of a network, the first one first."""
    found = [autoencoders(**changes)[row]]
    while start := found[0].parents.get("start"):
        found.insert(0, registry.get(start))
    return found


def test_each_stage_warms_up_and_ends_near_zero() -> None:
    for run in runs("ours-perceptual", steps=100, mixed=60, perceptual=40, learning_rate=1.0):
        loop = run.loop
        rates = [loop.rate("autoencoder", step) for step in range(loop.steps)]
        rising = [loop.learning_rate * (k + 1) / loop.warmup for k in range(loop.warmup)]
        assert rates[: loop.warmup] == pytest.approx(rising)
        assert rates[-1] < 0.01 * loop.learning_rate
        assert all(a > b for a, b in pairwise(rates[loop.warmup :]))


def test_stages_differ_in_sizes_optimiser_and_loss() -> None:
    def plan(**changes: int) -> list[tuple[tuple[int, ...], int, int, str]]:
        found = runs("sd-perceptual", **changes)
        return [(run.data["sizes"], run.loop.batch, run.loop.steps, run.loop.optimiser) for run in found]

    assert plan(crop=16, batch=8, steps=10, mixed=4, perceptual=3) == [
        ((16,), 8, 10, "muon"),
        ((16, 64, 128, 192, 256), 1, 4, "muon"),
        ((16, 64, 128, 192, 256), 1, 3, "adamw"),
    ]
    assert "sd-perceptual" not in autoencoders(perceptual=0)
    assert len({run.loop.seed for seed in (0, 1) for run in runs("sd-perceptual", seed=seed)}) == 6
    lite, full = runs("ours-lite-perceptual"), runs("ours-perceptual")
    assert lite[-1].parents["vae"] == full[-1]
    assert lite[0].parents["vae"] == lite[1].parents["vae"] == full[1]
    assert full[-1].options["perceptual"] > 0 < full[-1].options["adversarial"]
    assert [run.loop.precision for run in full] == ["fp32", "fp32", "bf16"]
    assert [run.options["perceptual"] for run in full[:-1]] == [0, 0]


def test_all_networks_see_the_same_crops_in_the_same_order() -> None:
    for suffix in ("", PERCEPTUAL):
        found = [runs(row + suffix) for row in vae.FAMILY]
        seen = {tuple((str(run.data), run.loop.seed, run.loop.batch) for run in chain) for chain in found}
        assert len(seen) == 1


def test_defaults_are_the_rows_and_every_setting_changes_all_keys() -> None:
    keys = {row: store.key(recipe) for row, recipe in autoencoders().items()}
    assert keys == {row: store.key(registry.get(f"photos-{row}")) for row in ROWS}
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
    assert len({*keys.values(), *found}) == 6 * (len(changes) + 1)


def test_a_change_of_the_first_run_alone_changes_the_keys_of_all_that_begin_with_it() -> None:
    start, ours = runs()[0], runs()[1]
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
    changed = settings.changed(registry.get("shapes-vae"), ["data.source=photos", "data.sizes=[32, 64]"])
    assert changed.data["sizes"] == (32, 64)
    with pytest.raises(BadInput, match=r"data\.sizes=big"):
        settings.changed(changed, ["data.sizes=big"])
