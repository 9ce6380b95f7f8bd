"""Fréchet distance between two sets of image features (FID, Heusel et al. 2017), and its limit.

    d = |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)

The last trace is the sum of the square roots of the eigenvalues of A^T S2 A, a symmetric matrix, for any A with
A A^T = S1: it has the eigenvalues of S1^(1/2) S2 S1^(1/2) and, zeros apart, of S1 S2. A is the pivoted Cholesky factor
of S1, which ends at its rank: directions without variance are left out, where rounding would otherwise add the root of
an epsilon each.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg  # type: ignore[import-untyped]
from scipy.linalg import lapack  # type: ignore[import-untyped]

from mdrepro.core.errors import BadInput
from mdrepro.metrics.image.statistics import Array, Convention, Features, Statistics, as_features
from mdrepro.metrics.jackknife import groups

POINTS = 15  # Chong and Forsyth's number of set sizes


@dataclass(frozen=True)
class Distance:
    """The squared Fréchet distance, as FID is given, and the images of both sets.

    ``biased``: a set is too small for a covariance of full rank, and the override was used; distances of other numbers
    of images are then not comparable.
    """

    value: float
    n_reference: int
    n: int
    biased: bool


@dataclass(frozen=True)
class Extrapolation:
    """A line through distances at several set sizes N: ``value`` at 1/N = 0, and ``slope`` in distance x images."""

    value: float
    slope: float
    sizes: tuple[int, ...]
    distances: tuple[float, ...]


def trace_of_root(first: Array, second: Array) -> float:
    """tr (S1 S2)^(1/2) of two symmetric positive semidefinite matrices (d, d), of any rank."""
    (factor, order, rank), other = min(((_factor(first), second), (_factor(second), first)), key=lambda f: f[0][2])
    if 4 * rank < len(order):  # of few images
        root_dr = np.empty((len(order), rank))
        root_dr[order] = np.tril(factor[:, :rank])
        return _sum_of_roots(root_dr.T @ other @ root_dr)
    product, _ = lapack.dsygst(other[np.ix_(order, order)].T, factor, itype=2, lower=1)  # A^T S A in the lower triangle
    return _sum_of_roots(product[:rank, :rank])


def frechet_distance(mean1: Array, covariance1: Array, mean2: Array, covariance2: Array) -> float:
    """The squared Fréchet distance of two Gaussians: means (d,), covariances (d, d). Heusel et al. 2017, eq. 6."""
    gap = np.asarray(mean1) - np.asarray(mean2)
    traces = np.trace(covariance1) + np.trace(covariance2)
    return float(gap @ gap + traces - 2 * trace_of_root(covariance1, covariance2))


def distance(reference: Statistics, statistics: Statistics, *, few: bool = False) -> Distance:
    """The Fréchet distance of two sets of features of one convention.

    Raises BadInput where conventions or widths differ, or a set has fewer images than features + 1 (the message states
    the least number). With ``few`` such sets are taken, and the number is stamped as biased.
    """
    biased = _check(reference, statistics, few)
    value = frechet_distance(reference.mean, reference.covariance, statistics.mean, statistics.covariance)
    return Distance(value, reference.n, statistics.n, biased)


def distances_without(reference: Statistics, features: Features) -> Array:
    """Distances to ``reference`` of all images, and of those that are in all groups but one: (1 + G,).

    Groups are those of `mdrepro.metrics.jackknife`; features are (n, width). Raises BadInput for another width than the
    reference's.
    """
    x_nd = as_features(features)
    _same_width(reference.width, x_nd.shape[1])
    mean, covariance = reference.mean, reference.covariance
    return np.array([frechet_distance(mean, covariance, *moments) for moments in _moments_without(x_nd)])


def paired_distances_without(first: Features, second: Features) -> Array:
    """Distances of two sets of images of the same captions, of all of them and without each group: (1 + G,).

    Features are (n, width) of both. Raises BadInput where they differ in shape, or are too few for a covariance of full
    rank without a group.
    """
    x_nd, y_nd = as_features(first), as_features(second)
    n, width = x_nd.shape
    if y_nd.shape != x_nd.shape or n - np.bincount(groups(n)).max() <= width:
        raise BadInput(
            f"features of {x_nd.shape} and {y_nd.shape} images: expected as many of both, and more than {width} of "
            f"{width} features without any one of {groups(n).max() + 1} groups"
        )
    both = zip(_moments_without(x_nd), _moments_without(y_nd), strict=True)
    return np.array([frechet_distance(*one, *other) for one, other in both])


def _moments_without(features: Features) -> Iterator[tuple[Array, Array]]:
    """Mean and covariance of all images, and without each group."""
    x_nd = as_features(features)
    n, centre = len(x_nd), x_nd.mean(axis=0)
    z_nd, group_n = x_nd - centre, groups(n)
    scatter = z_nd.T @ z_nd
    yield centre, scatter / (n - 1)
    for group in range(group_n.max() + 1):
        z = z_nd[group_n == group]
        kept = n - len(z)
        mean = -z.sum(axis=0) / kept
        yield centre + mean, (scatter - z.T @ z - kept * np.outer(mean, mean)) / (kept - 1)


def infinity(reference: Statistics, features: Features, *, points: int = POINTS, seed: int = 0) -> Extrapolation:
    """FD-infinity (Chong and Forsyth 2020, arXiv 1911.07023): the distance without the bias of the number of images.

    The bias is C/N to first order: distances of random subsets at ``points`` sizes, equally far apart from a tenth of n
    (as 5,000 of 50,000 in the paper), and width + 1 at least, to all, are fitted by a line in 1/N, whose value at
    1/N = 0 is given. The reference's own bias stays.

    Raises BadInput for fewer than 2 ``points``, fewer than 2 x (width + 1) images, or as `distance`.
    """
    x_nd = as_features(features)
    n, width = x_nd.shape
    least = max(n // 10, width + 1)
    if points < 2 or n < 2 * least:
        raise BadInput(
            f"FD-infinity with {points} subsets of {least} to {n} images of {width} features: needed are 2 subsets or "
            f"more, {width + 1} images or more in the smallest, and twice as many in all"
        )
    _check(reference, Statistics.of(x_nd, reference.convention), few=False)
    sizes = np.linspace(least, n, points).astype(int)
    rng = np.random.default_rng(seed)
    counts = np.zeros((points, n))
    for row, size in zip(counts, sizes, strict=True):
        row[rng.permutation(n)[:size]] = 1
    distances = distances_of_resamples(reference, x_nd, counts)
    slope, value = np.polyfit(1 / sizes, distances, 1)
    return Extrapolation(float(value), float(slope), tuple(sizes.tolist()), tuple(distances.tolist()))


def distances_of_resamples(reference: Statistics, features: Features, counts: ArrayLike) -> Array:
    """Distances to ``reference``, (resamples,), of sets that hold image i of ``features`` ``counts[., i]`` times.

    With A A^T the reference's covariance, only the covariance of the projected features x A is needed, or their Gram
    matrix where that is smaller: they are projected once.

    Features are (n, width), counts (resamples, n) whole numbers, with at least 2 images in each row.
    """
    x_nd, counts_rn = as_features(features), np.asarray(counts, np.float64)
    covariance = reference.covariance
    factor, order, rank = _factor(covariance)
    centre = x_nd.mean(axis=0)
    z_nd = x_nd - centre
    y_nr = z_nd[:, order] @ np.tril(factor)[:, :rank]
    sizes = counts_rn.sum(axis=1)
    means_rd = counts_rn @ z_nd / sizes[:, None]
    gaps = np.square(centre + means_rd - reference.mean).sum(axis=1)
    spreads = counts_rn @ np.square(z_nd).sum(axis=1) - sizes * np.square(means_rd).sum(axis=1)
    roots = [_root_of_scatter(y_nr, row) / np.sqrt(size - 1) for row, size in zip(counts_rn, sizes, strict=True)]
    return gaps + np.trace(covariance) + spreads / (sizes - 1) - 2 * np.array(roots)


def _root_of_scatter(y_nr: Array, counts_n: Array) -> float:
    """Sum of the roots of the eigenvalues of the scatter of rows that are there ``counts_n`` times."""
    there = counts_n > 0
    rows, often = y_nr[there], counts_n[there]
    rows = (rows - often @ rows / often.sum()) * np.sqrt(often)[:, None]
    return _sum_of_roots(rows.T @ rows if len(rows) > rows.shape[1] else rows @ rows.T)


def _sum_of_roots(matrix: Array) -> float:
    """Of the eigenvalues of a symmetric matrix, given by its lower triangle; negative ones, of rounding, are zero."""
    values = linalg.eigh(matrix, lower=True, eigvals_only=True, driver="evd", check_finite=False)
    return float(np.sqrt(values.clip(min=0)).sum())


def _factor(matrix: Array) -> tuple[Array, Sequence[int], int]:
    """Pivoted Cholesky: L (``rank`` columns of its lower triangle), order and rank; matrix[order][:, order] = L L^T."""
    factor, order, rank, _ = lapack.dpstrf(np.asarray(matrix, np.float64).T, lower=1)
    return factor, order - 1, int(rank)


def _check(reference: Statistics, statistics: Statistics, few: bool) -> bool:
    """Whether a set is too small for a covariance of full rank."""
    if reference.counted or reference.convention != Convention():  # a foreign file says nothing of it
        reference.convention.agree(statistics.convention)
    _same_width(reference.width, statistics.width)
    least = max(reference.width + 1, 2)
    small = min(reference.n, statistics.n)
    if small < least and not few:
        raise BadInput(
            f"a Fréchet distance of {reference.width} features needs at least {least} images in each set, got "
            f"{reference.n} and {statistics.n}; fewer are taken on request, and the number is then marked as biased"
        )
    return small < least


def _same_width(first: int, second: int) -> None:
    if first != second:
        raise BadInput(f"features of width {first} and {second} cannot be compared")
