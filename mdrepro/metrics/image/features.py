"""One pass over a folder of images for all metrics on features: each image is read once, whatever the encoders.

Statistics stream in float64; single features are kept only for metrics that compare images (KID, precision and recall,
FD-infinity, CLIP score).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from mdrepro.core import distributed
from mdrepro.core.errors import BadInput
from mdrepro.metrics.image import images
from mdrepro.metrics.image.encoders import Encoder
from mdrepro.metrics.image.statistics import Array, Statistics

BATCH = 32
BLOCK = 512  # images whose features wait for one update of the statistics, which costs width^2 whatever their number


@dataclass(frozen=True)
class FeatureSet:
    """Statistics of a set of images under one encoder, and its features, float32 (n, width), where they were kept."""

    statistics: Statistics
    features: Tensor | None = None

    def array(self) -> Array:
        """The single features, float64 (n, width)."""
        assert self.features is not None, "the features were not kept"
        return self.features.double().numpy()


def extract(
    files: Sequence[Path],
    encoders: Mapping[str, Encoder],
    *,
    keep: Sequence[str] = (),
    batch: int = BATCH,
    readers: int = images.READERS,
    spread: bool = False,
) -> dict[str, FeatureSet]:
    """Features of images under several encoders, by the encoders' names in the mapping.

    ``keep``: the encoders whose single features are wanted, in order of the files. ``batch``: images that run at once;
    the features do not depend on it beyond float32's rounding. ``readers``: threads that read and prepare ahead.
    ``spread``: each process of a launcher reads every n-th batch, and all get the features of one process, and its
    statistics up to the rounding of float64 sums. Raises BadInput for an image that cannot be taken, or whose features
    are not finite; the message names the file.
    """
    waiting: dict[str, list[Tensor]] = {name: [] for name in encoders}
    kept: dict[str, list[Tensor]] = {name: [] for name in keep}
    sums = {name: Statistics(encoder.convention) for name, encoder in encoders.items()}

    def prepared(file: Path) -> tuple[Path, dict[str, Tensor]]:
        pixels = images.read(file)
        try:
            return file, {name: encoder.prepare(pixels) for name, encoder in encoders.items()}
        except BadInput as error:
            raise BadInput(f"{file}: {error}") from error

    index, processes = distributed.position() if spread else (0, 1)
    mine = [row for row in range(len(files)) if row // batch % processes == index]
    ready = images.ahead([files[row] for row in mine], prepared, readers=readers, depth=2 * batch)
    while part := list(islice(ready, batch)):
        for name, encoder in encoders.items():
            features = encoder(torch.stack([tensors[name] for _, tensors in part]))
            broken = ~features.isfinite().all(dim=1)
            if broken.any():
                file, _ = part[int(broken.int().argmax())]
                raise BadInput(
                    f"{encoder.row.name} gives features that are not finite for {file}: look at that image and at the "
                    "weights"
                )
            waiting[name].append(features)
            if name in kept:
                kept[name].append(features)
            if sum(map(len, waiting[name])) >= BLOCK:
                sums[name].add(torch.cat(waiting[name]))
                waiting[name].clear()
    for name, rest in waiting.items():
        if rest:
            sums[name].add(torch.cat(rest))
    whole = {name: torch.cat(parts) for name, parts in kept.items() if parts}
    if processes > 1:
        widths = {name: encoder.network.width for name, encoder in encoders.items()}
        sums = {name: one.over_processes(widths[name]) for name, one in sums.items()}
        whole = {name: _rows(whole.get(name), mine, len(files), widths[name]) for name in kept}
    return {name: FeatureSet(sums[name], whole.get(name)) for name in encoders}


def _rows(features: Tensor | None, mine: Sequence[int], count: int, width: int) -> Tensor:
    """All processes' features, (count, width), each in its row: a sum with zeros, which rounds nothing."""
    placed = torch.zeros(count, width)
    if features is not None:
        placed[mine] = features.cpu().float()
    return distributed.total(placed)
