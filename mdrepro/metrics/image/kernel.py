"""Kernel distance between two sets of image features (KID, Bińkowski et al. 2018, arXiv 1801.01401).

The squared maximum mean discrepancy under k(x, y) = (x.y / width + 1)^3, in its unbiased form (Gretton et al. 2012,
eq. 3): means of k over pairs of different images of one set, less twice the mean over pairs of both. It has no bias in
the number of images and may be slightly negative. All in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mdrepro.core.errors import BadInput
from mdrepro.metrics.image.statistics import Array, Features, as_pair
from mdrepro.metrics.jackknife import groups

SUBSETS, SUBSET_SIZE, SEED = 100, 1000, 2020  # torch-fidelity's defaults
DEGREE, SHIFT = 3, 1.0
ROWS = 1024  # of a kernel matrix, in memory at once


@dataclass(frozen=True)
class BlockEstimate:
    """Mean and (population) standard deviation of the distance over random subsets, and their number and size."""

    mean: float
    std: float
    subsets: int
    size: int


def kernel_distance(first: Features, second: Features) -> float:
    """The unbiased estimate from all pairs of images of two sets, (n1, width) and (n2, width).

    Raises BadInput for fewer than 2 images, two widths, or values that are not finite.
    """
    return _single(*_pair(first, second, 2))


def paired_kernel_distances_without(first: Features, second: Features) -> Array:
    """Kernel distance of two sets of images of the same captions, of all of them and without each group: (1 + G,).

    The mean over pairs of captions i, j of k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i) (Gretton et al. 2012,
    eq. 4): unbiased although x_i and y_i belong together, as no image is compared with that of its own caption. Groups
    are those of `mdrepro.metrics.jackknife`. Features are (n, width) of both; errors as for `kernel_distance`, and
    BadInput for two numbers of images or fewer than 3.
    """
    x, y = _pair(first, second, 3)
    if len(x) != len(y):
        raise BadInput(f"{len(x)} and {len(y)} images of the same captions: expected as many of both")
    n, of = len(x), groups(len(x))
    member = (of[:, None] == np.arange(of.max() + 1)).astype(np.float64)
    with_each, diagonal = np.zeros(member.shape), np.zeros(n)
    for start in range(0, n, ROWS):
        rows = slice(start, start + ROWS)
        x_y, y_x = _kernel(x[rows], y), _kernel(y[rows], x)
        h = _kernel(x[rows], x) + _kernel(y[rows], y) - x_y - y_x
        diagonal[rows] = h[np.arange(len(h)), np.arange(start, start + len(h))]
        with_each[rows] = h @ member
    inside, crossing = member.T @ with_each, with_each.sum(axis=0)
    left_out = np.concatenate([[0.0], 2 * crossing - np.diag(inside) - member.T @ diagonal])
    kept = n - np.concatenate([[0.0], member.sum(axis=0)])
    return (crossing.sum() - diagonal.sum() - left_out) / (kept * (kept - 1))


def block_kernel_distance(
    first: Features, second: Features, *, subsets: int = SUBSETS, size: int = SUBSET_SIZE, seed: int = SEED
) -> BlockEstimate:
    """The published estimate: the mean over random subsets of equal size, drawn without replacement.

    The subsets are those of torch-fidelity for (first, second) with ``rng_seed=seed``, and those of clean-fid for
    (second, first) after ``numpy.random.seed(seed)``.

    Raises BadInput for fewer images than ``size``, or as `kernel_distance`.
    """
    if subsets < 1 or size < 2:
        raise BadInput(f"{subsets} subsets of {size} images: expected 1 or more of 2 or more")
    x, y = _pair(first, second, size)
    rng = np.random.RandomState(seed)
    drawn = [[rng.choice(len(z), size, replace=False) for z in (x, y)] for _ in range(subsets)]
    if len(x) * len(y) <= subsets * size**2:  # every pair once is less work than every subset's pairs
        of_x, of_y = zip(*drawn, strict=True)
        values = weighted(x, y, _indicators(of_x, len(x)), _indicators(of_y, len(y)))
    else:
        values = np.array([_single(x[i], y[j]) for i, j in drawn])
    return BlockEstimate(float(values.mean()), float(values.std()), subsets, size)


def _single(x: Array, y: Array) -> float:
    """The unbiased distance of two sets that hold each image once."""
    return float(weighted(x, y, np.ones((1, len(x))), np.ones((1, len(y))))[0])


def weighted(x: Array, y: Array, counts_x: Array, counts_y: Array) -> Array:
    """The unbiased distance of sets that hold image i of x ``counts_x[., i]`` times, likewise of y: (sets,).

    Pairs of an image with itself, or with its own repetition, are left out. With x, y (n1, width) and (n2, width),
    counts are (sets, n1) and (sets, n2); a single row serves all sets.
    """
    within = _within(x, counts_x) + _within(y, counts_y)
    sizes = counts_x.sum(axis=1) * counts_y.sum(axis=1)
    return within - 2 * _sum_of_pairs(x, y, counts_x, counts_y) / sizes


def _within(x: Array, counts: Array) -> Array:
    """Mean of the kernel over pairs of different images."""
    squares = np.square(counts)
    diagonal = (np.square(x).sum(axis=1) / x.shape[1] + SHIFT) ** DEGREE
    pairs = np.square(counts.sum(axis=1)) - squares.sum(axis=1)
    return (_sum_of_pairs(x, x, counts, counts) - squares @ diagonal) / pairs


def _sum_of_pairs(x: Array, y: Array, counts_x: Array, counts_y: Array) -> Array:
    """Sum over i, j of counts_x[., i] k(x_i, y_j) counts_y[., j]."""
    total = np.zeros(max(len(counts_x), len(counts_y)))
    for start in range(0, len(x), ROWS):
        rows = slice(start, start + ROWS)
        total += ((counts_x[:, rows] @ _kernel(x[rows], y)) * counts_y).sum(axis=1)
    return total


def _kernel(x: Array, y: Array) -> Array:
    return (x @ y.T / x.shape[1] + SHIFT) ** DEGREE


def _indicators(indices: Sequence[NDArray[np.intp]], n: int) -> Array:
    rows = np.zeros((len(indices), n))
    for row, members in zip(rows, indices, strict=True):
        row[members] = 1
    return rows


def _pair(first: Features, second: Features, least: int) -> tuple[Array, Array]:
    x, y = as_pair(first, second)
    if min(len(x), len(y)) < least:
        raise BadInput(f"at least {least} images in each set are needed, got {len(x)} and {len(y)}")
    return x, y
