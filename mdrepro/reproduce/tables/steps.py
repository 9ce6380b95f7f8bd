"""Table ``mobilediffusion-steps``: the same prompts and noise at 50, 8 and 1 steps; rows and figures."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdrepro import paths
from mdrepro.data.shapes import Scene, Shapes, caption, render
from mdrepro.metrics import bootstrap, frechet
from mdrepro.metrics.bootstrap import Interval
from mdrepro.metrics.scenes import Judgement, SceneReader, judge
from mdrepro.metrics.statistics import Convention, Statistics
from mdrepro.reproduce.rows import Row
from mdrepro.sampling import generate
from mdrepro.training.runs import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REFERENCE = 5000  # real renders of other scenes of the test split
RESAMPLES = 1000


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
SCORER = "shapes-reader"
RECIPES = (SCORER, *dict.fromkeys(way.recipe for way in WAYS.values()))


@dataclass(frozen=True)
class Measured:
    """One row's images and what was found in them.

    Args:
        how: in words.
        images: uint8 (n, 3, 64, 64).
        judgements: one an image.
        features: of `SceneReader`, (n, width).
        seconds: of generation, a whole set; None where nothing was generated.
    """

    how: str
    images: Tensor
    judgements: list[Judgement]
    features: NDArray[np.float64]
    seconds: float | None

    def attributes(self) -> list[NDArray[np.float64]]:
        """Right (1) or wrong (0), of each image's attributes."""
        return [np.array(judgement.attributes(), float) for judgement in self.judgements]

    def scenes(self) -> list[NDArray[np.float64]]:
        """Whether all of an image's attributes are right."""
        return [np.array([float(all(judgement.attributes()))]) for judgement in self.judgements]


def networks(trained: Mapping[str, Run]) -> Any:
    """Where each network comes from, as a data frame."""
    import pandas as pd

    def line(run: Run) -> dict[str, Any]:
        record = run.record
        return {
            "recipe": record["recipe"],
            "parameters (M)": round(record["parameters"] / 1e6, 3),
            "steps": record["steps"],
            "trained (min)": round(record["seconds"] / 60, 1),
            "commit": (record["commit"] or "none")[:10] + (" with local changes" if record["dirty"] else ""),
            "from": paths.relative(run.folder),
        }

    return pd.DataFrame([line(run) for run in trained.values()]).set_index("recipe")


def scorer(run: Run) -> str:
    """What scores, in words."""
    return (
        f"scored by {run.recipe.name} ({run.record['key']}), trained on {run.recipe.loop.steps} batches of "
        f"{run.recipe.loop.batch} real renders of the training split, and on nothing else"
    )


def reference(reader: SceneReader, run: Run, skip: int, count: int = REFERENCE) -> Statistics:
    """Feature statistics of real renders: ``count`` scenes of the test split after the first ``skip``.

    Args:
        reader: the scorer.
        run: where it comes from.
        skip: scenes that are measured.
        count: how many renders.
    """
    weights = next(digest for name, digest in run.record["files"].items() if name.endswith(".safetensors"))
    statistics = Statistics(Convention("SceneReader, mean of the last features", weights, "uint8 64 px, no resize"))
    data = Shapes("test", count, first=skip)
    for first in range(0, count, 250):
        pixels = data.batch(range(first, min(first + 250, count)))["pixels"]
        statistics.add(features(reader, pixels))
    return statistics


@torch.inference_mode()
def features(reader: SceneReader, pixels: Tensor) -> NDArray[np.float64]:
    """Features of uint8 images, (n, width)."""
    return torch.cat([reader.features(part) for part in pixels.split(250)]).double().numpy()


def prompts(scenes: Sequence[Scene]) -> list[str]:
    """Each scene's own caption."""
    return [caption(scene) for scene in scenes]


def measure(
    pipelines: Mapping[str, Any],
    reader: SceneReader,
    scenes: Sequence[Scene],
    *,
    seed: int,
    guidance: float,
    batch: int = 50,
) -> dict[str, Measured]:
    """Images of the scenes' captions, every way, from the same noise, and the scenes' own renders (row ``real``).

    Args:
        pipelines: by recipe; the one of ``renoise`` is not guided.
        reader: the scorer.
        scenes: of the test split.
        seed: of the noise.
        guidance: w, of all ways that are guided.
        batch: images at once.
    """
    texts = prompts(scenes)
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
        done[row] = _found(how, images, reader, scenes, seconds)
        print(f"{row}: {seconds:.0f} s for {len(texts)} images", flush=True)
    done["real"] = _found("the scenes' own renders", render(scenes), reader, scenes, None)
    return done


def _found(how: str, images: Tensor, reader: SceneReader, scenes: Sequence[Scene], seconds: float | None) -> Measured:
    judgements = [judge(scene.graph, seen) for scene, seen in zip(scenes, reader.read(images), strict=True)]
    return Measured(how, images, judgements, features(reader, images), seconds)


def rows(measured: Mapping[str, Measured], real: Statistics, scorer: str) -> list[Row]:
    """Quality with intervals, differences between ways on the same prompts and noise, and time.

    Args:
        measured: from `measure`.
        real: from `reference`.
        scorer: what scored, in words.
    """
    cells = []
    base, few = measured["50"], measured["8-ddim"]
    for row, ours in measured.items():
        how = f"{ours.how}; {len(ours.images)} captions of the test split; {scorer}"
        spread = "95 % bootstrap over images"
        against = (
            f"Frechet distance to {real.n} other renders of the test split; {how}; {spread}, {RESAMPLES} resamples"
        )
        found = frechet.distance_interval(real, ours.features, resamples=RESAMPLES)
        cells.append(_row(row, "fid_shapes", found, against))
        for column, values in (("attribute_accuracy", ours.attributes()), ("scene_accuracy", ours.scenes())):
            # an attribute counts as much as any other: clusters are weighed by their size
            cells.append(_row(row, column, _share(values), f"{how}; {spread}"))
        if row in ("8", "1"):
            pairs = _share_difference(ours.attributes(), base.attributes())
            cells.append(_row(row, "attribute_accuracy_minus_50", pairs, f"paired with row 50; {how}; {spread}"))
        if row == "8":
            pairs = frechet.paired_distance_interval(real, ours.features, few.features, resamples=RESAMPLES)
            cells.append(_row(row, "fid_shapes_minus_8_ddim", pairs, f"paired with row 8-ddim; {against}"))
        if ours.seconds is not None:
            each = ours.seconds / len(ours.images)
            how = f"{how}; {torch.get_num_threads()} CPU threads, decoder and text encoder included"
            cells.append(Row(row=row, column="seconds_per_image", value=each, unit="s", protocol=how))
    return cells


def _share(values: Sequence[NDArray[np.float64]], seed: int = 0) -> Interval:
    """Share of right attributes over all images together, with a percentile bootstrap over images."""
    right, count = np.array([v.sum() for v in values]), np.array([len(v) for v in values])
    return _ratio(right, count, seed)


def _share_difference(
    first: Sequence[NDArray[np.float64]], second: Sequence[NDArray[np.float64]], seed: int = 0
) -> Interval:
    right = np.array([a.sum() - b.sum() for a, b in zip(first, second, strict=True)])
    return _ratio(right, np.array([len(v) for v in first]), seed)


def _ratio(right: NDArray[np.float64], count: NDArray[np.int64], seed: int) -> Interval:
    drawn = np.random.default_rng(seed).integers(len(right), size=(bootstrap.RESAMPLES, len(right)))
    shares = right[drawn].sum(axis=1) / count[drawn].sum(axis=1)
    low, high = np.quantile(shares, [(1 - bootstrap.LEVEL) / 2, (1 + bootstrap.LEVEL) / 2])
    value = float(right.sum() / count.sum())
    return Interval(value, min(float(low), value), max(float(high), value), len(right))


def _row(row: str, column: str, found: Interval, protocol: str) -> Row:
    return Row(
        row=row,
        column=column,
        value=found.value,
        unit="",
        n=found.n,
        ci_low=found.low,
        ci_high=found.high,
        protocol=protocol,
    )


def grid_figure(measured: Mapping[str, Measured], scenes: Sequence[Scene], count: int = 8) -> "Figure":
    """The first captions' images, a column a caption, a row a way: same prompts, same noise."""
    import textwrap

    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        len(measured), count, figsize=(1.45 * count, 1.45 * len(measured) + 0.8), layout="constrained", squeeze=False
    )
    for line, (row, ours) in zip(axes, measured.items(), strict=True):
        for column, axis in enumerate(line):
            axis.imshow(ours.images[column].permute(1, 2, 0).numpy(), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(not all(ours.judgements[column].attributes()))
            axis.spines[:].set(color="#c8501e", linewidth=2.5)
        line[0].set_ylabel(row, rotation=0, ha="right", va="center", fontsize=11)
    for axis, text in zip(axes[0], prompts(scenes[:count]), strict=True):
        axis.set_title("\n".join(textwrap.wrap(text, 22)), fontsize=7)
    plt.close(figure)
    return figure


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
