"""CLIP score: the cosine between an image and its caption, under the conventions that papers use without saying.

    cosine         cos(image, text)                            as MobileDiffusion, SnapFusion and BK-SDM print it
    hessel         2.5 max(cos, 0), image by image             Hessel et al. 2021, arXiv 2104.08718, eq. 1
    torchmetrics   max(mean of 100 cos, 0)                     torchmetrics' CLIPScore

The backbone matters more than these: a score without it is no score.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mdrepro.core.errors import BadInput, check
from mdrepro.metrics.image.statistics import Features, as_features
from mdrepro.metrics.jackknife import Interval, cluster_interval


@dataclass(frozen=True)
class Scale:
    """What becomes of a cosine: its factor, and where negative ones count as zero: ``never``, ``image``, ``mean``."""

    factor: float
    clamp: str

    @property
    def what(self) -> str:
        """For people."""
        clamps = {"never": "no clamping", "image": "each image at 0 or more", "mean": "the mean at 0 or more"}
        return f"scale {self.factor:g}, {clamps[self.clamp]}"


SCALES = {"cosine": Scale(1, "never"), "hessel": Scale(2.5, "image"), "torchmetrics": Scale(100, "mean")}


def cosines(images: Features, texts: Features) -> NDArray[np.float64]:
    """cos(image i, text i), float64 (n,), of features (n, width) each.

    Raises BadInput where shapes differ, or a feature is zero or not finite.
    """
    one, two = as_features(images), as_features(texts)
    if one.shape != two.shape:
        raise BadInput(f"features of images {one.shape} and texts {two.shape} make no pairs")
    broken = ~(one.any(axis=1) & two.any(axis=1))
    if broken.any():
        raise BadInput(f"features of {broken.sum()} pairs are zero, first of pair {broken.argmax()}")
    return (one * two).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)


def clip_score(values: NDArray[np.float64], scale: str = "cosine") -> Interval:
    """The score of a set by its cosines (n,) and a row of `SCALES`, with its interval over images.

    Raises BadInput for an unknown scale, or fewer than 2 images.
    """
    check("scale", scale, SCALES)
    if len(values) < 2:
        raise BadInput(f"a CLIP score needs at least 2 images, got {len(values)}")
    how = SCALES[scale]
    scores = how.factor * (values.clip(min=0) if how.clamp == "image" else values)
    interval = cluster_interval(list(scores))
    if how.clamp == "mean":
        return Interval(max(interval.value, 0.0), max(interval.low, 0.0), max(interval.high, 0.0), interval.n)
    return interval
