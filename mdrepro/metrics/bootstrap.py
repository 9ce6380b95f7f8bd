"""Percentile bootstrap over clusters: the tiles of one photograph are not independent, photographs are.

The estimate is the mean of the clusters' means, every photograph with the same weight. With few clusters the percentile
interval is somewhat too narrow, as it is for any bootstrap: with five normal ones a 95 % interval covers the true value
about 84 % of the time, with thirty about 94 %.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

RESAMPLES, LEVEL = 10_000, 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with the two ends of its interval, and how many clusters it rests on."""

    value: float
    low: float
    high: float
    n: int


def cluster_interval(
    clusters: Sequence[ArrayLike], *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> Interval:
    """Interval of the mean of cluster means, by resampling clusters (each photograph's tiles).

    With equal ``seed``, number of clusters and ``resamples`` the same clusters are drawn. Raises ValueError for fewer
    than two clusters, an empty one, or a value that is not finite.
    """
    means = np.array([_mean(cluster) for cluster in clusters])
    if len(means) < 2:
        raise ValueError(f"at least 2 clusters are needed for an interval, got {len(means)}")
    drawn = np.random.default_rng(seed).integers(len(means), size=(resamples, len(means)))
    tail = (1 - level) / 2
    low, high = np.quantile(means[drawn].mean(axis=1), [tail, 1 - tail])
    value = float(means.mean())
    return Interval(value, min(float(low), value), max(float(high), value), len(means))


def paired_interval(
    first: Sequence[ArrayLike],
    second: Sequence[ArrayLike],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Interval of the mean of ``first - second``, measured on the same members of the same clusters.

    Raises ValueError where the shapes differ, or as `cluster_interval`.
    """
    pairs = [(np.asarray(a, float), np.asarray(b, float)) for a, b in zip(first, second, strict=True)]
    if any(a.shape != b.shape for a, b in pairs):
        raise ValueError("paired clusters differ in size")
    return cluster_interval([a - b for a, b in pairs], seed=seed, resamples=resamples, level=level)


def _mean(cluster: ArrayLike) -> float:
    values = np.asarray(cluster, float)
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError("a cluster is empty or holds a value that is not finite")
    return float(values.mean())
