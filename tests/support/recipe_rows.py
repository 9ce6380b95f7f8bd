"""Recipes that train in a moment, and a way to have them in child processes too."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mdrepro.diffusion.levels import V_FROM_PURE_NOISE
from mdrepro.training.engine.config import LoopConfig
from mdrepro.training.recipes import registry
from mdrepro.training.recipes.recipe import Recipe

if TYPE_CHECKING:
    import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FEW = {"source": "shapes", "count": 12}
LATENT = {"vae": "t-vae", "text": "t-text"}
PLAIN = {"perceptual": 0.0, "adversarial": 0.0, "power": 2}


def loop(**changes: object) -> LoopConfig:
    settings: dict = {"steps": 2, "batch": 2, "learning_rate": 1e-3, "threads": 1, "log_every": 1}
    return LoopConfig(**(settings | changes))


def tiny() -> list[Recipe]:
    unet = {"class": "MobileDiffusionUNet", "sample_size": 8, "cross_attention_dim": 32, "attention_head_dim": 16}
    unet |= {"block_out_channels": (16, 16, 16), "mid_transformer_blocks": 1, "norm_num_groups": 8}
    sd = {"class": "EvolvableUNet", "sample_size": 8, "in_channels": 8, "out_channels": 8, "cross_attention_dim": 32}
    sd |= {"block_out_channels": (16, 16), "cross_attention": (True, True), "attention_heads": 2}
    sd |= {"norm_num_groups": 8, "layers_per_block": 1}
    noise, sampling = V_FROM_PURE_NOISE, {"steps": 2, "guidance": 2.0}

    def row(name: str, kind: str, **more: object) -> Recipe:
        fields: dict = {"name": name, "tier": "quick", "kind": kind, "data": FEW, "loop": loop()}
        return Recipe(**(fields | more))

    def of_base(name: str, kind: str, **more: object) -> Recipe:
        fields: dict = {"parents": {**LATENT, "unet": "t-base"}, "sampling": sampling}
        return row(name, kind, **(fields | more))

    return [
        row("t-reader", "reader", network={"width": 8, "depth": 1}, loop=loop(steps=4, checkpoint_every=2)),
        row("t-vae", "autoencoder", network={"row": "ours", "width": 8}, options=PLAIN),
        row("t-lite", "decoder", parents={"vae": "t-vae"}, network={"row": "ours-lite", "width": 8}, options=PLAIN),
        row("t-text", "text", network={"width": 32, "layers": 1, "heads": 2}),
        row("t-base", "diffusion", parents=LATENT, network=unet, noise=noise, loop=loop(ema=0.9), sampling=sampling),
        of_base("t-relu", "relu"),
        of_base("t-steps", "steps", options={"steps": 4}),
        of_base("t-slower", "steps", options={"steps": 4, "teacher_steps": 16, "scaling": "constant"}),
        of_base("t-halved", "progressive", options={"steps": 4}),
        of_base("t-w", "guidance"),
        of_base("t-w-4", "conditioned", parents={**LATENT, "unet": "t-w"}, options={"steps": 4}),
        of_base("t-lcm", "consistency", options={"solver_steps": 10}, loop=loop(ema=0.9)),
        of_base("t-1", "gan", sampling={"steps": 1, "guidance": 1.0}),
        row("t-sd", "diffusion", parents=LATENT, network=sd, noise=noise),
        row("t-robust", "robust", parents={**LATENT, "unet": "t-sd"}, options={"skip_probability": 0.5}),
        row(
            "t-evolved",
            "evolution",
            parents={**LATENT, "unet": "t-robust"},
            options={"share": 0.99, "rounds": 1, "validation": 4, "seconds": 0.0},
            loop=loop(ema=0.5),
        ),
    ]


def put(made: Iterable[Recipe], monkeypatch: "pytest.MonkeyPatch") -> dict[str, Recipe]:
    """These recipes in place of all others."""
    table = registry._table(made)
    monkeypatch.setattr(registry, "RECIPES", table)
    return table


def put_in_package(home: Path, names: Sequence[str] = (), replaced: Mapping[str, str] | None = None) -> None:
    """The tiny recipes, or those of these names, for processes that are started in the checkout ``home``.

    Each such process that trains first takes ten seconds of CPU time to import torch and diffusers: start few.

    Args:
        home: whose package becomes folders of links to the real one.
        names: of recipes.
        replaced: source text of modules, by their path in the package, that stand in for the real ones.
    """
    registry_file = "training/recipes/registry.py"
    place = f"import sys\nsys.path.insert(0, {os.fspath(REPOSITORY)!r})\n"
    chosen = f"[row for row in tiny() if row.name in {list(names)}]" if names else "tiny()"
    more = f"{place}from tests.support.recipe_rows import tiny\nRECIPES = _table({chosen})\n"
    files = {registry_file: (REPOSITORY / "mdrepro" / registry_file).read_text() + more, **(replaced or {})}
    (home / "mdrepro").unlink()
    mirror(REPOSITORY / "mdrepro", home / "mdrepro", files)


def mirror(real: Path, copy: Path, files: Mapping[str, str]) -> None:
    """Links to the entries of ``real``, and folders and new files where ``files`` (by relative path) has some."""
    copy.mkdir()
    inner: dict[str, dict[str, str]] = {}
    for path, text in files.items():
        first, _, rest = path.partition("/")
        if rest:
            inner.setdefault(first, {})[rest] = text
        else:
            (copy / first).write_text(text)
    for entry in real.iterdir():
        if entry.name in inner:
            mirror(entry, copy / entry.name, inner[entry.name])
        elif entry.name not in files and entry.name != "__pycache__":
            (copy / entry.name).symlink_to(entry)
