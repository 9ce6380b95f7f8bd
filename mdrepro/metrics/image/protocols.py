"""One set of images under every convention, side by side: what a number would have been in another paper.

All conventions share one pass over the images and one network of a family; only the preparation of images differs, and
for the CLIP score what becomes of the cosine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mdrepro.core.errors import BadInput
from mdrepro.metrics.image import features, images, sets
from mdrepro.metrics.image.catalogue import ENCODERS
from mdrepro.metrics.image.clip_score import SCALES
from mdrepro.metrics.image.encoders import Encoder
from mdrepro.metrics.image.networks import Network
from mdrepro.metrics.image.scores import Score

FAMILIES = ("inception", "clip", "open-clip")


@dataclass(frozen=True)
class Variant:
    """One convention.

    Args:
        group: what is comparable at all: FID, CLIP-FID or CLIP score of one network.
        convention: its name; the first of a group is what the others are compared with.
        score: the number.
        difference: to the group's first; of CLIP scores, of the cosines that they stand for.
        percent: the difference in percent of the first.
    """

    group: str
    convention: str
    score: Score
    difference: float
    percent: float | None

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def matrix(
    real: Path,
    generated: Path,
    networks: Mapping[str, Network],
    *,
    captions: Sequence[str] | None = None,
    options: sets.Options | None = None,
    device: torch.device | None = None,
) -> list[Variant]:
    """Fréchet distances and CLIP scores of a folder under all conventions of some networks.

    Args:
        real, generated: folders of images.
        networks: by family: ``inception``, ``clip``, ``open-clip``.
        captions: one for each generated image, for the CLIP score.
        options: as of `mdrepro.metrics.image.sets.evaluate`.
        device: of the networks.

    Raises:
        BadInput: no network of these families, too few images, or as `mdrepro.metrics.image.sets.evaluate`.
    """
    how = options or sets.Options()
    place = device or torch.device("cpu")
    encoders = {
        row.name: Encoder(row, networks[row.family], place)
        for row in ENCODERS.values()
        if row.family in FAMILIES and row.family in networks
    }
    if not encoders:
        raise BadInput(f"no conventions to compare: expected networks of {', '.join(FAMILIES)}")
    clips = [name for name, encoder in encoders.items() if encoder.network.texts is not None and captions is not None]
    files = [images.files(folder) for folder in (real, generated)]
    for name in clips:
        sets.check_captions(captions, encoders[name], len(files[1]), generated)
    for encoder in encoders.values():
        sets.check_numbers(["fid"], encoder, len(files[0]), len(files[1]), how)
    reference = features.extract(files[0], encoders, batch=how.batch, readers=how.readers)
    generated_features = features.extract(files[1], encoders, keep=clips, batch=how.batch, readers=how.readers)
    rows = []
    for name, encoder in encoders.items():
        score = sets.MEASURES["fid"](encoder, reference[name], generated_features[name], how)
        rows.append((_group(encoder, encoder.row.label), name, score, 1.0))
    for name in clips:
        # The network's own preparation under every scale, the others under the plain cosine.
        scales = list(SCALES) if encoders[name].row.resize == "own" else ["cosine"]
        scores = sets.clip_scores(encoders[name], generated_features[name], captions or (), scales, how.seed)
        group = _group(encoders[name], "CLIP score")
        rows += [(group, f"{name}, {scale}", score, SCALES[scale].factor) for scale, score in scores.items()]
    return _compared(rows)


def _group(encoder: Encoder, number: str) -> str:
    return number if encoder.row.family == "inception" else f"{number}, {encoder.network.what}"


def _compared(rows: Sequence[tuple[str, str, Score, float]]) -> list[Variant]:
    first: dict[str, float] = {}
    variants = []
    for group, convention, score, factor in rows:
        assert score.value is not None
        value = score.value / factor
        start = first.setdefault(group, value)
        percent = 100 * (value - start) / abs(start) if start else None
        variants.append(Variant(group, convention, score, value - start, percent))
    return variants
