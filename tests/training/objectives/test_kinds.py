"""Kinds of run register themselves: a file in the package is enough to list, set, train and sample a new one."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mdrepro.core.errors import BadInput
from mdrepro.diffusion.samplers import SAMPLERS
from mdrepro.sampling import generate
from mdrepro.training import objectives
from mdrepro.training.objectives import kinds
from mdrepro.training.recipes import registry
from mdrepro.training.recipes.recipe import ROLES, Recipe
from mdrepro.training.runs import commands, pipelines, settings, store
from tests.support.recipe_rows import LATENT, REPOSITORY, put, tiny

PARTS = {"unet", "vae", "text_encoder", "reader", "clip"}


@pytest.fixture
def toy(rows: dict[str, Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recipe]:
    """A recipe whose kind is a file that lies in the package, as far as Python can see."""
    with pytest.raises(BadInput, match="unknown kind 'toy'"):
        kinds.get("toy")
    shutil.copy(REPOSITORY / "tests/support/toy_objective.py", tmp_path / "toy.py")
    monkeypatch.setattr(objectives, "__path__", [*objectives.__path__, str(tmp_path)])
    recipe = replace(rows["t-base"], name="t-toy", kind="toy", options={"level": 3.0})
    put([*tiny(), recipe], monkeypatch)
    yield recipe
    sys.modules.pop(f"{objectives.__name__}.toy", None)
    kinds._KINDS.pop("toy", None)


def test_one_file_and_a_row_are_all_that_a_new_kind_takes(toy: Recipe) -> None:
    (listed,) = (row for row in commands.listed() if row["name"] == "t-toy")
    assert (listed["kind"], listed["state"], listed["parents"]) == ("toy", "missing", LATENT)
    assert set(settings.allowed(toy)["options"]) == {"level", "times"}
    assert settings.changed(toy, ["options.level=7", "options.times=[4]"]).options == {"level": 7.0, "times": (4,)}
    with pytest.raises(BadInput, match=r"did you mean options\.level"):
        settings.changed(toy, ["options.levle=7"])
    with pytest.raises(BadInput, match="unknown setting"):
        settings.changed(toy, ["options.unet=7"])
    losses = [row["unet/loss"] for row in store.load_or_train(toy).record["curve"]]
    other = store.load_or_train(settings.changed(toy, ["options.level=7"]))
    assert len(losses) == 2
    assert other.record["curve"][0]["unet/loss"] == pytest.approx(losses[0] * 49 / 9, rel=0.5)
    pipeline, sampler = pipelines.load("t-toy"), kinds.kind_of(toy).sampler
    assert sampler == "euler"
    images = generate.images(pipeline, ["a red star"], sampler=sampler)
    assert images.shape == (1, 3, 64, 64)
    with pytest.raises(BadInput, match="toy needs vae and text, and has no text"):
        kinds.kind_of(replace(toy, parents={"vae": "t-vae"}))


@pytest.mark.parametrize("name", sorted({recipe.kind for recipe in registry.RECIPES.values()}))
def test_a_kind_says_what_it_needs_and_gives(name: str) -> None:
    kind = kinds.get(name)
    assert set(kind.needs) <= set(ROLES)
    assert kind.gives in PARTS
    assert kind.sampler is None or kind.sampler in SAMPLERS
    assert not {"unet", "teacher", "scheduler", "null_text", "self"} & set(kinds.option_types(kind))


def test_denoisers_of_one_step_renoise_and_others_follow_the_trajectory() -> None:
    assert {kinds.kind_of(registry.get(name)).sampler for name in ("shapes-1",)} == {"renoise"}
    assert {kinds.kind_of(registry.get(name)).sampler for name in ("shapes-8", "shapes-evolved")} == {"ddim"}
    assert kinds.kind_of(registry.get("shapes-4-lcm")).sampler is None


def test_an_unknown_kind_is_named_with_its_nearest() -> None:
    with pytest.raises(BadInput, match="did you mean evolution"):
        kinds.get("evoluton")


@pytest.mark.parametrize("name", ["shapes-1", "shapes-vae", "shapes-8"])
def test_an_unknown_option_of_a_row_is_named_with_its_nearest(name: str) -> None:
    row = registry.get(name)
    nearest = next(iter(row.options))
    with pytest.raises(BadInput, match=rf"unknown option of {name} '{nearest}s' \(did you mean {nearest}\?\)"):
        kinds.kind_of(replace(row, options={**row.options, f"{nearest}s": 1}))


def test_recipes_are_listed_without_torch() -> None:
    program = (
        "import json, sys; from mdrepro.training.runs import commands, store\n"
        "from mdrepro.training.objectives import kinds; from mdrepro.training.recipes import registry\n"
        "print(json.dumps([len(registry.RECIPES), 'torch' in sys.modules, 'diffusers' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    count, *heavy = json.loads(done.stdout)
    assert count == len(registry.RECIPES)
    assert heavy == [False, False]
