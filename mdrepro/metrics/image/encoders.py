"""Encoders of images: networks with a convention of preparing images, by name (`catalogue.ENCODERS`).

An encoder prepares one image at a time, which threads do ahead, and turns a batch into features. A `Network` can be
shared by several encoders, so that a matrix of conventions loads it once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mdrepro.core.errors import BadInput, check
from mdrepro.metrics.image import clip, networks
from mdrepro.metrics.image.catalogue import DEFAULTS, ENCODERS, EncoderRow
from mdrepro.metrics.image.networks import Network
from mdrepro.metrics.image.resizing import RESIZES, Reduction
from mdrepro.metrics.image.statistics import Convention

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Encoder:
    """A network on its device, and a convention of preparing images for it: a row of `ENCODERS`.

    ``reduction``: what is done to an image before that.
    """

    row: EncoderRow
    network: Network
    device: torch.device
    reduction: Reduction | None = None

    def _preparation(self) -> tuple[Callable[[Tensor], Tensor], str]:
        if self.row.resize == "own":
            assert self.network.prepare is not None
            return self.network.prepare
        resize = RESIZES[self.row.resize]
        return partial(resize, size=self.network.size), f"{self.network.size} px, {resize.what}"

    @property
    def preparation(self) -> str:
        """How images are prepared, for people."""
        before = f"{self.reduction.what}; then " if self.reduction else ""
        return before + self._preparation()[1]

    @property
    def convention(self) -> Convention:
        """What makes its features comparable."""
        return Convention(self.network.what, self.network.weights.sha256, self.preparation)

    def prepare(self, x_3hw: Tensor) -> Tensor:
        """A uint8 image (3, h, w) as float32 (3, size, size)."""
        return self._preparation()[0](self.reduction(x_3hw) if self.reduction else x_3hw)

    @torch.inference_mode()
    def __call__(self, x_bchw: Tensor) -> Tensor:
        """Features (b, width) of prepared images, float32 on the CPU. Without TF32, which moves FID."""
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return self.network.features(x_bchw.to(self.device)).float().cpu()

    def record(self) -> dict[str, Any]:
        """Network, preparation and weights, as JSON."""
        checked = self.network.weights
        return {
            "encoder": self.row.name,
            "network": self.network.what,
            "features": self.network.width,
            "preparation": self.preparation,
            "weights": checked.name,
            "weights_sha256": checked.sha256,
            "weights_published": checked.published,
        }


def row(name: str) -> EncoderRow:
    """A row of `ENCODERS`. Raises BadInput for another name."""
    return ENCODERS[check("encoder", name, ENCODERS)]


def device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one. Raises BadInput for what is not there."""
    if name == "auto":
        return torch.device("cuda") if torch.cuda.is_available() else CPU
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise BadInput(f"--device {name} is not there ({reason}): expected auto, cpu, cuda") from error
    return torch.device(name)


def load(
    name: str, source: str | None = None, *, sha256: str | None = None, download: bool = False, on: torch.device = CPU
) -> Encoder:
    """An encoder that is ready to run.

    Args:
        name: a row of `ENCODERS`.
        source: its weights, as the row's ``source`` says; None for what usually stands for them.
        sha256: of a file that is not the published one.
        download: get weights that are not on this machine.

    Raises BadInput for an unknown name, weights of another hash, or no weights of this network, and NotAttempted where
    weights or package are not on this machine; the message says how to get them.
    """
    return Encoder(row(name), network(name, source, sha256=sha256, download=download, on=on), on)


def network(
    name: str, source: str | None = None, *, sha256: str | None = None, download: bool = False, on: torch.device = CPU
) -> Network:
    """The network of an encoder, for encoders of its family. Arguments and errors as `load`."""
    which = row(name)
    if which.family in DEFAULTS:
        kinds = {"clip": clip.transformers_clip, "open-clip": clip.open_clip, "hps": clip.hps}
        kinds["dinov2"] = networks.dinov2
        loaded = kinds[which.family](source or DEFAULTS[which.family], sha256, download)
    elif which.family == "shapes":
        loaded = networks.scene_reader(source, sha256)
    else:
        loaded = networks.inception_v3(which, source, sha256, download)
    loaded.module.eval().to(on)
    return loaded
