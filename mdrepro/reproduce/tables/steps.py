"""Table ``mobilediffusion-steps``: the same prompts and noise at 50, 8 and 1 steps; rows and figures."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mdrepro.data.shapes import Scene
from mdrepro.metrics.statistics import Statistics
from mdrepro.models import text
from mdrepro.reproduce.rows import Row
from mdrepro.reproduce.tables import quality
from mdrepro.reproduce.tables.quality import Found, Scorers
from mdrepro.sampling import generate

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
RECIPES = (*quality.SCORERS, *dict.fromkeys(way.recipe for way in WAYS.values()))


def measure(
    pipelines: Mapping[str, Any],
    scored_by: Scorers,
    scenes: Sequence[Scene],
    *,
    seed: int,
    guidance: float,
    batch: int = 50,
) -> dict[str, Found]:
    """Images of the scenes' captions, every way, from the same noise, and the scenes' own renders (row ``real``).

    Args:
        pipelines: by recipe; the one of ``renoise`` is not guided.
        scored_by: the scorers.
        scenes: of the test split.
        seed: of the noise.
        guidance: w, of all ways that are guided.
        batch: images at once.
    """
    texts = quality.prompts(scenes)
    done = {}
    for row, way in WAYS.items():
        w = 1.0 if way.sampler == "renoise" else guidance
        began = time.perf_counter()
        images = generate.images(
            pipelines[way.recipe], texts, steps=way.steps, guidance=w, sampler=way.sampler, seed=seed, batch=batch
        )
        seconds = time.perf_counter() - began
        guided = f"guidance {w:g}" if w != 1 else "no guidance"
        how = f"{way.recipe}, {way.steps} step{'s' * (way.steps > 1)} of {way.sampler}, {guided}, seed {seed}"
        done[row] = quality.found(how, images, scenes, scored_by, seconds)
        print(f"{row}: {seconds:.0f} s for {len(texts)} images", flush=True)
    done["real"] = quality.renders(scenes, scored_by)
    return done


def eight(
    pipelines: Mapping[str, Any],
    scored_by: Scorers,
    scenes: Sequence[Scene],
    *,
    seeds: Sequence[int],
    guidance: float,
    batch: int = 50,
) -> dict[str, NDArray[np.float64]]:
    """Features of the images of the three ways of 8 steps, from several noises: (seeds, scenes, width) each.

    Args:
        pipelines, scored_by, scenes, guidance, batch: as for `measure`.
        seeds: of the noises.
    """
    texts = quality.prompts(scenes)

    def made(way: Way, seed: int) -> NDArray[np.float64]:
        pipeline = pipelines[way.recipe]
        images = generate.images(
            pipeline, texts, steps=way.steps, guidance=guidance, sampler=way.sampler, seed=seed, batch=batch
        )
        return quality.features(scored_by.reader, images)

    return {row: np.stack([made(WAYS[row], seed) for seed in seeds]) for row in ("8", *DIFFERENCES)}


def rows(
    measured: Mapping[str, Found], real: Statistics, scored_by: str, of_eight: Mapping[str, NDArray[np.float64]]
) -> list[Row]:
    """Quality with intervals, differences between ways on the same prompts and noise, and time.

    Args:
        measured: from `measure`.
        real: from `quality.reference`.
        scored_by: what scored, in words.
        of_eight: from `eight`.
    """
    cells = []
    base = measured["50"]
    for row, ours in measured.items():
        how = f"{ours.how}; {len(ours.images)} captions of the test split; {scored_by}"
        cells += quality.rows(row, ours, real, scored_by)
        if row in ("8", "1"):
            pairs = quality.share_difference(ours.attributes(), base.attributes())
            told = f"paired with row 50; {how}; {quality.SPREAD}"
            cells.append(quality.cell(row, "attribute_accuracy_minus_50", pairs, told))
        for other in DIFFERENCES if row == "8" else ():
            pairs = quality.distance_difference(real, of_eight["8"], of_eight[other])
            told = (
                f"paired with row {other}; {len(of_eight[other])} noises a caption; whole captions are drawn; "
                f"{quality.against(real, how)}"
            )
            cells.append(quality.cell(row, DIFFERENCES[other], pairs, told))
    return cells


def compute(pipelines: Mapping[str, Any], guidance: float) -> list[Row]:
    """Multiply-accumulates of the denoiser for one image, each way: evaluations times those of one.

    Args:
        pipelines: by recipe.
        guidance: w of the guided ways, which evaluate two branches a step.
    """
    cells = []
    for row, way in WAYS.items():
        pipeline = pipelines[way.recipe]
        tokens = text.encode(pipeline.tokenizer, pipeline.text_encoder, [""]).shape[1]
        branches = 1 if way.sampler == "renoise" or guidance == 1 else 2
        each = quality.evaluation_gmacs(pipeline.unet, tokens)
        how = (
            f"{way.recipe}: {way.steps} steps x {branches} branches x {each:.4g} GMAC, counted at the dispatcher; text "
            "encoder and decoder left out"
        )
        value = way.steps * branches * each
        cells.append(Row(row=row, column="gmacs_per_image", value=value, unit="GMAC", protocol=how))
    return cells


def quality_figure(cells: Sequence[Row]) -> "Figure":
    """Attribute accuracy and FID[shapes] of each way, with intervals."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for axis, (column, title) in zip(
        axes, (("attribute_accuracy", "attribute accuracy"), ("fid_shapes", "FID[shapes]")), strict=True
    ):
        shown = [row for row in cells if row.column == column]
        for place, row in enumerate(shown):
            assert row.value is not None
            assert row.ci_low is not None
            assert row.ci_high is not None
            colour = "#2563a8" if row.row in ("50", "8", "1") else "#6b7280"
            spread = [[row.value - row.ci_low], [row.ci_high - row.value]]
            axis.errorbar(row.value, place, xerr=spread, fmt="o", color=colour, capsize=3)
        axis.set(yticks=range(len(shown)), yticklabels=[row.row for row in shown], xlabel=title)
        axis.invert_yaxis()
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    axes[1].set_xscale("log")
    plt.close(figure)
    return figure
