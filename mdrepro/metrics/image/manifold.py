"""Precision and recall of generated images (Kynkäänniemi et al. 2019, arXiv 1904.06991).

A set's manifold is the union of balls around its images' features, each reaching to the image's k-th nearest neighbour
(eq. 1). Precision is the share of generated images on the real manifold, recall that of real ones on the generated.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mdrepro.core.errors import BadInput
from mdrepro.metrics.image.statistics import Array, Features, as_pair

NEIGHBOUR = 3  # the paper's k
ROWS = 1024  # of a matrix of distances, in memory at once


@dataclass(frozen=True)
class PrecisionRecall:
    """Two shares, 0 to 1, the neighbour k and the images of both sets. Both shares depend on k and on the numbers."""

    precision: float
    recall: float
    k: int
    n_real: int
    n: int


def precision_recall(real: Features, generated: Features, *, k: int = NEIGHBOUR) -> PrecisionRecall:
    """Precision and recall, eq. 2 of the paper, of features (n1, width) and (n2, width).

    A ball reaches to the ``k``-th neighbour, the image itself not counted. Raises BadInput for k or fewer images, two
    widths, or values that are not finite.
    """
    x, y = as_pair(real, generated)
    if not 1 <= k < min(len(x), len(y)):
        raise BadInput(f"k is {k}: expected 1 to one less than the images of each set ({len(x)} and {len(y)})")
    x, y = x - x.mean(axis=0), y - x.mean(axis=0)
    precision, recall = _on_manifold(y, x, k).mean(), _on_manifold(x, y, k).mean()
    return PrecisionRecall(float(precision), float(recall), k, len(x), len(y))


def _on_manifold(images: Array, others: Array, k: int) -> NDArray[np.bool_]:
    """Which images lie in some ball of the others: (n,)."""
    radii = np.concatenate([np.partition(rows, k, axis=1)[:, k] for rows in _squared_distances(others, others)])
    return np.concatenate([(rows <= radii).any(axis=1) for rows in _squared_distances(images, others)])


def _squared_distances(x: Array, y: Array) -> Iterator[Array]:
    """|x_i - y_j|^2, some rows at a time."""
    norms = np.square(y).sum(axis=1)
    for start in range(0, len(x), ROWS):
        rows = x[start : start + ROWS]
        yield (np.square(rows).sum(axis=1)[:, None] + norms - 2 * rows @ y.T).clip(min=0)
