"""Table ``mobilediffusion-steps``: the same prompts and noise at 50, 8 and 1 steps; rows and figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mdrepro.core import plotting
from mdrepro.evaluation import networks, scenes
from mdrepro.evaluation.networks import Names
from mdrepro.evaluation.protocol import Evaluation
from mdrepro.evaluation.rows import Row
from mdrepro.models import text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Way:
    """How a row makes its images: recipe of the checkpoint, steps, and sampler by name."""

    recipe: str
    steps: int
    sampler: str


WAYS: Mapping[str, Way] = MappingProxyType(
    {
        "50": Way("shapes-base", 50, "ddim"),
        "8": Way("shapes-8", 8, "ddim"),
        "1": Way("shapes-1", 1, "renoise"),
        "8-ddim": Way("shapes-base", 8, "ddim"),
        "8-dpm++": Way("shapes-base", 8, "dpm++"),
        "1-ddim": Way("shapes-base", 1, "ddim"),
    }
)
DIFFERENCES = MappingProxyType({"8-ddim": "fid_shapes_minus_8_ddim", "8-dpm++": "fid_shapes_minus_8_dpm"})
"""Undistilled ways of 8 steps, and the column of the distilled way's difference to each."""
RECIPES = (*scenes.SCORERS, *dict.fromkeys(way.recipe for way in WAYS.values()))
NETWORKS: Mapping[str, Names] = MappingProxyType(
    {
        "proxy": {"shapes-base": "proxy-relu", "shapes-8": "proxy-8", "shapes-1": "proxy-1"},
        "paper": {"shapes-base": "md-relu", "shapes-8": "md-8", "shapes-1": "md-1"},
    }
)
"""The base is what the students of 8 steps and 1 step begin with: fine-tuned to ReLU attention."""


def ways(tier: str) -> dict[str, Way]:
    """How each row makes its images at a tier."""
    chosen = {row: (networks.at(NETWORKS, tier, way.recipe), way) for row, way in WAYS.items()}
    return {row: Way(name, way.steps, way.sampler) for row, (name, way) in chosen.items() if name}


def measure(
    pipelines: Mapping[str, Any], scored: Evaluation, *, seed: int, guidance: float, tier: str = "quick"
) -> dict[str, Any]:
    """Images of the captions, every way, from the same noise, and what no model made (on scenes row ``real``).

    Args:
        pipelines: by recipe; the one of ``renoise`` is not guided.
        scored: the captions, and what scores.
        seed: of the noise.
        guidance: w, of all ways that are guided.
        tier: whose networks.
    """
    done: dict[str, Any] = {}
    for row, way in ways(tier).items():
        w = 1.0 if way.sampler == "renoise" else guidance
        guided = f"guidance {w:g}" if w != 1 else "no guidance"
        how = f"{way.recipe}, {way.steps} step{'s' * (way.steps > 1)} of {way.sampler}, {guided}, seed {seed}"
        done[row] = scored.images(
            pipelines[way.recipe], how, steps=way.steps, guidance=w, sampler=way.sampler, seed=seed
        )
        print(f"{row}: {done[row].seconds or 0:.0f} s for {len(scored.captions)} images", flush=True)
    return done | dict(scored.best())


def eight(
    pipelines: Mapping[str, Any],
    scored: Evaluation,
    *,
    seeds: Sequence[int],
    guidance: float,
    tier: str = "quick",
) -> dict[str, NDArray[np.float64]]:
    """Features of the images of the three ways of 8 steps, from several noises: (seeds, captions, width) each.

    Args:
        pipelines, scored, guidance, tier: as for `measure`.
        seeds: of the noises.
    """

    def made(way: Way, seed: int) -> NDArray[np.float64]:
        how: dict[str, Any] = {"steps": way.steps, "guidance": guidance, "sampler": way.sampler, "seed": seed}
        return scored.features(pipelines[way.recipe], **how)

    known = ways(tier)
    return {row: np.stack([made(known[row], seed) for seed in seeds]) for row in ("8", *DIFFERENCES)}


def rows(measured: Mapping[str, Any], scored: Evaluation, of_eight: Mapping[str, NDArray[np.float64]]) -> list[Row]:
    """Quality with intervals, differences between ways on the same prompts and noise, and time.

    Args:
        measured: from `measure`.
        scored: what scored.
        of_eight: from `eight`.
    """
    cells = []
    for row, ours in measured.items():
        how = f"{ours.how}; {len(ours.similarity)} {scored.of}; {scored.words}"
        cells += scored.rows(row, ours)
        if row in ("8", "1"):
            told = f"paired with row 50; {how}"
            cells += scored.accuracies(row, "attribute_accuracy_minus_50", ours, measured["50"], told)
        for other in DIFFERENCES if row == "8" else ():
            before = f"paired with row {other}; {len(of_eight[other])} noises a caption; whole captions are drawn; "
            pair = of_eight["8"], of_eight[other]
            cells.append(scored.difference(row, DIFFERENCES[other], *pair, how, before))
    return cells


def compute(pipelines: Mapping[str, Any], guidance: float, tier: str = "quick") -> list[Row]:
    """Multiply-accumulates of the denoiser for one image, each way: evaluations times those of one.

    Args:
        pipelines: by recipe.
        guidance: w of the guided ways, which evaluate two branches a step.
        tier: whose networks.
    """
    cells = []
    for row, way in ways(tier).items():
        pipeline = pipelines[way.recipe]
        tokens = text.encode(pipeline.tokenizer, pipeline.text_encoder, [""]).shape[1]
        branches = 1 if way.sampler == "renoise" or guidance == 1 else 2
        each = scenes.evaluation_gmacs(pipeline.unet, tokens)
        how = (
            f"{way.recipe}: {way.steps} steps x {branches} branches x {each:.4g} GMAC, counted at the dispatcher; text "
            "encoder and decoder left out"
        )
        value = way.steps * branches * each
        cells.append(Row(row, "gmacs_per_image", value, how))
    return cells


def quality_figure(cells: Sequence[Row]) -> "Figure":
    """Attribute accuracy and FID[shapes] of each way, or CLIP score and FID, with intervals."""
    on_scenes = (("attribute_accuracy", "attribute accuracy"), ("fid_shapes", "FID[shapes]"))
    on_images = (("clip", "CLIP score"), ("fid", "FID"))
    panels = on_scenes if any(row.column == "fid_shapes" for row in cells) else on_images
    with plotting.figure(1, 2, size=(9, 3.2)) as (figure, axes):
        for axis, (column, title) in zip(axes, panels, strict=True):
            shown = [row for row in cells if row.column == column and row.value is not None]
            for place, row in enumerate(shown):
                colour = plotting.BLUE if row.row in ("50", "8", "1") else plotting.GREY
                plotting.estimate(axis, place, row.value, row.ci_low, row.ci_high, colour=colour, along="x")
            axis.set_yticks(range(len(shown)), [row.row for row in shown])
            axis.set_xlabel(title)
            axis.invert_yaxis()
        axes[1].set_xscale("log")
        plotting.plain_log(axes[1].xaxis)
    return figure
