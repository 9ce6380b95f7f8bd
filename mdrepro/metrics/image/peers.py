"""The same images and weights in another package, and the convention that explains why its number differs from ours.

A package runs as its documentation calls it, with its defaults. Where its number is not ours, ours is computed under
each convention in which the two are known to differ: the one that gives its number is the explanation.
Packages are imported when they are run.
"""

import math
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from mdrepro.core.errors import BadInput, NotAttempted, unknown
from mdrepro.metrics.image import features, images, pairs, sets, weights
from mdrepro.metrics.image.catalogue import ENCODERS
from mdrepro.metrics.image.encoders import Encoder
from mdrepro.metrics.image.resizing import RESIZES

if TYPE_CHECKING:
    from torch.utils.data import Dataset

TOLERANCE = 1e-4
"""Relative difference of two FIDs that counts as none: float32 features, and a matrix root by another method."""
TOLERANCES = {"psnr": 1e-5, "ssim": 1e-5, "ms-ssim": 1e-5, "lpips-alex": 1e-4, "lpips-vgg": 1e-4}
"""The same of reconstruction metrics."""


@dataclass(frozen=True)
class Comparison:
    """One metric here and in another package, on the same images.

    Args:
        metric: its name on the command line.
        package: the other package and its version.
        ours, theirs: the two numbers; ``theirs`` is None where it is infinite.
        agrees: whether they are the same up to rounding.
        conventions: what explains the difference; none where there is no difference, or no explanation.
        under: our number under these conventions.
    """

    metric: str
    package: str
    ours: float
    theirs: float | None
    agrees: bool
    conventions: tuple[str, ...] = ()
    under: float | None = None

    @property
    def difference(self) -> float | None:
        """Theirs less ours; None where theirs is infinite."""
        return None if self.theirs is None else self.theirs - self.ours

    @property
    def verdict(self) -> str:
        """A sentence for people."""
        if self.agrees:
            return "the two agree"
        if not self.conventions:
            return "not explained by any known convention"
        again = "" if self.under is None else f"; ours under it: {self.under:.7g}"
        return f"explained by {', and '.join(self.conventions)}{again}"

    def record(self) -> dict[str, Any]:
        """As JSON."""
        names = ("metric", "package", "ours", "theirs", "difference", "agrees", "conventions", "under", "verdict")
        return {name: getattr(self, name) for name in names}


def compare(
    metric: str,
    package: str,
    numbers: Mapping[tuple[str, ...], float],
    theirs: float,
    tolerance: float,
    exact: float | None = None,
) -> Comparison:
    """Theirs beside ours, and the first conventions under which the two agree.

    Args:
        metric, package: names; the version is added.
        numbers: ours by conventions, () for our own, in the order in which they are tried.
        theirs: the package's.
        tolerance: relative.
        exact: theirs in float64, where the package usually computes in float32: rounding is then told apart.
    """
    exact = theirs if exact is None else exact

    def same(one: float, other: float) -> bool:
        return one == other or math.isclose(one, other, rel_tol=tolerance, abs_tol=1e-9)

    agrees = same(numbers[()], theirs)
    found = None if agrees else next((names for names, value in numbers.items() if same(value, exact)), None)
    under = None if found is None else numbers[found]
    rounding = (
        () if found is None or same(theirs, exact) else (f"rounding in float32 (in float64 it gives {exact:.7g})",)
    )
    return Comparison(
        metric,
        f"{package} {version(package)}",
        numbers[()],
        theirs if math.isfinite(theirs) else None,
        agrees,
        (*(found or ()), *rounding),
        under if under is None or math.isfinite(under) else None,
    )


# Fréchet inception distance


def frechet(real: Path, generated: Path, package: str, encoder: Encoder, options: sets.Options) -> Comparison:
    """FID of two folders here and in another package, with one file of weights.

    Args:
        real, generated: folders of images.
        package: a key of `IMAGE_PEERS`.
        encoder: ours: FID's Inception under one convention of resizing.
        options: as for `mdrepro.metrics.image.sets.evaluate`.

    Raises:
        BadInput: an unknown package, no folders, another network than FID's, weights in a format that the package
            does not read, or too few images.
    """
    if package not in IMAGE_PEERS:
        raise unknown("package", package, IMAGE_PEERS)
    if encoder.row.family != "inception":
        names = ", ".join(row.name for row in ENCODERS.values() if row.family == "inception")
        raise BadInput(f"--against compares FID: --encoder must be one of {names}, not {encoder.row.name}")
    files = [images.files(folder) for folder in (real, generated)]
    sets.check_numbers(["fid"], encoder, len(files[0]), len(files[1]), options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package's, of its own code and of small sets
        theirs = IMAGE_PEERS[package](real, generated, encoder, options.batch)
    rows = [encoder.row, *(row for row in ENCODERS.values() if row.family == "inception" and row != encoder.row)]
    encoders = {row.name: Encoder(row, encoder.network, encoder.device) for row in rows}
    sides = [features.extract(side, encoders, batch=options.batch, readers=options.readers) for side in files]
    numbers: dict[tuple[str, ...], float] = {}
    for name, one in encoders.items():
        score = sets.MEASURES["fid"](one, sides[0][name], sides[1][name], options)
        assert score.value is not None
        what = f"the resize of encoder {name} ({RESIZES[one.row.resize].what})"
        numbers[() if one.row == encoder.row else (what,)] = score.value
    return compare("fid", package, numbers, theirs, TOLERANCE)


def _torch_fidelity(real: Path, generated: Path, encoder: Encoder, batch: int) -> float:
    import torch_fidelity

    with _state_dict(encoder) as path:
        found = torch_fidelity.calculate_metrics(
            input1=_dataset(real),
            input2=_dataset(generated),
            fid=True,
            feature_extractor_weights_path=str(path),
            cuda=encoder.device.type == "cuda",
            batch_size=1 if _mixed(real) or _mixed(generated) else batch,
            cache=False,
            verbose=False,
        )
    return float(found["frechet_inception_distance"])


def _torchmetrics(real: Path, generated: Path, encoder: Encoder, batch: int) -> float:
    from torch.utils.data import DataLoader
    from torchmetrics.image.fid import FrechetInceptionDistance

    with _state_dict(encoder) as path, torch.inference_mode():
        metric = FrechetInceptionDistance(feature_extractor_weights_path=str(path)).to(encoder.device)
        for folder, is_real in ((real, True), (generated, False)):
            for x_bchw in DataLoader(_dataset(folder), 1 if _mixed(folder) else batch):
                metric.update(x_bchw.to(encoder.device), real=is_real)
        return float(metric.compute())


def _clean_fid(real: Path, generated: Path, encoder: Encoder, batch: int) -> float:
    from cleanfid import fid, inception_pytorch
    from cleanfid.inception_torchscript import InceptionV3W

    network: Callable[[Tensor], Tensor]
    path = encoder.network.found.path
    with tempfile.TemporaryDirectory() as folder:
        if weights.is_script(path):
            (Path(folder) / "inception-2015-12-05.pt").symlink_to(path.resolve())
            network = InceptionV3W(folder, download=False).to(encoder.device)
        else:
            load = inception_pytorch.load_state_dict_from_url
            inception_pytorch.load_state_dict_from_url = lambda *_, **__: weights.state_dict(path)
            try:
                model = inception_pytorch.InceptionV3([3], resize_input=False, normalize_input=False)
            finally:
                inception_pytorch.load_state_dict_from_url = load
            model.eval().to(encoder.device)

            def network(x_bchw: Tensor) -> Tensor:
                return model((x_bchw - 128) / 128)[0].flatten(1)  # as its TorchScript network does within

        options = {"batch_size": batch, "device": encoder.device, "num_workers": 0, "verbose": False}
        return float(fid.compute_fid(str(real), str(generated), mode="clean", custom_feat_extractor=network, **options))


IMAGE_PEERS: Mapping[str, Callable[[Path, Path, Encoder, int], float]] = {
    "clean-fid": _clean_fid,
    "torch-fidelity": _torch_fidelity,
    "torchmetrics": _torchmetrics,
}
"""FID of two folders by other packages."""


def _dataset(folder: Path) -> "Dataset[Tensor]":
    from torch_fidelity.datasets import ImagesPathDataset

    return ImagesPathDataset(images.files(folder))


def _mixed(folder: Path) -> bool:
    """Whether images differ in size, so that they make no batch."""
    from PIL import Image

    sizes = set()
    for file in images.files(folder):
        with Image.open(file) as picture:
            sizes.add(picture.size)
    return len(sizes) > 1


@contextmanager
def _state_dict(encoder: Encoder) -> Iterator[Path]:
    """The encoder's weights as a file that ``torch.load`` reads. Raises BadInput for a TorchScript program."""
    path = encoder.network.found.path
    if weights.is_script(path):
        raise BadInput(f"{path} is a TorchScript program, which clean-fid alone reads: --weights must be a state dict")
    if path.suffix != ".safetensors":
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.save(weights.state_dict(path), Path(folder) / "weights.pth")
        yield Path(folder) / "weights.pth"


# Reconstruction


class Peer(Protocol):
    """A metric of another package, fed pair by pair with uint8 images (1, 3, h, w)."""

    def update(self, x: Tensor, y: Tensor) -> None:
        """Take in the original ``x`` and its reconstruction ``y``."""

    def compute(self) -> tuple[float, float]:
        """The number of all pairs, and the same in float64 where the package lets one choose."""


class _PerPair:
    """Mean of a function of two images."""

    def __init__(self, measure: Callable[[Tensor, Tensor], float]) -> None:
        self.measure = measure
        self.values: list[float] = []

    def update(self, x: Tensor, y: Tensor) -> None:
        self.values.append(float(self.measure(x, y)))

    def compute(self) -> tuple[float, float]:
        mean = sum(self.values) / len(self.values)
        return mean, mean


class _OfTorchmetrics:
    """A metric of torchmetrics on images in [0, 1], in float32 and in float64; LPIPS in [-1, 1] and float32 alone."""

    def __init__(self, make: Callable[[], Any], signed: bool = False) -> None:
        self.signed = signed
        self.metrics = {torch.float32: make()} if signed else {torch.float32: make(), torch.float64: make()}

    @torch.no_grad()
    def update(self, x: Tensor, y: Tensor) -> None:
        for dtype, metric in self.metrics.items():
            pixels = (image.to(dtype) / 127.5 - 1 if self.signed else image.to(dtype) / 255 for image in (y, x))
            metric.set_dtype(dtype).update(*pixels)

    def compute(self) -> tuple[float, float]:
        values = [float(metric.compute()) for metric in self.metrics.values()]
        return values[0], values[-1]


def _scikit_image(metric: str) -> Peer:
    from skimage import metrics

    def pixels(image: Tensor) -> Any:
        return image[0].permute(1, 2, 0).numpy()

    if metric == "psnr":
        return _PerPair(lambda x, y: metrics.peak_signal_noise_ratio(pixels(x), pixels(y)))
    return _PerPair(lambda x, y: metrics.structural_similarity(pixels(x), pixels(y), channel_axis=-1))


def _torchmetrics_of(metric: str) -> Peer:
    from torchmetrics import image
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    if metric.startswith("lpips"):
        return _OfTorchmetrics(
            lambda: LearnedPerceptualImagePatchSimilarity(metric.removeprefix("lpips-")), signed=True
        )
    if metric == "psnr":
        return _OfTorchmetrics(lambda: image.PeakSignalNoiseRatio(data_range=1.0))
    if metric == "ssim":
        return _OfTorchmetrics(image.StructuralSimilarityIndexMeasure)
    return _OfTorchmetrics(image.MultiScaleStructuralSimilarityIndexMeasure)


def _lpips(metric: str) -> Peer:
    import lpips

    model = lpips.LPIPS(net=metric.removeprefix("lpips-"), verbose=False)

    @torch.inference_mode()
    def measure(x: Tensor, y: Tensor) -> float:
        return float(model(*(image.float() / 127.5 - 1 for image in (x, y))))

    return _PerPair(measure)


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


@dataclass(frozen=True)
class Peers:
    """One package: its metrics by name, and the conventions in which each may differ from ours."""

    make: Callable[[str], Peer]
    conventions: Mapping[str, Sequence[str]]


RECONSTRUCTION_PEERS: Mapping[str, Peers] = {
    "scikit-image": Peers(_scikit_image, {"psnr": (_INFINITE,), "ssim": (_UNIFORM, _SAMPLE)}),
    "torchmetrics": Peers(
        _torchmetrics_of,
        {
            "psnr": (_POOLED,),
            "ssim": (_MIRRORED, _RANGE),
            "ms-ssim": (_MIRRORED_LAST, _RANGE),
            "lpips-alex": (),
            "lpips-vgg": (),
        },
    ),
    "lpips": Peers(_lpips, {"lpips-alex": (), "lpips-vgg": ()}),
}


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

    def numbers(self) -> dict[tuple[str, ...], float]:
        return {names: self._number(names, values) for names, values in self.values.items()}

    def _number(self, names: tuple[str, ...], values: Sequence[float]) -> float:
        if _POOLED in names:
            errors = [size * 10 ** (-value / 10) for size, value in zip(self.sizes, values, strict=True)]
            return -10 * math.log10(sum(errors) / sum(self.sizes)) if any(errors) else math.inf
        kept = values if _INFINITE in names else [value for value in values if math.isfinite(value)]
        if not kept:
            raise BadInput(f"{self.metric}: all pairs are identical")
        return sum(kept) / len(kept)


def reconstructions(
    reference: Path, folder: Path, package: str, metrics: Sequence[str] | None = None
) -> tuple[list[Comparison], dict[str, str]]:
    """Reconstruction metrics of two folders here and in another package, pair by pair.

    Args:
        reference, folder: as for `mdrepro.metrics.image.pairs.evaluate`.
        package: a key of `RECONSTRUCTION_PEERS`.
        metrics: of those that the package has; None for all that can be measured here.

    Returns:
        A comparison of each metric, and by name why the others were not measured.

    Raises:
        BadInput: an unknown package, a metric that it does not have, images too small, or no pairs.
        NotAttempted: LPIPS alone, or by name, was asked for and its weights are not here.
    """
    if package not in RECONSTRUCTION_PEERS:
        raise unknown("package", package, RECONSTRUCTION_PEERS)
    peers = RECONSTRUCTION_PEERS[package]
    for name in metrics or ():
        if name not in peers.conventions:
            raise BadInput(f"{package} has no {name} to compare: expected {', '.join(peers.conventions)}")
    files = pairs.paired(reference, folder)
    measures, reasons = pairs.measures(metrics or list(peers.conventions), strict=bool(metrics))
    if not measures:
        raise NotAttempted("; ".join(reasons.values()))
    ours = [_Ours(name, measure, peers.conventions[name]) for name, measure in measures.items()]
    theirs = {one.metric: peers.make(one.metric) for one in ours}
    for pair, (x, y) in zip(files, images.ahead(files, pairs.read), strict=True):
        for one in list(ours):
            try:
                one.update(x[None], y[None])
            except ValueError as error:
                if metrics:
                    raise BadInput(f"{pair[0]}: {error}") from error
                reasons[one.metric] = f"{pair[0].name}: {error}"
                ours.remove(one)
                continue
            theirs[one.metric].update(x[None], y[None])
    compared = []
    for one in ours:
        value, exact = theirs[one.metric].compute()
        compared.append(compare(one.metric, package, one.numbers(), value, TOLERANCES[one.metric], exact))
    return compared, reasons
