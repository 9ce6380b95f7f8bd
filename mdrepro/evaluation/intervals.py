"""Estimators of tables of quality with 95 % bootstrap intervals, alone and paired over the same captions."""

from collections.abc import Sequence

import numpy as np

from mdrepro.metrics import bootstrap
from mdrepro.metrics.bootstrap import Interval
from mdrepro.metrics.image import frechet
from mdrepro.metrics.image.statistics import Array, Statistics

RESAMPLES = 1000
SPREAD = "95 % bootstrap over images"


def distance_difference(
    reference: Statistics, first: Array, second: Array, *, resamples: int = RESAMPLES, few: bool = False
) -> Interval:
    """Fréchet distance of ``first`` less that of ``second``, of the same captions and noises; captions are drawn.

    Features are (noises, captions, width); [k, i] of both began with the same noise.
    ``few``: as for `mdrepro.metrics.image.frechet.distance`.
    """
    noises, captions, width = first.shape
    both = [x.reshape(noises * captions, width) for x in (first, second)]
    counts = np.tile(frechet.draws(captions, resamples, seed=0), noises)
    ours, other = (frechet.distance(reference, Statistics.of(x, reference.convention), few=few).value for x in both)
    drawn = [frechet.distances_of_resamples(reference, x, counts) for x in both]
    return frechet.centred_interval(ours - other, drawn[0] - drawn[1], noises * captions)


def share(values: Sequence[Array]) -> Interval:
    """Share of right attributes (1; 0 is wrong) over all images together, with a percentile bootstrap over images.

    An attribute counts as much as any other: images are weighed by their number of attributes.
    """
    return _ratio(np.array([v.sum() for v in values]), values)


def share_difference(first: Sequence[Array], second: Sequence[Array]) -> Interval:
    """`share` of ``first`` less that of ``second``, of the same captions: the same images of both are drawn."""
    return _ratio(np.array([a.sum() - b.sum() for a, b in zip(first, second, strict=True)]), first)


def _ratio(right: Array, values: Sequence[Array]) -> Interval:
    count = np.array([len(v) for v in values])
    drawn = np.random.default_rng(0).integers(len(right), size=(bootstrap.RESAMPLES, len(right)))
    shares = right[drawn].sum(axis=1) / count[drawn].sum(axis=1)
    low, high = np.quantile(shares, [(1 - bootstrap.LEVEL) / 2, (1 + bootstrap.LEVEL) / 2])
    value = float(right.sum() / count.sum())
    return Interval(value, min(float(low), value), max(float(high), value), len(right))
