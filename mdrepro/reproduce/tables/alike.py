"""Rows that differ in their network or decoder alone: same captions, noise, steps and guidance, compared in pairs."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdrepro.data.shapes import Scene
from mdrepro.metrics import bootstrap, frechet
from mdrepro.metrics.bootstrap import Interval
from mdrepro.metrics.statistics import Statistics
from mdrepro.reproduce.rows import Row
from mdrepro.reproduce.tables import quality
from mdrepro.reproduce.tables.quality import Found, Scorers
from mdrepro.sampling import generate

Features = NDArray[np.float64]


def measure(
    pipelines: Mapping[str, Any],
    words: Mapping[str, str],
    scored_by: Scorers,
    scenes: Sequence[Scene],
    *,
    steps: int,
    guidance: float,
    seed: int,
    batch: int = 50,
) -> dict[str, Found]:
    """Images of the scenes' captions by every pipeline, and the scenes' own renders (row ``real``).

    Args:
        pipelines: by row.
        words: what each row's network is.
        scored_by: the scorers.
        scenes: of the test split.
        steps: of DDIM.
        guidance: w.
        seed: of the noise.
        batch: images at once.
    """
    texts, done = quality.prompts(scenes), {}
    for row, pipeline in pipelines.items():
        began = time.perf_counter()
        images = generate.images(
            pipeline, texts, steps=steps, guidance=guidance, sampler="ddim", seed=seed, batch=batch
        )
        print(f"{row}: {time.perf_counter() - began:.0f} s for {len(texts)} images", flush=True)
        how = f"{words[row]}, {steps} steps of ddim, guidance {guidance:g}, seed {seed}"
        done[row] = quality.found(how, images, scenes, scored_by)
    done["real"] = quality.renders(scenes, scored_by)
    return done


def rows(measured: Mapping[str, Found], real: Statistics, scored_by: str, *, against: str) -> list[Row]:
    """Quality of every row, and its share of the quality of one of them, drawn in pairs.

    Args:
        measured: by row; image i of each is of the same caption and noise.
        real: from `quality.reference`.
        scored_by: what scored, in words.
        against: the row compared with. The columns are ``fid_shapes_over_...`` and ``clip_shapes_over_...`` of its
            name.
    """
    cells, other = [], measured[against]
    for row, ours in measured.items():
        cells += quality.rows(row, ours, real, scored_by)
        if row in (against, "real"):
            continue
        how = (
            f"over that of row {against}; the same captions are drawn of both; {ours.how}; {len(ours.images)} captions"
        )
        fid = distance_ratio(real, ours.features, other.features)
        clip = mean_ratio(ours.similarity, other.similarity)
        cells.append(quality.cell(row, f"fid_shapes_over_{against}", fid, quality.against(real, how)))
        cells.append(quality.cell(row, f"clip_shapes_over_{against}", clip, f"mean cosine {how}; {quality.SPREAD}"))
    return cells


def distance_ratio(real: Statistics, first: Features, second: Features, seed: int = 0) -> Interval:
    """Fréchet distance of ``first`` over that of ``second``, both to ``real``; the same images of both are drawn.

    As in `frechet.distance_interval`, resampled distances are first moved to have the measured one as their mean.

    Args:
        real: statistics that the distances are to.
        first, second: features, (n, width); image i of both is of the same caption and noise.
        seed: of the bootstrap.
    """
    counts = frechet.draws(len(first), quality.RESAMPLES, seed)
    both = []
    for x in (first, second):
        value = frechet.distance(real, Statistics.of(x, real.convention)).value
        drawn = frechet.distances_of_resamples(real, x, counts)
        both.append((value, drawn - drawn.mean() + value))
    (value, drawn), (other, others) = both
    return _interval(value / other, drawn / others, len(first))


def mean_ratio(first: Features, second: Features, seed: int = 0) -> Interval:
    """Mean of ``first`` over that of ``second``, (n,) each; the same images of both are drawn."""
    drawn = np.random.default_rng(seed).integers(len(first), size=(quality.RESAMPLES, len(first)))
    ratios = first[drawn].mean(axis=1) / second[drawn].mean(axis=1)
    return _interval(float(first.mean() / second.mean()), ratios, len(first))


def _interval(value: float, drawn: Features, n: int) -> Interval:
    low, high = np.quantile(drawn, [(1 - bootstrap.LEVEL) / 2, (1 + bootstrap.LEVEL) / 2])
    return Interval(value, min(float(low), value), max(float(high), value), n)
