"""Recipes that train in a moment, and a way to have them in child processes too."""

import os
from collections.abc import Iterable, Sequence
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


def put_in_package(home: Path, names: Sequence[str] = ()) -> None:
    """The tiny recipes, or those of these names, for processes that are started in the checkout ``home``.

    Each such process first takes ten seconds of CPU time to import torch and diffusers: start few.
    """
    real, package = REPOSITORY / "mdrepro", home / "mdrepro"
    package.unlink()
    (package / "training").mkdir(parents=True)
    for folder in (real, real / "training"):
        for entry in folder.iterdir():
            target = package / entry.relative_to(real)
            if entry.name not in ("training", "recipes.py", "__pycache__"):
                target.symlink_to(entry)
    place = f"import sys\nsys.path.insert(0, {os.fspath(REPOSITORY)!r})\n"
    chosen = f"[row for row in tiny() if row.name in {list(names)}]" if names else "tiny()"
    more = f"{place}from tests.support.recipe_rows import tiny\nRECIPES = _table({chosen})\n"
    (package / "training" / "recipes.py").write_text((real / "training" / "recipes.py").read_text() + more)
