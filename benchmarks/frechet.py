"""The Fréchet distance of 2,048 features against the matrix square root of scipy."""

import time

import numpy as np
from scipy import linalg

from benchmarks.table import Ratio, in_turn
from mdrepro.metrics.image import frechet

WIDTH = 2048


def run() -> list[Ratio]:
    """One row. Raises AssertionError where the two distances are not the same."""
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((2, WIDTH, WIDTH)) / WIDTH**0.5
    one, two = (np.cov(rng.standard_normal((3000, WIDTH)) @ each, rowvar=False) for each in mixing)
    mean1, mean2 = rng.standard_normal((2, WIDTH))
    gap = mean1 - mean2

    def scipy() -> float:
        root = linalg.sqrtm(one @ two)
        return float(gap @ gap + np.trace(one) + np.trace(two) - 2 * np.trace(root).real)

    distances: dict[str, float] = {}
    ours, theirs = in_turn(
        lambda: distances.update(ours=frechet.frechet_distance(mean1, one, mean2, two)),
        lambda: distances.update(scipy=scipy()),
        1,
        time.process_time,
    )
    assert abs(distances["ours"] / distances["scipy"] - 1) < 1e-6
    return [Ratio("Fréchet distance, 2,048 features", "scipy's sqrtm", ours, theirs, "CPU s", 0.2, "once each")]
