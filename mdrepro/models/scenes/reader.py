"""A network that reads drawn scenes: it is trained on real renders alone, and never sees text or generated images.

It finds objects of a scene (centre, colour, shape, size) and its background, for `mdrepro.metrics.image.scenes`. Its
last features, averaged over the image, make FID[shapes]: a Fréchet distance that is comparable with itself alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from mdrepro.core.errors import BadInput
from mdrepro.data.shapes import BACKGROUNDS, COLOURS, SHAPES, SIZE, SIZES, Scene, Thing
from mdrepro.models.safe import SafeModelMixin

STRIDE = 4
ATTRIBUTES = {"colour": list(COLOURS), "shape": list(SHAPES), "size": list(SIZES)}
PARTS = {"there": 1, "offset": 2, **{name: len(values) for name, values in ATTRIBUTES.items()}}
THRESHOLD = 0.4  # least probability of an object's centre


@dataclass(frozen=True)
class Reading:
    """What was read in one image: a background, and objects with the centre of each, x and y in px."""

    background: str
    things: tuple[tuple[Thing, float, float], ...]


def check_images(pixels: Tensor) -> None:
    """Raises BadInput for anything but drawn scenes, uint8 (n, 3, 64, 64)."""
    if pixels.dtype != torch.uint8 or pixels.shape[1:] != (3, SIZE, SIZE):
        raise BadInput(f"images are {pixels.dtype} {tuple(pixels.shape)}: expected uint8 (n, 3, {SIZE}, {SIZE})")


def _layer(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class SceneReader(SafeModelMixin, ConfigMixin):
    """Objects and background of 64 px scenes, as maps over a grid of 4 px.

    ``depth`` residual layers of ``width`` channels at the grid, with dilations 1 and 2 in turn.
    """

    @register_to_config
    def __init__(self, width: int = 64, depth: int = 6) -> None:
        super().__init__()
        self.stem = nn.Sequential(_layer(3, width // 2, 2), _layer(width // 2, width, 2))
        self.blocks = nn.ModuleList(_layer(width, width, 1, 1 + i % 2) for i in range(depth))
        self.objects = nn.Conv2d(width, sum(PARTS.values()), 1)
        self.background = nn.Linear(width, len(BACKGROUNDS))
        nn.init.constant_(self.objects.bias[:1], -3.0)  # type: ignore[index]

    def maps(self, pixels: Tensor) -> Tensor:
        """Features at the grid, (n, width, 16, 16), of uint8 images (n, 3, 64, 64). Raises BadInput for others."""
        check_images(pixels)
        x_bchw = self.stem(pixels.to(self.background.weight.dtype) / 127.5 - 1)
        for block in self.blocks:
            x_bchw = x_bchw + block(x_bchw)
        return x_bchw

    def features(self, pixels: Tensor) -> Tensor:
        """Features averaged over the image, (n, width)."""
        return self.maps(pixels).mean(dim=(2, 3))

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Logits over the grid (n, c, 16, 16) by name of `PARTS`, and of the ``background`` (n, 4).

        ``offset`` is that of the centre from its cell's middle, in cells.
        """
        maps = self.maps(pixels)
        out = dict(zip(PARTS, self.objects(maps).split(list(PARTS.values()), dim=1), strict=True))
        return out | {"background": self.background(maps.mean(dim=(2, 3)))}

    @torch.inference_mode()
    def read(self, pixels: Tensor, batch: int = 256) -> list[Reading]:
        """What is in these images, uint8 (n, 3, 64, 64)."""
        assert not self.training, "an evaluation must not change the norms' statistics: call eval() first"
        return [reading for part in pixels.split(batch) for reading in self._readings(part)]

    def _readings(self, pixels: Tensor) -> list[Reading]:
        out = self(pixels)
        probability = out["there"].sigmoid()
        peak = (probability == F.max_pool2d(probability, 3, 1, 1)) & (probability > THRESHOLD)
        best = {name: out[name].argmax(dim=1) for name in ATTRIBUTES}
        things: list[list[tuple[Thing, float, float]]] = [[] for _ in pixels]
        for image, _, row, column in peak.nonzero().tolist():
            thing = Thing(*(values[int(best[name][image, row, column])] for name, values in ATTRIBUTES.items()))
            across, down = out["offset"][image, :, row, column].tolist()
            things[image].append((thing, (column + 0.5 + across) * STRIDE, (row + 0.5 + down) * STRIDE))
        backgrounds = [list(BACKGROUNDS)[i] for i in out["background"].argmax(dim=1).tolist()]
        return [Reading(name, tuple(seen)) for name, seen in zip(backgrounds, things, strict=True)]


def targets(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """Targets of `SceneReader` for scenes.

    Returns:
        ``heat`` (n, 1, 16, 16): 1 at objects' centres, falling off around; ``centre`` (objects, 3): image, row and
        column of each; ``offset`` (objects, 2), ``colour``, ``shape``, ``size`` (objects,); ``background`` (n,).
    """
    grid = SIZE // STRIDE
    heat = torch.zeros(len(scenes), 1, grid, grid)
    cells = torch.arange(grid) + 0.5
    centre, offset, names = [], [], []
    for image, scene in enumerate(scenes):
        for thing, (x, y, *_) in zip(scene.order, scene.poses.tolist(), strict=True):
            column, row = int(x / STRIDE), int(y / STRIDE)
            bump = torch.exp(-((cells - column - 0.5)[None] ** 2 + (cells - row - 0.5)[:, None] ** 2) / (2 * 0.8**2))
            heat[image, 0] = torch.maximum(heat[image, 0], bump)
            centre.append((image, row, column))
            offset.append((x / STRIDE - column - 0.5, y / STRIDE - row - 0.5))
            names.append([values.index(getattr(thing, name)) for name, values in ATTRIBUTES.items()])
    return {
        "heat": heat,
        "centre": torch.tensor(centre),
        "offset": torch.tensor(offset),
        **dict(zip(ATTRIBUTES, torch.tensor(names).unbind(dim=1), strict=True)),
        "background": torch.tensor([list(BACKGROUNDS).index(scene.graph.background) for scene in scenes]),
    }


def reading_loss(out: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Loss of `SceneReader`: penalty-reduced focal loss of centres (arXiv 1904.07850, eq. 1), L1 of offsets, and cross
    entropy of attributes at true centres and of backgrounds, from what `SceneReader.forward` and `targets` give.
    """
    probability = out["there"].sigmoid().clamp(1e-4, 1 - 1e-4)
    heat = wanted["heat"]
    is_centre = heat == 1
    at_centre = (1 - probability) ** 2 * probability.log()
    elsewhere = (1 - heat) ** 4 * probability**2 * (1 - probability).log()
    focal = torch.where(is_centre, at_centre, elsewhere).sum()
    image, row, column = wanted["centre"].unbind(dim=1)
    losses = {"there": -focal / is_centre.sum()}
    losses["offset"] = (out["offset"][image, :, row, column] - wanted["offset"]).abs().mean()
    for name in ATTRIBUTES:
        losses[name] = F.cross_entropy(out[name][image, :, row, column], wanted[name])
    losses["background"] = F.cross_entropy(out["background"], wanted["background"])
    return {"loss": sum(losses.values(), torch.zeros(()))} | losses
