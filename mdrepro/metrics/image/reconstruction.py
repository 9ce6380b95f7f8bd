"""How near a reconstruction is to its original: PSNR, SSIM, MS-SSIM and LPIPS, one number an image.

Images are uint8 RGB, (n, 3, h, w), quantised once by rounding; the data range is 255.
SSIM is the published one (Wang et al. 2004): Gaussian window, sigma 1.5, 11 x 11, population covariance, and the
mean over RGB channels and over all windows that lie inside the image.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mdrepro.core.errors import NotAttempted
from mdrepro.core.files import sha256
from mdrepro.metrics.image import backbones, weights
from mdrepro.metrics.image.catalogue import BACKBONES

DATA_RANGE = 255.0
SIGMA, WINDOW = 1.5, 11
K1, K2 = 0.01, 0.03
LPIPS_LEAST = {"alex": 31, "vgg": 16}  # px, by the net: what its convolutions and poolings leave one feature of
MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, five scales


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """PSNR in dB, 10 log10(255^2 / MSE) over all pixels and channels, infinite for equal images. float64 (n,)."""
    x, y = _pair(x, y)
    return 10 * torch.log10(DATA_RANGE**2 / (x - y).square().mean(dim=(1, 2, 3)))


def ssim(
    x: Tensor,
    y: Tensor,
    *,
    uniform: int | None = None,
    sample: bool = False,
    mirror: bool = False,
    data_range: float | None = DATA_RANGE,
) -> Tensor:
    """Structural similarity in [-1, 1]. Returns float64 (n,). The defaults are the published metric.

    Args:
        uniform: a uniform window of this width, px, in place of the Gaussian one (scikit-image's default is 7).
        sample: covariances over n - 1 of a window's n pixels (scikit-image's default).
        mirror: take windows beyond the border too, on mirrored pixels (torchmetrics).
        data_range: None for the largest max - min of the two images (torchmetrics' default).

    Raises ValueError where an image is smaller than the window.
    """
    window = _gaussian() if uniform is None else torch.full((uniform,), 1 / uniform, dtype=torch.float64)
    return _ssim_and_contrast(*_pair(x, y), window, sample, mirror, data_range)[0].mean(dim=1)


def ms_ssim(x: Tensor, y: Tensor, *, mirror_last_scale: bool = False, data_range: float | None = DATA_RANGE) -> Tensor:
    """Multi-scale SSIM over five scales (Wang et al. 2003, eq. 7), each half the last by 2 x 2 means. float64 (n,).

    Channels are averaged at each scale before scales are combined; a negative mean counts as zero.

    Args:
        mirror_last_scale: take windows beyond the border of the coarsest scale too, on mirrored pixels. Published
            MS-SSIM does not; torchmetrics 1.9 does, and then the two agree.
        data_range: as for `ssim`, at each scale.

    Raises ValueError where an image is smaller than 176 px, so that the coarsest scale does not hold the window.
    """
    x, y = _pair(x, y)
    least = WINDOW * 2 ** (len(MS_WEIGHTS) - 1)
    if min(x.shape[2:]) < least:
        raise ValueError(f"MS-SSIM needs at least {least} px, got {x.shape[3]} x {x.shape[2]}")
    product = torch.ones(len(x), dtype=x.dtype)
    for scale, weight in enumerate(MS_WEIGHTS):
        last = scale == len(MS_WEIGHTS) - 1
        full, contrast = _ssim_and_contrast(x, y, _gaussian(), False, last and mirror_last_scale, data_range)
        product = product * (full if last else contrast).mean(dim=1).clamp(min=0) ** weight
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return product


class Lpips:
    """LPIPS 0.1 of the lpips package, with a backbone's weights from this machine (`backbones.find`).

    Nothing is downloaded and nothing is unpickled but arrays. The nets "alex" and "vgg" give different numbers. Raises
    NotAttempted where the backbone is not here, or its file cannot be read as its weights.
    """

    def __init__(self, net: str) -> None:
        import lpips

        self.net = net
        self.path, self.origin = backbones.find(net, weights.cache())
        self.sha256 = sha256(self.path)
        with undrawn():
            self._model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)  # its own loading would download
        load_backbone(self._model.net, net)
        self._model.eval().to(memory_format=torch.channels_last)

    @property
    def protocol(self) -> str:
        """What was used, for a row's protocol."""
        published = self.path.suffix == ".safetensors" or self.sha256.startswith(self.path.stem.rsplit("-", 1)[1])
        other = "" if published else ", which is NOT torchvision's published file"
        return f"LPIPS 0.1 ({self.net}), images in [-1, 1], backbone {self.origin} with SHA-256 {self.sha256}{other}"

    @torch.inference_mode()
    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances of uint8 (n, 3, h, w) pairs, 0 for equal images. Returns float64 (n,).

        Raises ValueError where an image is smaller than `LPIPS_LEAST`.
        """
        if min(x.shape[2:]) < (least := LPIPS_LEAST[self.net]):
            raise ValueError(f"LPIPS ({self.net}) needs at least {least} px, got {x.shape[3]} x {x.shape[2]}")
        x, y = (image.float() / 127.5 - 1 for image in _pair(x, y))
        return torch.cat([self._model(a[None], b[None]).flatten() for a, b in zip(x, y, strict=True)]).double()

    @torch.inference_mode()
    def of_several(self, x: Tensor, ys: Sequence[Tensor]) -> list[Tensor]:
        """As calling it with each of ``ys``, up to rounding; the features of ``x`` are computed once."""
        original, *images = (_pair(x, y)[1].float() / 127.5 - 1 for y in (x, *ys))
        each = [self._model(original[i : i + 1], torch.stack([y[i] for y in images])) for i in range(len(original))]
        return list(torch.stack([one.flatten() for one in each], dim=1).double())


class undrawn(TorchFunctionMode):
    """Within, networks are built with weights of no value, for one whose weights are all loaded.

    LPIPS drops the classifier of VGG-16, whose 124M weights take a second to draw.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in ("normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def load_backbone(network: nn.Module, net: str) -> None:
    """Give the convolutions of LPIPS, as the packages lpips and torchmetrics cut them into slices, their weights.

    Raises NotAttempted as `Lpips`.
    """
    file = backbones.find(net, weights.cache()).path
    try:
        state = weights.state_dict(file)
        network.load_state_dict({key: state[f"features.{key.split('.', 1)[1]}"] for key in network.state_dict()})
    except Exception as error:  # whatever a damaged file makes torch raise
        reason = f"LPIPS ({net}): {file} does not hold the weights of {BACKBONES[net].model}"
        raise NotAttempted(
            f"{reason} ({type(error).__name__}); delete it and get it with: {backbones.remedy(net)}"
        ) from error


def _pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    for image in (x, y):
        if image.dtype != torch.uint8 or image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(f"uint8 images (n, 3, h, w) are needed, got {image.dtype} {tuple(image.shape)}")
    if x.shape != y.shape:
        raise ValueError(f"originals {tuple(x.shape)} and reconstructions {tuple(y.shape)} differ in shape")
    return x.double(), y.double()


def _ssim_and_contrast(
    x: Tensor, y: Tensor, window: Tensor, sample: bool, mirror: bool, data_range: float | None
) -> tuple[Tensor, Tensor]:
    """SSIM and its contrast-structure factor, each float64 (n, 3); see `ssim`."""
    if min(x.shape[2:]) < len(window):
        raise ValueError(f"SSIM needs at least {len(window)} px, got {tuple(x.shape[2:])}")
    span = torch.maximum(*(image.amax((1, 2, 3), True) - image.amin((1, 2, 3), True) for image in (x, y)))
    if data_range is not None:
        span = torch.full_like(span, data_range)
    c1, c2 = (K1 * span) ** 2, (K2 * span) ** 2
    if mirror:
        x, y = (F.pad(image, (len(window) // 2,) * 4, mode="reflect") for image in (x, y))
    mean_x, mean_y, xx, yy, xy = (_blur(t, window) for t in (x, y, x * x, y * y, x * y))
    more = len(window) ** 2 / (len(window) ** 2 - 1) if sample else 1.0
    contrast = (2 * more * (xy - mean_x * mean_y) + c2) / (more * (xx - mean_x**2 + yy - mean_y**2) + c2)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return (luminance * contrast).mean(dim=(2, 3)), contrast.mean(dim=(2, 3))


def _gaussian() -> Tensor:
    """Weights of the published window along one side, float64 (11,)."""
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    return torch.softmax(-(offsets**2) / (2 * SIGMA**2), dim=0)


def _blur(x: Tensor, kernel: Tensor) -> Tensor:
    """Weighted mean over each window of k px that lies inside: (n, 3, h, w) to (n, 3, h - k + 1, w - k + 1)."""
    for side in (2, 3):
        length = x.shape[side] - len(kernel) + 1
        mean = kernel[0] * x.narrow(side, 0, length)
        for offset, weight in enumerate(kernel[1:].tolist(), start=1):
            mean.add_(x.narrow(side, offset, length), alpha=weight)  # five times as fast as float64 convolutions
        x = mean
    return x
