"""Table ``mobilediffusion-vae-reconstruction``: pictures reconstructed by each autoencoder, and rows of it."""

import functools
import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from mdrepro.core.console import Progress
from mdrepro.core.errors import NotAttempted
from mdrepro.core.workers import side_by_side
from mdrepro.data import photos
from mdrepro.evaluation import coco
from mdrepro.evaluation.rows import Row
from mdrepro.metrics import jackknife
from mdrepro.metrics.image import frechet, pairs, reconstruction, sets
from mdrepro.metrics.image.encoders import Encoder
from mdrepro.metrics.image.statistics import Statistics
from mdrepro.models.mobilediffusion import vae
from mdrepro.reproduce.tables.vae_networks import Network, Picture, Pictures
from mdrepro.training.recipes.photos import PERCEPTUAL

DEFINITIONS = {
    "psnr": "PSNR of uint8 RGB, range 255",
    "ssim": "SSIM of uint8 RGB, Gaussian window 11, sigma 1.5, population covariance, channels averaged",
    "ms_ssim": "MS-SSIM of uint8 RGB, 5 scales, windows inside the image",
}
GAINS = (("ours", "sd"), ("ours-lite", "sd"), ("ours-lite", "ours"))
DIFFERENCES = {
    "sd": {
        "psnr": "psnr_gain_over_sd",
        "ssim": "ssim_gain_over_sd",
        "lpips_alex": "lpips_alex_minus_sd",
        "lpips_vgg": "lpips_vgg_minus_sd",
    },
    "ours": {"psnr": "psnr_gain_over_ours", "ssim": "ssim_gain_over_ours"},
}
"""By the row that is taken away, and the metric: the column of the paired difference."""
QUALITY = ("psnr", "ssim", "ms_ssim", "lpips_alex", "lpips_vgg")
SLOW = "lpips_vgg"
"""Measured on the first tile of each picture: on all tiles it would cost as much as everything else together."""
SIZE = photos.TILE
"""px, of all columns that name no size."""
SHOWN = 3
"""Pictures in the figure, at most."""
FID = "fid_reconstruction"

Scores = Mapping[str, Sequence[NDArray[np.float64]]]


@dataclass
class Measured:
    """One autoencoder on the pictures.

    Args:
        network: which one.
        scores: by column, such as ``psnr`` and ``psnr_512``, and by scene: a number per tile.
        images: reconstructions of the first `SHOWN` pictures, uint8 (tiles, 3, 256, 256).
        fid: of the reconstructions' features, where an encoder is here.
    """

    network: Network
    scores: dict[str, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    images: list[Tensor] = field(default_factory=list)
    fid: Statistics | None = None

    def clusters(self, column: str, like: str | None = None) -> list[NDArray[np.float64]]:
        """An array for each scene with one number per tile; of the scenes that column ``like`` has, too."""
        scenes = self.scores[column]
        return [np.array(scenes[scene]) for scene in scenes if like is None or scene in self.scores[like]]


@dataclass
class Reconstruction:
    """All autoencoders on the same pictures.

    Args:
        measured: by row.
        pictures, sizes: what was reconstructed, px.
        originals: the first `SHOWN` pictures, uint8 (tiles, 3, 256, 256).
        tiles: how many, by size.
        reasons: by column, why it was not attempted.
        protocols: by column, what was measured.
    """

    measured: dict[str, Measured]
    pictures: Pictures
    sizes: tuple[int, ...]
    reasons: dict[str, str]
    protocols: dict[str, str]
    originals: list[Tensor] = field(default_factory=list)
    tiles: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    fid: Statistics | None = None
    width: int = 0  # of the features for FID


@torch.inference_mode()
def measure(networks: Mapping[str, Network], pictures: Pictures, sizes: Sequence[int], tier: str) -> Reconstruction:
    """Reconstruct every tile of every size by every autoencoder, from the mean of its latent, and score it.

    Above the quick tier features for FID[reconstruction] are taken too, at 256 px. LPIPS and FID are left out, with the
    reason, where their weights are not here.
    """
    metrics, reasons = pairs.measures([name.replace("_", "-") for name in QUALITY])
    metrics = {name.replace("-", "_"): metric for name, metric in metrics.items()}
    reasons = {name.replace("-", "_"): reason for name, reason in reasons.items()}
    protocols = DEFINITIONS | {
        name: metric.protocol for name, metric in metrics.items() if isinstance(metric, reconstruction.Lpips)
    }
    found = Reconstruction(
        {row: Measured(network) for row, network in networks.items()}, pictures, tuple(sizes), reasons, protocols
    )
    encoder = None if tier == "quick" else _encoder(found)
    for network in networks.values():
        network.model.to(memory_format=torch.channels_last)  # a fifth faster on a CPU
    scored = functools.partial(_scored, networks, sizes, metrics, encoder)
    with Progress("reconstruction", len(pictures.pictures), "pictures") as progress:
        for picture, one in zip(pictures.pictures, side_by_side(scored, pictures.pictures), strict=True):
            _add(found, picture, one)
            progress.advance()
    return found


@dataclass
class _Scored:
    """One picture: numbers per tile by row and column, tiles by size, and those of 256 px with what they became."""

    scores: dict[tuple[str, str], list[float]]
    tiles: dict[int, int]
    original: Tensor
    images: dict[str, Tensor]
    features: Tensor | None
    features_of: dict[str, Tensor]


@torch.inference_mode()
def _scored(
    networks: Mapping[str, Network],
    sizes: Sequence[int],
    metrics: Mapping[str, pairs.Metric],
    encoder: Encoder | None,
    picture: Picture,
) -> _Scored:
    """By one thread: networks as small as these gain more from pictures side by side than from threads within one."""
    scores, tiles = dict[tuple[str, str], list[float]](), dict[int, int]()
    known: dict[str, dict[bytes, Tensor]] = {row: {} for row in networks}
    original = picture.tiles(SIZE)
    images = {row: reconstructed(network.model, original, known[row]) for row, network in networks.items()}
    for name, metric in metrics.items():
        n = 1 if name == SLOW else len(original)
        found = _each(metric, original[:n], [image[:n] for image in images.values()])
        scores |= {(row, name): values.tolist() for row, values in zip(images, found, strict=True)}
    for size in sizes:
        x = original if size <= SIZE else picture.tiles(size)
        tiles[size] = len(x) * (max(size, SIZE) // size) ** 2
        for row, (column, side) in itertools.product(networks, _cuts(size).items() if len(x) else ()):
            if not row.endswith(PERCEPTUAL):
                again = pasted(networks[row].model, x, side, known[row])
                scores[row, column] = reconstruction.psnr(x, again).tolist()
    features = _features(encoder, original) if encoder else None
    return _Scored(
        scores,
        tiles,
        original,
        images,
        features,
        {row: _features(encoder, image) for row, image in images.items()} if encoder else {},
    )


def _add(found: Reconstruction, picture: Picture, one: _Scored) -> None:
    for size, count in one.tiles.items():
        found.tiles[size] += count
    for (row, column), values in one.scores.items():
        found.measured[row].scores[column][picture.scene] += values
    if len(found.originals) < SHOWN:
        found.originals.append(one.original)
        for row, measured in found.measured.items():
            measured.images.append(one.images[row])
    if found.fid is not None and one.features is not None:
        found.fid.add(one.features)
        for row, measured in found.measured.items():
            if measured.fid is not None:
                measured.fid.add(one.features_of[row])


def _cuts(size: int) -> dict[str, int]:
    """Columns of a size that is not `SIZE`, and the tiles, px, that the areas are cut into.

    Errors of two sizes are averaged over the same areas before the logarithm: over smaller ones the mean of PSNR is
    higher, whatever the network.
    """
    if size == SIZE:
        return {}
    return {f"psnr_{size}": size} if size < SIZE else {f"psnr_{size}": size, f"psnr_{size}_cut": SIZE}


def pasted(model: AutoencoderKL, areas: Tensor, side: int, known: dict[bytes, Tensor] | None = None) -> Tensor:
    """Reconstructed in tiles of ``side`` px that are put together again: uint8 (n, 3, k side, k side) to the same."""
    n, channels, height, _ = areas.shape
    k = height // side
    cut = areas.view(n, channels, k, side, k, side).permute(0, 2, 4, 1, 3, 5)
    again = reconstructed(model, cut.reshape(n * k * k, channels, side, side), known)
    whole = again.view(n, k, k, channels, side, side).permute(0, 3, 1, 4, 2, 5)
    return whole.reshape(areas.shape)


def _each(metric: pairs.Metric, x: Tensor, again: Sequence[Tensor]) -> list[Tensor]:
    return metric.of_several(x, again) if isinstance(metric, reconstruction.Lpips) else [metric(x, y) for y in again]


def reconstructed(model: AutoencoderKL, tiles: Tensor, known: dict[bytes, Tensor] | None = None) -> Tensor:
    """uint8 (n, 3, h, w) to the same, one by one, from the mean of the latent; ``known``: tiles that were before."""
    known = {} if known is None else known
    for tile in tiles:
        if (content := tile.numpy().tobytes()) not in known:
            known[content] = photos.to_uint8(vae.reconstruct(model, photos.to_network(tile[None])))
    return torch.cat([known[tile.numpy().tobytes()] for tile in tiles]).contiguous()


def rows(found: Reconstruction) -> list[Row]:
    """Parameters, quality with intervals, what other sizes change, and paired gains, for each autoencoder."""
    cells = []
    for row, one in found.measured.items():
        network = one.network
        what = f"Decoder of the measured network ({network.name}), without the 1x1 convolution on the latent"
        cells.append(Row(row, "params", network.params / 1e6, f"{what}; {network.training}"))
        for column in QUALITY:
            if reason := found.reasons.get(column):
                cells.append(Row(row, column, None, _protocol(found, column, one), reason=reason))
            else:
                cells.append(_cell(found, row, column, jackknife.cluster_interval(one.clusters(column))))
        cells += [cell for size in found.sizes if size != SIZE for cell in _of_size(found, row, size)]
        cells += _fid(found, row)
    for row, other in GAINS:
        first, second = found.measured[row], found.measured[other]
        for column, name in DIFFERENCES[other].items():
            if column in found.reasons:
                cells.append(Row.absent(row, name, found.reasons[column]))
                continue
            gain = jackknife.paired_interval(first.clusters(column), second.clusters(column))
            what = f"{column.upper()} of row {row} minus that of row {other} on the same tiles, paired"
            cells.append(_cell(found, row, column, gain, name, f"{what}; "))
    return cells


def _of_size(found: Reconstruction, row: str, size: int) -> list[Row]:
    """PSNR at another size, and its difference to that at 256 px over the same areas."""
    one, column = found.measured[row], f"psnr_{size}"
    if row.endswith(PERCEPTUAL):
        return [Row.absent(row, column, "other sizes are measured of the networks before LPIPS and the patch-GAN")]
    if len(one.scores[column]) < 2:
        return [Row.absent(row, column, f"fewer than 2 scenes are {size} px high and wide")]
    cells = [_cell(found, row, column, jackknife.cluster_interval(one.clusters(column)))]
    base = one.clusters("psnr" if size < SIZE else f"{column}_cut", column)
    change = jackknife.paired_interval(one.clusters(column), base)
    what = f"PSNR at {size} px minus that at {SIZE} px, over the same areas, paired; "
    return [*cells, _cell(found, row, column, change, f"psnr_{size}_minus_{SIZE}", what)]


def _fid(found: Reconstruction, row: str) -> list[Row]:
    one = found.measured[row]
    if found.fid is None or one.fid is None:
        return [Row.absent(row, FID, found.reasons[FID])] if FID in found.reasons else []
    least = found.width + 1
    if found.fid.n < least:
        return [Row.absent(row, FID, f"FID of {found.width} features needs at least {least} images, got {found.fid.n}")]
    value = frechet.distance(found.fid, one.fid).value
    protocol = f"FID of the reconstructions to their originals at {SIZE} px, {found.protocols[FID]}"
    return [Row(row, FID, value, f"{protocol}; {found.pictures.description}; {one.network.training}")]


def _cell(
    found: Reconstruction, row: str, column: str, measured: jackknife.Interval, name: str = "", what: str = ""
) -> Row:
    return Row.measured(row, name or column, measured, what + _protocol(found, column, found.measured[row]))


def _protocol(found: Reconstruction, column: str, one: Measured) -> str:
    size = int(column.removeprefix("psnr_")) if column.startswith("psnr_") else SIZE
    metric = found.protocols.get("psnr" if column.startswith("psnr") else column, column)
    if size < SIZE:
        metric += f", errors averaged over areas of {SIZE} px"
    scenes = one.scores[column]
    tiles = found.tiles[size] if size != SIZE else sum(map(len, scenes.values()))
    which = ", the first of each picture," if column == SLOW else ""
    return (
        f"{metric}; mean over each scene's tiles, then over {len(scenes)} scenes: {tiles} tiles{which} of "
        f"{size} px from {found.pictures.description}; 95 % interval of Student over scenes; "
        f"{one.network.name}: {one.network.training}"
    )


def _encoder(found: Reconstruction) -> Encoder | None:
    try:
        encoder = coco.encoder(coco.FID, torch.device("cpu"))
    except NotAttempted as missing:
        found.reasons[FID] = str(missing)
        return None
    found.protocols[FID] = sets.protocol(encoder)
    found.fid, found.width = Statistics(encoder.convention), encoder.network.width
    for one in found.measured.values():
        one.fid = Statistics(encoder.convention)
    return encoder


def _features(encoder: Encoder, images: Tensor) -> Tensor:
    return encoder(torch.stack([encoder.prepare(image) for image in images]))
