"""Reconstruction metrics of two folders: image by image, paired by name."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from mdrepro.core.errors import BadInput, NotAttempted, unknown
from mdrepro.metrics.bootstrap import cluster_interval
from mdrepro.metrics.image import images, reconstruction
from mdrepro.metrics.image.catalogue import BACKBONES
from mdrepro.metrics.image.scores import Score

Metric = Callable[[Tensor, Tensor], Tensor]

PROTOCOLS = {
    "psnr": "mean over images of the PSNR of 8-bit RGB, data range 255",
    "ssim": "SSIM of 8-bit RGB: Gaussian window 11 px, sigma 1.5, population covariance, windows inside, RGB mean",
    "ms-ssim": "MS-SSIM of 8-bit RGB over five scales, windows as of SSIM, all inside",
}
LEAST = reconstruction.WINDOW * 2 ** (len(reconstruction.MS_WEIGHTS) - 1)
"""Pixels of the shorter side that MS-SSIM needs: halved four times, it holds the window."""


def _ms_ssim(x: Tensor, y: Tensor, **options: Any) -> Tensor:
    if min(x.shape[2:]) < LEAST:
        raise ValueError(f"MS-SSIM needs at least {LEAST} px, got {x.shape[3]} x {x.shape[2]}")
    return reconstruction.ms_ssim(x, y, **options)


SIMPLE: dict[str, Metric] = {
    "psnr": reconstruction.psnr,
    "ssim": reconstruction.ssim,
    "ms-ssim": _ms_ssim,
}
NAMES = {"psnr": "PSNR", "ssim": "SSIM", "ms-ssim": "MS-SSIM"} | {f"lpips-{net}": f"LPIPS ({net})" for net in BACKBONES}
METRICS = tuple(NAMES)
RESAMPLES = 1000


def paired(reference: Path, folder: Path) -> list[tuple[Path, Path]]:
    """The images of two folders, by name without suffix. Raises BadInput where some have no partner."""
    sides = [_by_stem(side) for side in (reference, folder)]
    alone = [f"{side}: {name}" for i, side in enumerate((reference, folder)) for name in sides[i].keys() - sides[1 - i]]
    if alone:
        raise BadInput(
            f"{reference} holds {len(sides[0])} images and {folder} {len(sides[1])}; {len(alone)} have no partner, "
            f"such as {min(alone)}: expected two folders whose images have the same names, whatever their suffix"
        )
    return [(file, sides[1][name]) for name, file in sides[0].items()]


def evaluate(
    reference: Path,
    folder: Path,
    metrics: Sequence[str] | None = None,
    *,
    readers: int = images.READERS,
    seed: int = 0,
) -> list[Score]:
    """Scores of reconstructions against their originals.

    Args:
        reference: the folder of originals.
        folder: that of the reconstructions, with the same names and sizes; pairs may differ in size.
        metrics: of `METRICS`. None for all: those whose weights are missing, or whose window does not fit, then have
            no value and a reason.
        readers: threads that read ahead.
        seed: of the bootstrap over images.

    Raises:
        BadInput: an unknown metric, images without partner or of another size, unreadable ones, or, of metrics that
            were asked for by name, images too small for them.
    """
    for name in metrics or ():
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
    pairs = paired(reference, folder)
    wanted = list(dict.fromkeys(metrics or METRICS))
    ready, reasons = measures(wanted)
    protocols = PROTOCOLS | {n: one.protocol for n, one in ready.items() if isinstance(one, reconstruction.Lpips)}
    values: dict[str, list[float]] = {name: [] for name in ready}
    for pair, (x, y) in zip(pairs, images.ahead(pairs, read, readers=readers), strict=True):
        for name in values.keys() - reasons.keys():
            try:
                values[name].append(float(ready[name](x[None], y[None])))
            except ValueError as error:
                if metrics:
                    raise BadInput(f"{pair[0]}: {error}") from error
                reasons[name] = f"{pair[0].name}: {error}"
    return [_score(name, values.get(name, []), protocols.get(name, ""), reasons.get(name, ""), seed) for name in wanted]


def measures(metrics: Sequence[str], strict: bool = False) -> tuple[dict[str, Metric], dict[str, str]]:
    """The metrics ready to measure, and why those of LPIPS are not whose weights are missing.

    Raises:
        NotAttempted: weights are missing and ``strict`` is set.
    """
    ready, reasons = dict[str, Metric](), dict[str, str]()
    for name in metrics:
        try:
            ready[name] = SIMPLE[name] if name in SIMPLE else reconstruction.Lpips(name.removeprefix("lpips-"))
        except NotAttempted as error:
            if strict:
                raise
            reasons[name] = str(error)
    return ready, reasons


def _score(name: str, values: Sequence[float], protocol: str, reason: str, seed: int) -> Score:
    unit = "dB" if name == "psnr" else ""
    finite = [value for value in values if value != float("inf")]
    if name == "psnr" and len(finite) < len(values):
        protocol += f"; {len(values) - len(finite)} of {len(values)} pairs are identical and left out"
        reason = "" if finite else "all pairs are identical: PSNR is infinite"
    if reason:
        return Score(name, NAMES[name], None, 0, protocol, unit=unit, reason=reason)
    if len(finite) < 2:
        return Score(name, NAMES[name], finite[0], 1, protocol, unit=unit)
    mean = cluster_interval([[value] for value in finite], seed=seed, resamples=RESAMPLES)
    return Score(name, NAMES[name], mean.value, len(finite), protocol, low=mean.low, high=mean.high, unit=unit)


def read(pair: tuple[Path, Path]) -> tuple[Tensor, Tensor]:
    """Both images of a pair, uint8 (3, h, w). Raises BadInput where their sizes differ."""
    x, y = (images.read(file) for file in pair)
    if x.shape != y.shape:
        sizes = " and ".join(f"{image.shape[2]} x {image.shape[1]} px" for image in (x, y))
        raise BadInput(f"{pair[0]} and {pair[1]} have {sizes}: expected pairs of one size")
    return x, y


def _by_stem(side: Path) -> Mapping[str, Path]:
    by_stem: dict[str, Path] = {}
    for file in images.files(side):
        if file.stem in by_stem:
            raise BadInput(f"{side} holds both {by_stem[file.stem].name} and {file.name}: expected one of a name")
        by_stem[file.stem] = file
    return by_stem
