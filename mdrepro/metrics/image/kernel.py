"""Kernel distance between two sets of image features (KID, Bińkowski et al. 2018, arXiv 1801.01401).

The squared maximum mean discrepancy under k(x, y) = (x.y / width + 1)^3, in its unbiased form (Gretton et al. 2012,
eq. 3): means of k over pairs of different images of one set, less twice the mean over pairs of both. It has no bias in
the number of images and may be slightly negative. All in float64.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mdrepro.core.errors import BadInput
from mdrepro.metrics.image.statistics import Array, Features, as_features

SUBSETS, SUBSET_SIZE, SEED = 100, 1000, 2020  # torch-fidelity's defaults
DEGREE, SHIFT = 3, 1.0
ROWS = 1024
"""Rows of a kernel matrix that are in memory at once."""


@dataclass(frozen=True)
class BlockEstimate:
    """Mean and (population) standard deviation of the distance over random subsets, and their number and size."""

    mean: float
    std: float
    subsets: int
    size: int


def kernel_distance(first: Features, second: Features) -> float:
    """The unbiased estimate from all pairs of images; see this module's text.

    Args:
        first, second: features (n1, width) and (n2, width).

    Raises:
        BadInput: fewer than 2 images, another width, or values that are not finite.
    """
    x, y = _pair(first, second, 2)
    return float(weighted(x, y, np.ones((1, len(x))), np.ones((1, len(y))))[0])


def block_kernel_distance(
    first: Features, second: Features, *, subsets: int = SUBSETS, size: int = SUBSET_SIZE, seed: int = SEED
) -> BlockEstimate:
    """The published estimate: the mean over random subsets of equal size, drawn without replacement.

    The subsets are those of torch-fidelity for (first, second) with ``rng_seed=seed``, and those of clean-fid for
    (second, first) after ``numpy.random.seed(seed)``.

    Args:
        first, second: features (n1, width) and (n2, width).
        subsets, size: how many, and images in each; at most n1 and n2.
        seed: of the draw.

    Raises:
        BadInput: fewer images than ``size``, or as `kernel_distance`.
    """
    if subsets < 1 or size < 2:
        raise BadInput(f"{subsets} subsets of {size} images: expected 1 or more of 2 or more")
    x, y = _pair(first, second, size)
    rng = np.random.RandomState(seed)
    indices = [[rng.choice(len(z), size, replace=False) for z in (x, y)] for _ in range(subsets)]
    if len(x) * len(y) <= subsets * size**2:  # every pair once is less work than every subset's pairs
        values = weighted(
            x, y, *(_indicators([pair[side] for pair in indices], len(z)) for side, z in enumerate((x, y)))
        )
    else:
        ones = np.ones((1, size))
        values = np.array([weighted(x[i], y[j], ones, ones)[0] for i, j in indices])
    return BlockEstimate(float(values.mean()), float(values.std()), subsets, size)


def weighted(x: Array, y: Array, counts_x: Array, counts_y: Array) -> Array:
    """The unbiased distance of sets that hold image i of x ``counts_x[., i]`` times, likewise of y: (sets,).

    Pairs of an image with itself, or with its own repetition, are left out. A single row of counts serves all sets.

    Args:
        x, y: (n1, width) and (n2, width).
        counts_x, counts_y: (sets, n1) and (sets, n2), or (1, n).
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
        kernel = (x[rows] @ y.T / x.shape[1] + SHIFT) ** DEGREE
        total += ((counts_x[:, rows] @ kernel) * counts_y).sum(axis=1)
    return total


def _indicators(indices: list[NDArray[np.intp]], n: int) -> Array:
    rows = np.zeros((len(indices), n))
    for row, members in zip(rows, indices, strict=True):
        row[members] = 1
    return rows


def _pair(first: Features, second: Features, least: int) -> tuple[Array, Array]:
    x, y = as_features(first), as_features(second)
    if x.shape[1] != y.shape[1]:
        raise BadInput(f"features of width {x.shape[1]} and {y.shape[1]} cannot be compared")
    if min(len(x), len(y)) < least:
        raise BadInput(f"at least {least} images in each set are needed, got {len(x)} and {len(y)}")
    return x, y
