"""Reconstruction metrics of two folders by scikit-image, torchmetrics and lpips, beside ours."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdrepro.core.errors import BadInput, NotAttempted, check
from mdrepro.metrics.image import pairs, reconstruction
from mdrepro.metrics.image.peers.comparison import Comparison, compare

TOLERANCES = {"psnr": 1e-5, "ssim": 1e-5, "ms-ssim": 1e-5, "lpips-alex": 1e-4, "lpips-vgg": 1e-4}
"""Relative differences that count as none."""


class _PerPair:
    """Mean of a function of two uint8 images (1, 3, h, w): the original and its reconstruction."""

    def __init__(self, measure: Callable[[Tensor, Tensor], float]) -> None:
        self.measure = measure
        self.values: list[float] = []

    def update(self, x: Tensor, y: Tensor) -> None:
        self.values.append(float(self.measure(x, y)))

    def compute(self) -> tuple[float, float]:
        """The number of all pairs, and the same in float64: these packages let one choose no data type."""
        mean = sum(self.values) / len(self.values)
        return mean, mean


class _OfTorchmetrics:
    """A metric of torchmetrics on images in [0, 1], in float32 and in float64."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.metrics = {torch.float32: make(), torch.float64: make()}

    @torch.no_grad()
    def update(self, x: Tensor, y: Tensor) -> None:
        for dtype, metric in self.metrics.items():
            metric.set_dtype(dtype).update(*(image.to(dtype) / 255 for image in (y, x)))

    def compute(self) -> tuple[float, float]:
        values = [float(metric.compute()) for metric in self.metrics.values()]
        return values[0], values[-1]


def _scikit_image(metric: str) -> _PerPair:
    from skimage import metrics

    ssim = partial(metrics.structural_similarity, channel_axis=-1)
    function = metrics.peak_signal_noise_ratio if metric == "psnr" else ssim
    return _PerPair(lambda x, y: function(*(image[0].permute(1, 2, 0).numpy() for image in (x, y))))


def _torchmetrics(metric: str) -> _PerPair | _OfTorchmetrics:
    from torchmetrics import image
    from torchmetrics.functional.image.lpips import _NoTrainLpips

    if metric.startswith("lpips"):
        return _lpips(_NoTrainLpips, metric)
    makers = {
        "psnr": partial(image.PeakSignalNoiseRatio, data_range=1.0),
        "ssim": image.StructuralSimilarityIndexMeasure,
        "ms-ssim": image.MultiScaleStructuralSimilarityIndexMeasure,
    }
    return _OfTorchmetrics(makers[metric])


def _lpips(make: Callable[..., Any], metric: str) -> _PerPair:
    """A package's network with the weights that ours has: its own loading knows torch.hub's cache alone."""
    net = metric.removeprefix("lpips-")
    with reconstruction.undrawn():
        model = make(net=net, pnet_rand=True)
    reconstruction.load_backbone(model.net, net)
    model.eval()

    @torch.inference_mode()
    def measure(x: Tensor, y: Tensor) -> float:
        return float(model(x.float() / 127.5 - 1, y.float() / 127.5 - 1))

    return _PerPair(measure)


def _lpips_package(metric: str) -> _PerPair:
    import lpips

    return _lpips(partial(lpips.LPIPS, verbose=False), metric)


_UNIFORM = "a uniform window of 7 px (ours: Gaussian, 11 px, sigma 1.5)"
_SAMPLE = "covariances over n - 1 of a window's n pixels (ours: over n)"
_MIRRORED = "windows beyond the border on mirrored pixels (ours: all inside)"
_MIRRORED_LAST = "windows beyond the border of the coarsest scale on mirrored pixels (ours: all inside)"
_RANGE = "the data range found in each pair, max - min (ours: 255)"
_POOLED = "the PSNR of the mean squared error over all pairs (ours: the mean of each pair's PSNR)"
_INFINITE = "identical pairs counted as infinite (ours: left out)"
_CHANGES: Mapping[str, Mapping[str, Any]] = {
    _UNIFORM: {"uniform": 7},
    _SAMPLE: {"sample": True},
    _MIRRORED: {"mirror": True},
    _MIRRORED_LAST: {"mirror_last_scale": True},
    _RANGE: {"data_range": None},
}
"""Arguments of our metric under each convention."""
_TORCHMETRICS = {
    "psnr": (_POOLED,),
    "ssim": (_MIRRORED, _RANGE),
    "ms-ssim": (_MIRRORED_LAST, _RANGE),
    "lpips-alex": (),
    "lpips-vgg": (),
}
PACKAGES: Mapping[str, tuple[Callable[[str], _PerPair | _OfTorchmetrics], Mapping[str, Sequence[str]]]] = {
    "scikit-image": (_scikit_image, {"psnr": (_INFINITE,), "ssim": (_UNIFORM, _SAMPLE)}),
    "torchmetrics": (_torchmetrics, _TORCHMETRICS),
    "lpips": (_lpips_package, {"lpips-alex": (), "lpips-vgg": ()}),
}
"""What makes a package's metric, and by metric the conventions in which it may differ from ours."""


@dataclass
class _Ours:
    """Our metric under every combination of conventions."""

    metric: str
    measure: Callable[..., Tensor]
    conventions: Sequence[str]
    values: dict[tuple[str, ...], list[float]] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)

    def update(self, x: Tensor, y: Tensor) -> None:
        self.sizes.append(x.numel())
        for count in range(len(self.conventions) + 1):
            for names in combinations(self.conventions, count):
                options = {key: value for name in names for key, value in _CHANGES.get(name, {}).items()}
                self.values.setdefault(names, []).append(float(self.measure(x, y, **options)))

    def number(self, names: tuple[str, ...]) -> float:
        values = self.values[names]
        if _POOLED in names:
            errors = [size * 10 ** (-value / 10) for size, value in zip(self.sizes, values, strict=True)]
            return -10 * math.log10(sum(errors) / sum(self.sizes)) if any(errors) else math.inf
        kept = values if _INFINITE in names else [value for value in values if math.isfinite(value)]
        if not kept:
            raise BadInput(f"{self.metric}: all pairs are identical")
        return sum(kept) / len(kept)


def against(
    reference: Path, folder: Path, package: str, metrics: Sequence[str] | None = None
) -> tuple[list[Comparison], dict[str, str]]:
    """Reconstruction metrics of two folders here and in a package of `PACKAGES`, pair by pair.

    ``metrics``: of those that the package has; None for all that can be measured here. Returns a comparison of each
    metric, and by name why the others were not measured. Raises BadInput for an unknown package, a metric that it does
    not have, images too small, or no pairs, and NotAttempted where LPIPS alone, or by name, was asked for and its
    weights are not here.
    """
    make, conventions = PACKAGES[check("package", package, PACKAGES)]
    for name in metrics or ():
        if name not in conventions:
            raise BadInput(f"{package} has no {name} to compare: expected {', '.join(conventions)}")
    files = pairs.paired(reference, folder)
    measures, reasons = pairs.measures(metrics or list(conventions), strict=bool(metrics))
    if not measures:
        raise NotAttempted("; ".join(reasons.values()))
    ours = {name: _Ours(name, measure, conventions[name]) for name, measure in measures.items()}
    theirs = {name: make(name) for name in ours}

    def update(name: str, x: Tensor, y: Tensor) -> None:
        ours[name].update(x, y)
        theirs[name].update(x, y)

    pairs.run(files, list(ours), update, reasons, strict=bool(metrics))
    compared = []
    for name in [name for name in ours if name not in reasons]:
        numbers = {names: ours[name].number(names) for names in ours[name].values}
        value, exact = theirs[name].compute()
        compared.append(compare(name, package, numbers, value, TOLERANCES[name], exact))
    return compared, reasons
