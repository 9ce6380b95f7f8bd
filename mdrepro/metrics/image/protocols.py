"""One set of images under every convention, side by side: what a number would have been in another paper.

Conventions are those of `catalogue.ENCODERS` on images as they are, and FID's of `presets.PRESETS`. All share one pass
over the images and one network of a family; only the preparation of images differs, and for the CLIP score what becomes
of the cosine.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mdrepro.core.errors import BadInput
from mdrepro.metrics.image import features, images, sets
from mdrepro.metrics.image.catalogue import ENCODERS
from mdrepro.metrics.image.clip_score import SCALES
from mdrepro.metrics.image.encoders import CPU, Encoder
from mdrepro.metrics.image.networks import Network
from mdrepro.metrics.image.presets import PRESETS
from mdrepro.metrics.image.resizing import Reduction
from mdrepro.metrics.image.scores import Score

FAMILIES = ("inception", "clip", "open-clip")


@dataclass(frozen=True)
class Variant:
    """A number under one convention; groups are what is comparable at all.

    ``difference``: to the group's first; of CLIP scores, of the cosines that they stand for. ``percent``: of the first.
    """

    group: str
    convention: str
    score: Score
    difference: float
    percent: float | None

    def record(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Ranked:
    """A convention's FID beside a published one; ``inside``: that is in the 95 % interval over images."""

    convention: str
    score: Score
    published: float
    difference: float  # ours less the published
    inside: bool

    def record(self) -> dict[str, Any]:
        return asdict(self)

    def cells(self) -> tuple[str, str, str, str]:
        """Convention, number with its interval, difference and whether the published is inside, for a table."""
        inside = "published is in the interval" if self.inside else ""
        return self.convention, self.score.cells()[1], f"{self.difference:+.4g}", inside


def ranked(variants: Sequence[Variant], published: float) -> list[Ranked]:
    """The FIDs of a `matrix`, the nearest to a published one first.

    Raises BadInput for a published number that is no FID, or where the matrix has none.
    """
    if not 0 <= published < math.inf:
        raise BadInput(f"--published {published:g}: expected an FID, 0 or more")
    rows = []
    for one in variants:
        value, low, high = one.score.value, one.score.low, one.score.high
        if one.group == "FID" and value is not None:
            inside = low is not None and high is not None and low <= published <= high
            rows.append(Ranked(one.convention, one.score, published, value - published, inside))
    if not rows:
        raise BadInput("--published is compared with FID, whose network is not there")
    return sorted(rows, key=lambda row: abs(row.difference))


def conventions(networks: Mapping[str, Network], device: torch.device = CPU) -> dict[str, Encoder]:
    """The encoders of networks by family of `FAMILIES`, by name; those of presets are called by these."""
    known = [row for row in ENCODERS.values() if row.family in FAMILIES and row.family in networks]
    encoders = {row.name: Encoder(row, networks[row.family], device) for row in known}
    alike: dict[tuple[str, Reduction], list[str]] = {}
    for preset in PRESETS.values():
        alike.setdefault((preset.encoder, preset.reduction), []).append(preset.name)
    for (name, reduction), presets in alike.items():
        if name in encoders:
            encoders[", ".join(presets)] = replace(encoders[name], reduction=reduction)
    return encoders


def matrix(
    real: Path,
    generated: Path,
    networks: Mapping[str, Network],
    *,
    captions: Sequence[str] | None = None,
    options: sets.Options | None = None,
    device: torch.device = CPU,
) -> list[Variant]:
    """Fréchet distances and CLIP scores of a folder under all conventions of networks, by family of `FAMILIES`.

    Captions and options are as for `sets.evaluate`. Raises BadInput for no network of these families, or as there.
    """
    how = options or sets.Options()
    encoders = conventions(networks, device)
    if not encoders:
        raise BadInput(f"no conventions to compare: expected networks of {', '.join(FAMILIES)}")
    clips = [name for name, encoder in encoders.items() if encoder.network.texts is not None and captions is not None]
    files = [images.files(folder) for folder in (real, generated)]
    for name in clips:
        sets.check_captions(captions, encoders[name], len(files[1]), generated)
    for encoder in encoders.values():
        sets.check_numbers(["fid"], encoder, len(files[0]), len(files[1]), how)
    reference = features.extract(files[0], encoders, batch=how.batch, readers=how.readers)
    keep = list(encoders) if how.interval else clips
    ours = features.extract(files[1], encoders, keep=keep, batch=how.batch, readers=how.readers)
    variants: list[Variant] = []
    first: dict[str, float] = {}

    def add(number: str, encoder: Encoder, convention: str, score: Score, factor: float = 1.0) -> None:
        group = number if encoder.row.family == "inception" else f"{number}, {encoder.network.what}"
        assert score.value is not None
        value = score.value / factor
        start = first.setdefault(group, value)
        percent = 100 * (value - start) / abs(start) if start else None
        variants.append(Variant(group, convention, score, value - start, percent))

    for name, encoder in encoders.items():
        add(encoder.row.label, encoder, name, sets.MEASURES["fid"](encoder, reference[name], ours[name], how))
    for name in clips:
        # The network's own preparation under every scale, the others under the plain cosine.
        scales = list(SCALES) if encoders[name].row.resize == "own" else ["cosine"]
        scores = sets.clip_scores(encoders[name], ours[name], captions or (), scales)
        for scale, score in scores.items():
            add("CLIP score", encoders[name], f"{name}, {scale}", score, SCALES[scale].factor)
    return variants
