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
from mdrepro.metrics.image.encoders import CPU, Encoder
from mdrepro.metrics.image.networks import Network
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
    known = [row for row in ENCODERS.values() if row.family in FAMILIES and row.family in networks]
    encoders = {row.name: Encoder(row, networks[row.family], device) for row in known}
    if not encoders:
        raise BadInput(f"no conventions to compare: expected networks of {', '.join(FAMILIES)}")
    clips = [name for name, encoder in encoders.items() if encoder.network.texts is not None and captions is not None]
    files = [images.files(folder) for folder in (real, generated)]
    for name in clips:
        sets.check_captions(captions, encoders[name], len(files[1]), generated)
    for encoder in encoders.values():
        sets.check_numbers(["fid"], encoder, len(files[0]), len(files[1]), how)
    reference = features.extract(files[0], encoders, batch=how.batch, readers=how.readers)
    ours = features.extract(files[1], encoders, keep=clips, batch=how.batch, readers=how.readers)
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
