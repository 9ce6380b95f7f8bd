"""How published metrics bring an image to a network's size. Most differences between FIDs are here.

Each takes a uint8 image (3, h, w) of any size and gives float32 (3, size, size), normalised for its network.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode as Mode  # type: ignore[import-untyped]
from torchvision.transforms import functional as vision

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
TENSORFLOW = ((128 / 255,) * 3, (128 / 255,) * 3)
HALF = ((0.5,) * 3, (0.5,) * 3)

BICUBIC = Image.Resampling.BICUBIC
FILTERS = {"bicubic": BICUBIC, "lanczos": Image.Resampling.LANCZOS}


def tensorflow(x_3hw: Tensor, size: int) -> Tensor:
    """TensorFlow 1's bilinear: output pixel i lies at i h / size, without half a pixel's shift or antialiasing."""
    x = x_3hw.float()
    for axis in (1, 2):
        length = x.shape[axis]
        at = torch.arange(size) * torch.tensor(length / size, dtype=torch.float32)
        low = at.long().clamp(max=length - 1)
        weight = (at - low).view(-1, 1) if axis == 1 else at - low
        above = x.index_select(axis, (low + 1).clamp(max=length - 1))
        x = torch.lerp(x.index_select(axis, low), above, weight)
    return x


def torch_bilinear(x_3hw: Tensor, size: int, *, antialias: bool = False) -> Tensor:
    """PyTorch's bilinear with half a pixel's shift."""
    return F.interpolate(x_3hw[None].float(), (size, size), mode="bilinear", antialias=antialias)[0]


def pillow_float(x_3hw: Tensor, size: int) -> Tensor:
    """Pillow's bicubic with antialiasing on each channel in float32, cut to 0 to 255 and never rounded."""
    channels = [np.array(Image.fromarray(plane).resize((size, size), BICUBIC)) for plane in x_3hw.float().numpy()]
    return torch.from_numpy(np.stack(channels)).clamp_(0, 255)


def pillow_squashed(x_3hw: Tensor, size: int) -> Tensor:
    """Pillow's bicubic with antialiasing on 8 bits, squashed to a square."""
    return vision.pil_to_tensor(vision.to_pil_image(x_3hw).resize((size, size), BICUBIC)).float()


def pillow_cropped(x_3hw: Tensor, size: int, shorter: int | None = None, mode: Mode = Mode.BICUBIC) -> Tensor:
    """Pillow with antialiasing on 8 bits: the shorter side to ``shorter`` px, then the middle ``size`` px."""
    picture = vision.resize(vision.to_pil_image(x_3hw), shorter or size, mode)
    return vision.pil_to_tensor(vision.center_crop(picture, size)).float()


@dataclass(frozen=True)
class Reduction:
    """What some protocols do to real and generated images before any network's own preparation, on 8 bits by Pillow.

    ``crop``: "" squashes; else the middle square first, an odd pixel left over as "torchvision" or "numpy" rounds it.
    """

    size: int  # height and width, px
    filter: str  # of `FILTERS`
    crop: str = ""

    @property
    def what(self) -> str:
        """For people."""
        shape = f"middle square (as {self.crop} rounds)" if self.crop else "squashed"
        return f"{self.size} x {self.size} px by Pillow's {self.filter} on 8 bits, {shape}"

    def __call__(self, x_3hw: Tensor) -> Tensor:
        """A uint8 image (3, h, w) as uint8 (3, size, size)."""
        if self.crop:
            side = min(x_3hw.shape[1:])
            rounded = round if self.crop == "torchvision" else int
            top, left = (rounded((length - side) / 2) for length in x_3hw.shape[1:])
            x_3hw = x_3hw[:, top : top + side, left : left + side]
        if x_3hw.shape[1:] == (self.size, self.size):
            return x_3hw
        picture = vision.to_pil_image(x_3hw).resize((self.size, self.size), FILTERS[self.filter])
        return vision.pil_to_tensor(picture)


@dataclass(frozen=True)
class Resize:
    """One convention: ``to`` is from a uint8 image and a size to float32 (3, size, size) in 0 to 255."""

    to: Callable[[Tensor, int], Tensor]
    norm: tuple[tuple[float, ...], tuple[float, ...]]  # mean and deviation of the channels, as of images in [0, 1]
    what: str  # for people, without the size

    def __call__(self, x_3hw: Tensor, size: int) -> Tensor:
        mean, std = (torch.tensor(values).view(3, 1, 1) * 255 for values in self.norm)
        return (self.to(x_3hw, size) - mean) / std


_ANTIALIASED = partial(torch_bilinear, antialias=True)
RESIZES = {
    "tf-exact": Resize(tensorflow, TENSORFLOW, "TensorFlow 1 bilinear, no antialiasing, (x - 128) / 128"),
    "clean": Resize(pillow_float, TENSORFLOW, "Pillow bicubic in float32, antialiased, (x - 128) / 128"),
    "legacy-pytorch": Resize(torch_bilinear, HALF, "PyTorch bilinear, no antialiasing, x / 127.5 - 1"),
    "torchmetrics": Resize(_ANTIALIASED, TENSORFLOW, "PyTorch bilinear, antialiased, (x - 128) / 128"),
    "torchvision": Resize(
        partial(pillow_cropped, shorter=342, mode=Mode.BILINEAR),
        HALF,  # ImageNet's norm, which torchvision's network itself turns into this one
        "Pillow bilinear on 8 bits to 342 px, centre crop, x / 127.5 - 1",
    ),
    "dinov2": Resize(pillow_squashed, IMAGENET, "Pillow bicubic on 8 bits, squashed, ImageNet's mean and deviation"),
    "clip-clean": Resize(pillow_cropped, OPENAI, "Pillow bicubic on 8 bits, centre crop, OpenAI's mean and deviation"),
    "clip-tf": Resize(tensorflow, OPENAI, "TensorFlow 1 bilinear, squashed, OpenAI's mean and deviation"),
}
"""By name of the convention."""
