"""Intervals over training seeds and captions together, from values with groups of captions left out (jackknife).

A statistic of S replicas (networks that differ in their training seed alone) on the same n captions is kept as measured
and without each of G groups of captions: values (S, 1 + G). Replicas and groups are crossed, as readers and cases are
in studies of diagnoses, and are treated as there (Dorfman, Berbaum and Metz 1992): what leaving out a group changes is
analysed as a two-way layout with both at random, whose mean squares give

    variance of the mean = B + W,    B = seeds / S,    W = captions / G,    the interaction / S G counted once.

The interval is t standard errors wide, where t is the mean of Student's t with S - 1 and with G - 1 degrees of freedom
weighted by B and W (Cochran and Cox 1957). With one replica it is the interval over captions. Rows are compared by
calculating with their values, so what chance does to both in the same way cancels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats  # type: ignore[import-untyped]

Array = NDArray[np.float64]
GROUPS, LEVEL = 50, 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with the two ends of its 95 % interval.

    ``n``: captions, images or photographs that it rests on. ``by_seed``: the value of each replica, where there are
    such; a distance that is estimated without bias may be below 0 there.
    """

    value: float
    low: float
    high: float
    n: int
    by_seed: tuple[float, ...] = ()


def groups(n: int) -> NDArray[np.intp]:
    """The group of each of n captions, (n,): `GROUPS`, as equal in size as can be, or one for each caption."""
    return np.arange(n) % min(n, GROUPS)


def sums_without(values: ArrayLike) -> Array:
    """Sums over all captions, and over those that are not in a group: (1 + G, ...), of values (n, ...)."""
    x = np.asarray(values, np.float64)
    parts = np.array([x[first :: min(len(x), GROUPS)].sum(axis=0) for first in range(min(len(x), GROUPS))])
    whole = parts.sum(axis=0)
    return np.concatenate([whole[None], whole - parts])


def means_without(values: ArrayLike, weights: ArrayLike | None = None) -> Array:
    """The mean of values (n,), or their sum over that of ``weights``, as measured and without each group: (1 + G,)."""
    x = np.asarray(values, np.float64)
    return sums_without(x) / sums_without(np.ones_like(x) if weights is None else weights)


def unbiased(values: Array, n: int) -> Array:
    """Values (1 + G,) of a statistic less its bias, C/n to first order, which the values without a group show."""
    whole, left = values[0], values[1:]
    kept = 1 - np.bincount(groups(n)) / n
    return values - ((kept * left).sum() - (len(left) - 1) * whole)


@dataclass(frozen=True)
class Estimate:
    """A statistic of S replicas on n captions, as measured and without each group of them: (S, 1 + G)."""

    values: Array
    n: int

    @classmethod
    def of(cls, replicas: Sequence[Array], n: int) -> Self:
        """From each replica's values, (1 + G,)."""
        return cls(np.stack(replicas), n)

    @property
    def value(self) -> float:
        """The mean over replicas, of all captions."""
        return float(self.values[:, 0].mean())

    def __sub__(self, other: "Estimate") -> "Estimate":
        return combined(np.subtract, self, other)

    def spread(self) -> float:
        """Half of the 95 % interval of `value`: 0 where neither seeds nor captions make a difference.

        Groups of unequal size count as Busing, Meijer and van der Leeden (1999) have it.
        """
        seeds, captions = len(self.values), self.values.shape[1] - 1
        share = np.bincount(groups(self.n)) / self.n
        left = self.values[:, 1:]
        centre = ((1 - share) * left).sum(axis=1, keepdims=True) / (captions - 1)
        moved = (left - centre) * np.sqrt((captions - 1) * (1 - share) / share)
        mean = moved.mean(axis=0)
        within, t_within = float((mean**2).sum() / (captions * (captions - 1))), quantile(captions - 1)
        if seeds == 1:
            return t_within * within**0.5
        between, t_between = float(self.values[:, 0].var(ddof=1) / seeds), quantile(seeds - 1)
        both = float(((moved - mean) ** 2).sum() / ((seeds - 1) * (captions - 1)) / (seeds * captions))
        within = max(within - both, 0.0)
        total = between + within
        return (t_between * between + t_within * within) / total**0.5 if total else 0.0

    def mean(self) -> Interval:
        """The interval of a mean or a difference."""
        spread = self.spread()
        return self._interval(self.value, self.value - spread, self.value + spread)

    def share(self) -> Interval:
        """The interval of a share, Wilson's (1927) with as many draws as its spread stands for; of n if it has none."""
        p, spread = self.value, self.spread()
        excess = spread**2 / (p * (1 - p)) if 0 < p < 1 else quantile(self.values.shape[1] - 2) ** 2 / self.n
        centre, half = (p + excess / 2) / (1 + excess), (spread**2 + excess**2 / 4) ** 0.5 / (1 + excess)
        return self._interval(p, max(0.0, min(centre - half, p)), min(1.0, max(centre + half, p)))

    def distance(self) -> Interval:
        """The interval of a squared distance: symmetric in its root, and never below 0.

        Where it reaches 0, from half a spread downwards, the upper end stays one and a half spreads above the estimate,
        which may itself be below 0 and is cut there.
        """
        value, spread = self.value, self.spread()
        if value <= spread / 2:
            return self._interval(max(value, 0.0), 0.0, max(value + 1.5 * spread, 0.0))
        root, half = value**0.5, spread / (2 * value**0.5)
        return self._interval(value, min((root - half) ** 2, value), max((root + half) ** 2, value))

    def _interval(self, value: float, low: float, high: float) -> Interval:
        return Interval(value, low, high, self.n, tuple(map(float, self.values[:, 0])))


def combined(calculate: Callable[..., Array], *estimates: Estimate) -> Estimate:
    """What is calculated of several statistics of the same captions; replicas are paired, as far as all have them."""
    seeds = min(len(one.values) for one in estimates)
    return Estimate(calculate(*(one.values[:seeds] for one in estimates)), estimates[0].n)


def ratio(first: Estimate, second: Estimate) -> Interval | None:
    """The ratio of two means over replicas, its interval symmetric in the logarithm; None where one is not above 0."""
    pair = combined(lambda x, _: x, first, second), combined(lambda _, y: y, first, second)
    means = [one.value for one in pair]
    if min(means) <= 0:
        return None
    value = means[0] / means[1]
    relative = combined(lambda x, y: x / means[0] - y / means[1], *pair)
    by_seed = tuple(map(float, pair[0].values[:, 0] / pair[1].values[:, 0]))
    factor = float(np.exp(relative.spread()))
    return Interval(value, value / factor, value * factor, first.n, by_seed)


def quantile(freedom: int) -> float:
    """Of Student's t: its 95 % lie within plus and minus this."""
    return float(stats.t.ppf((1 + LEVEL) / 2, freedom))


def cluster_interval(clusters: Sequence[ArrayLike]) -> Interval:
    """The interval of the mean of clusters' means, Student's: the tiles of a photograph are not independent.

    Every photograph has the same weight. Raises ValueError for fewer than two clusters, an empty one, or a value
    that is not finite.
    """
    values = [np.asarray(cluster, np.float64) for cluster in clusters]
    if any(not one.size or not np.isfinite(one).all() for one in values):
        raise ValueError("a cluster is empty or holds a value that is not finite")
    if len(values) < 2:
        raise ValueError(f"at least 2 clusters are needed for an interval, got {len(values)}")
    found = Estimate.of([means_without([one.mean() for one in values])], len(values)).mean()
    return replace(found, by_seed=())


def paired_interval(first: Sequence[ArrayLike], second: Sequence[ArrayLike]) -> Interval:
    """The interval of the mean of ``first - second``, measured on the same members of the same clusters.

    Raises ValueError where the shapes differ, or as `cluster_interval`.
    """
    pairs = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in zip(first, second, strict=True)]
    if any(a.shape != b.shape for a, b in pairs):
        raise ValueError("paired clusters differ in size")
    return cluster_interval([a - b for a, b in pairs])
