"""Reconstruction metrics of two folders: image by image, paired by name."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from mdrepro.core.errors import BadInput, NotAttempted, check
from mdrepro.metrics.image import images, reconstruction
from mdrepro.metrics.image.catalogue import BACKBONES
from mdrepro.metrics.image.scores import Score
from mdrepro.metrics.jackknife import cluster_interval

Metric = Callable[[Tensor, Tensor], Tensor]
AHEAD = 2
"""Pairs that wait decoded while one is measured, which takes longer than to read it."""

PROTOCOLS = {
    "psnr": "mean over images of the PSNR of 8-bit RGB, data range 255",
    "ssim": "SSIM of 8-bit RGB: Gaussian window 11 px, sigma 1.5, population covariance, windows inside, RGB mean",
    "ms-ssim": "MS-SSIM of 8-bit RGB over five scales, windows as of SSIM, all inside",
}
SIMPLE: dict[str, Metric] = {
    "psnr": reconstruction.psnr,
    "ssim": reconstruction.ssim,
    "ms-ssim": reconstruction.ms_ssim,
}
NAMES = {"psnr": "PSNR", "ssim": "SSIM", "ms-ssim": "MS-SSIM"} | {f"lpips-{net}": f"LPIPS ({net})" for net in BACKBONES}
METRICS = tuple(NAMES)


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


def evaluate(reference: Path, folder: Path, metrics: Sequence[str] | None = None) -> list[Score]:
    """Scores of reconstructions against their originals.

    Both folders hold images of the same names and sizes; pairs may differ in size. Without ``metrics``, of `METRICS`,
    all are measured: those whose weights are missing, or whose window does not fit, then have no value and a reason.

    Raises BadInput for an unknown metric, images without partner or of another size, unreadable ones, or, of metrics
    that were asked for by name, images too small for them.
    """
    for name in metrics or ():
        check("metric", name, METRICS)
    pairs = paired(reference, folder)
    wanted = list(dict.fromkeys(metrics or METRICS))
    ready, reasons = measures(wanted)
    protocols = PROTOCOLS | {n: one.protocol for n, one in ready.items() if isinstance(one, reconstruction.Lpips)}
    values: dict[str, list[float]] = {name: [] for name in ready}

    def measure(name: str, x: Tensor, y: Tensor) -> None:
        values[name].append(float(ready[name](x, y)))

    run(pairs, list(ready), measure, reasons, strict=bool(metrics))
    return [_score(name, values.get(name, []), protocols.get(name, ""), reasons.get(name, "")) for name in wanted]


def measures(metrics: Sequence[str], strict: bool = False) -> tuple[dict[str, Metric], dict[str, str]]:
    """The metrics ready to measure, and why those of LPIPS are not whose weights are missing.

    Raises NotAttempted where weights are missing and ``strict`` is set.
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


def run(
    pairs: Sequence[tuple[Path, Path]],
    names: Sequence[str],
    measure: Callable[[str, Tensor, Tensor], None],
    reasons: dict[str, str],
    *,
    strict: bool,
) -> None:
    """Give all pairs, uint8 (1, 3, h, w), to metrics by name; of one that raises ValueError the reason is kept.

    However many there are, a few pairs are in memory at once. Raises BadInput where a metric cannot take a pair and
    ``strict`` is set, or a pair cannot be read.
    """
    for pair, (x, y) in zip(pairs, images.ahead(pairs, read, readers=AHEAD, depth=AHEAD), strict=True):
        for name in [name for name in names if name not in reasons]:
            try:
                measure(name, x[None], y[None])
            except ValueError as error:
                if strict:
                    raise BadInput(f"{pair[0]}: {error}") from error
                reasons[name] = f"{pair[0].name}: {error}"


def _score(name: str, values: Sequence[float], protocol: str, reason: str) -> Score:
    finite = [value for value in values if value != float("inf")]
    if name == "psnr" and len(finite) < len(values):
        protocol += f"; {len(values) - len(finite)} of {len(values)} pairs are identical and left out"
        reason = "" if finite else "all pairs are identical: PSNR is infinite"
    score = partial(Score, name, NAMES[name], protocol=protocol, unit="dB" if name == "psnr" else "")
    if reason:
        return score(None, 0, reason=reason)
    if len(finite) < 2:
        return score(finite[0], 1)
    mean = cluster_interval(finite)
    return score(mean.value, mean.n, low=mean.low, high=mean.high)


def read(pair: tuple[Path, Path]) -> tuple[Tensor, Tensor]:
    """Both images of a pair, uint8 (3, h, w). Raises BadInput where their sizes differ."""
    x, y = (images.read(file) for file in pair)
    if x.shape != y.shape:
        sizes = " and ".join(f"{image.shape[2]} x {image.shape[1]} px" for image in (x, y))
        raise BadInput(f"{pair[0]} and {pair[1]} have {sizes}: expected pairs of one size")
    return x, y


def _by_stem(side: Path) -> dict[str, Path]:
    by_stem: dict[str, Path] = {}
    for file in images.files(side):
        if file.stem in by_stem:
            raise BadInput(f"{side} holds both {by_stem[file.stem].name} and {file.name}: expected one of a name")
        by_stem[file.stem] = file
    return by_stem
