"""Rows that can be trained, keys that change when and only when the outcome would, settings that are checked."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.data import sources
from mdrepro.training.objectives import kinds
from mdrepro.training.objectives.inputs import Inputs
from mdrepro.training.recipes import registry
from mdrepro.training.recipes.recipe import Recipe
from mdrepro.training.runs import settings, store
from mdrepro.training.runs.model_folders import Pretrained
from tests.support.checkout import REPOSITORY
from tests.support.recipe_rows import loop, put, tiny

EVERY = list(registry.RECIPES)


@pytest.mark.parametrize("name", EVERY)
def test_a_row_says_only_what_its_network_and_objective_take(name: str) -> None:
    """Each setting goes through the same check as one from the command line, as the value that it already has."""
    recipe, types = registry.get(name), settings.allowed(registry.get(name))
    for section in ("data", "network", "noise", "options", "sampling"):
        for field, value in getattr(recipe, section).items():
            assert field == "source" or field in types[section], f"{section}.{field}"
            again = settings.changed(recipe, [f"{section}.{field}={json.dumps(value)}"])
            assert json.dumps(again.plain()) == json.dumps(recipe.plain())
    for field in ("learning_rates", "phase_betas"):
        phases = {"gan": {"generator", "discriminator"}}.get(recipe.kind, set())
        assert set(getattr(recipe.loop, field)) <= phases


def test_the_quick_tier_is_what_its_tables_need() -> None:
    quick = registry.names("quick")
    needed = {"reader", "clip", "vae", "vae-lite", "text", "base", "8", "4", "1", "sd", "robust", "evolved", "snap"}
    assert {f"shapes-{name}" for name in needed} <= set(quick)
    for name in quick:
        recipe = registry.get(name)
        assert recipe.loop.threads == 1, "two run side by side, and a run gives the same bits again"
        assert recipe.data["source"] == ("photos" if name.startswith("photos-") else "shapes")
        assert recipe.data.get("split", "train") == "train"
        if kinds.kind_of(recipe).gives == "unet":
            assert set(recipe.sampling) == {"steps", "guidance"}


def test_rows_follow_their_parents_and_names_are_unique() -> None:
    first, second = tiny()[1], replace(tiny()[2], parents={"vae": "t-vae"})
    assert list(registry._table([first, second])) == ["t-vae", "t-lite"]
    with pytest.raises(BadInput, match="'t-vae' is no row before it"):
        registry._table([second, first])
    with pytest.raises(BadInput, match="two rows"):
        registry._table([first, first])


def test_a_recipe_without_what_its_kind_needs_is_refused() -> None:
    with pytest.raises(BadInput, match="steps needs vae and text and unet, and has no unet"):
        kinds.kind_of(
            Recipe(name="x", tier="quick", kind="steps", parents={"vae": "a", "text": "b"}, data={}, loop=loop())
        )
    with pytest.raises(BadInput, match="did you mean diffusion"):
        kinds.kind_of(Recipe(name="x", tier="quick", kind="difusion", data={}, loop=loop()))
    with pytest.raises(BadInput, match="did you mean text"):
        Recipe(name="x", tier="quick", kind="reader", parents={"txt": "a"}, data={}, loop=loop())


CHANGES: dict[str, dict[str, Any]] = {
    "steps": {"loop": loop(steps=3)},
    "seed": {"loop": loop(seed=1)},
    "threads": {"loop": loop(threads=2)},
    "a rate of a phase": {"loop": loop(learning_rates={"unet": 1e-2})},
    "a width": {"network": {"row": "ours", "width": 16}},
    "an option": {"options": {"kl": 1.0}},
    "the noise": {"noise": {"beta_end": 0.01}},
    "more data": {"data": {"source": "shapes", "count": 13}},
    "another split": {"data": {"source": "shapes", "count": 12, "split": "validation"}},
    "no cache": {"data": {"source": "shapes", "count": 12, "cache": False}},
    "the version": {"version": 2},
    "the name": {"name": "other"},
    "a parent": {"parents": {"vae": "t-vae"}},
}


def test_every_change_of_a_recipe_changes_its_key(rows: dict[str, Recipe]) -> None:
    recipe = replace(rows["t-vae"], loop=loop())
    keys = {what: store.key(replace(recipe, **change)) for what, change in CHANGES.items()}
    assert len({*keys.values(), store.key(recipe)}) == len(CHANGES) + 1, keys
    assert all(len(key) == 12 and int(key, 16) >= 0 for key in keys.values())


def test_what_leaves_the_weights_alone_leaves_the_key_alone(rows: dict[str, Recipe], tmp_path: Path) -> None:
    recipe = rows["t-base"]
    same = [
        replace(recipe, sampling={"steps": 9, "guidance": 1.0}),
        replace(recipe, tier="proxy"),
        replace(recipe, loop=replace(recipe.loop, log_every=7, checkpoint_every=9)),
        replace(recipe, network=dict(reversed(recipe.network.items()))),
    ]
    assert {store.key(each) for each in same} == {store.key(recipe)}
    assert store.stamp("t-base")["sampling"] == {"steps": 2, "guidance": 2.0}


def test_a_key_hangs_on_all_ancestors(rows: dict[str, Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: store.key(row) for name, row in rows.items()}
    put([replace(row, version=2) if row.name == "t-vae" else row for row in tiny()], monkeypatch)
    changed = {name for name, row in registry.RECIPES.items() if store.key(row) != before[name]}
    assert changed == set(before) - {"t-reader", "t-text"}


def test_another_training_seed_is_of_the_same_latents_and_of_its_own_denoisers() -> None:
    row, other = registry.get("shapes-4"), registry.get("shapes-4-seed2")
    assert other.parent_names == {
        **{"vae": "shapes-vae", "text": "shapes-text"},
        **{"unet": "shapes-8-seed2"},
    }
    assert registry.get("shapes-8-seed2").parent_names["unet"] == "shapes-base-seed2"
    fields = {name for name, value in vars(row).items() if vars(other)[name] != value}
    assert fields == {"name", "parents", "loop"}
    assert other.loop == replace(row.loop, seed=2)
    assert registry.get("shapes-clip-seed1").loop.seed == 2  # the row's own is 1
    for name in ("shapes-8-seed0", "shapes-8-seed01", "shapes-9-seed1", "-seed1"):
        with pytest.raises(BadInput, match="recipe"):
            registry.get(name)


def test_names_of_all_seeds_are_known_and_follow_their_parents() -> None:
    assert registry.find("shapes-1-seed1") == registry.get("shapes-1-seed1")
    assert registry.find("shapes-nothing-seed1") is registry.find("shapes-1-seed0") is None
    given = ["shapes-1-seed1", "shapes-1", "shapes-vae", "shapes-base-seed1"]
    assert registry.parents_first(given) == ["shapes-vae", "shapes-base-seed1", "shapes-1", "shapes-1-seed1"]


def test_a_key_is_the_same_in_another_process_and_place(rows: dict[str, Recipe], tmp_path: Path) -> None:
    program = (
        "from tests.support.recipe_rows import tiny; from mdrepro.training.recipes import registry\n"
        "from mdrepro.training.runs import store\n"
        "registry.RECIPES = registry._table(tiny()); print(store.key(registry.get('t-1')))"
    )
    (tmp_path / "notebooks").mkdir()
    environment = os.environ | {"MDREPRO_ROOT": str(tmp_path), "PYTHONHASHSEED": "5", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == store.key(rows["t-1"])


def test_where_pictures_lie_does_not_count_but_what_they_are_does(rows: dict[str, Recipe], tmp_path: Path) -> None:
    from PIL import Image

    def folder(name: str, caption: str) -> str:
        (tmp_path / name).mkdir()
        Image.new("RGB", (16, 16), "red").save(tmp_path / name / "a.png")
        (tmp_path / name / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "text": caption}))
        return str(tmp_path / name)

    def key(path: str, size: int = 16) -> str:
        return store.key(replace(rows["t-vae"], data={"source": "folder", "path": path, "size": size}))

    here = key(folder("here", "a cat"))
    assert key(folder("there", "a cat")) == here
    assert key(folder("other", "a dog")) != here
    assert key(str(tmp_path / "here"), 8) != here
    with pytest.raises(NotAttempted, match=r"--set data\.path"):
        key("")


def test_where_pretrained_weights_lie_does_not_count_but_their_bytes_do(tmp_path: Path) -> None:
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(content)
        (tmp_path / name / "notes.txt").write_text(name)
    a, b, c = (Pretrained(str(tmp_path / name)).digest() for name in "abc")
    assert a == b != c
    assert Pretrained("openai/clip-vit-large-patch14").digest() == "openai/clip-vit-large-patch14"


@pytest.mark.parametrize(
    ("name", "setting", "says"),
    [
        ("shapes-base", "loop.stpes=1", "did you mean loop.steps"),
        ("shapes-base", "lop.steps=1", "did you mean loop"),
        ("shapes-base", "loop.steps", "section.name=value"),
        ("shapes-base", "steps=1", "section.name=value"),
        ("shapes-base", "loop.steps=many", r"loop.steps=many: it must be int"),
        ("shapes-base", "loop.steps=2.5", "it must be int"),
        ("shapes-base", "loop.steps=0", "it must be a number from 1"),
        ("shapes-base", "loop.decay=cosin", "did you mean cosine"),
        ("shapes-base", "network.width=1", "allowed: network.class"),
        ("shapes-base", "network.class=UNet", "allowed: MobileDiffusionUNet"),
        ("shapes-8", "network.ffn_ratio=1", "unknown setting"),
        ("shapes-8", "options.guidance=[2]", "guidance"),
        ("shapes-8", "options.teacher=x", "unknown setting"),
        ("shapes-vae", "options.kl=much", "it must be float"),
        ("shapes-vae", "data.source=coca", "did you mean coco"),
        ("shapes-reader", "noise.beta_end=1", "allowed: none"),
        ("shapes-reader", "pretrained.unet=x", "allowed: none"),
    ],
)
def test_settings_that_do_not_fit_are_named(name: str, setting: str, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        settings.changed(registry.get(name), [setting])


def test_settings_take_the_type_of_what_they_set() -> None:
    base = settings.changed(
        registry.get("shapes-base"),
        ["loop.steps=7", "loop.learning_rate=1e-5", "options.min_snr=5", "network.block_out_channels=[32, 64]"],
    )
    assert (base.loop.steps, base.loop.learning_rate, base.options["min_snr"]) == (7, 1e-5, 5.0)
    assert list(base.network["block_out_channels"]) == [32, 64]
    assert settings.changed(base, ["options.min_snr=null"]).options["min_snr"] is None
    assert settings.changed(registry.get("shapes-8"), ["options.guidance=[3, 9]"]).options["guidance"] == (3.0, 9.0)
    gan = settings.changed(registry.get("shapes-1"), ['loop.phase_betas={"discriminator": [0, 0.9]}'])
    assert gan.loop.phase_betas == {"discriminator": (0.0, 0.9)}
    assert settings.changed(registry.get("shapes-vae"), ["options.kind=bce"]).options["kind"] == "bce"


def test_another_source_or_class_begins_with_its_own_settings() -> None:
    base = registry.get("shapes-base")
    coco = settings.changed(base, ["data.images=val", "data.source=coco"])
    assert sources.settings(coco.data) == {
        "source": "coco",
        "path": "",
        "annotations": "annotations/captions_train2014.json",
        "images": "val",
        "size": 256,
        "fit": "center-crop",
        "captions": "all",
        "broken": 0.01,
        "cache": True,
    }
    other = settings.changed(base, ["network.attention_heads=2", "network.class=EvolvableUNet"])
    assert other.network["attention_heads"] == 2
    assert "mid_transformer_blocks" not in other.network
    with torch.device("meta"):
        assert type(Inputs(other, {}, Path()).denoiser()).__name__ == "EvolvableUNet"
