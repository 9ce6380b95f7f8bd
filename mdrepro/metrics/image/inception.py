"""Inception v3 up to its pooled features, for inference: FID's network, and torchvision's.

FID's (Heusel et al. 2017) is the Inception that TensorFlow published in 2015. It differs from torchvision's in three
pools: means do not count the border's zeros, and the last block takes the maximum in place of the mean. A convolution
and the normalisation behind it are one convolution here, folded in float64, and pixels lie channels last: on a CPU
that is nearly twice as fast as the same weights in torch-fidelity, and agrees to float32's rounding.
"""

import itertools
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdrepro.core.errors import BadInput

WIDTH, SIZE = 2048, 299
EPSILON = 1e-3  # of the normalisations

Branch = Sequence[str | tuple[str, str]]
"""Names of convolutions one after the other; a pair stands side by side at the end; "/2" is a stride of 2."""

_DOUBLE = ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
_A: tuple[Branch, ...] = (("branch1x1",), ("branch5x5_1", "branch5x5_2"), _DOUBLE, ("mean", "branch_pool"))
_B: tuple[Branch, ...] = (("branch3x3/2",), (*_DOUBLE[:2], "branch3x3dbl_3/2"), ("max/2",))
_C: tuple[Branch, ...] = (
    ("branch1x1",),
    tuple(f"branch7x7_{i}" for i in (1, 2, 3)),
    tuple(f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5)),
    ("mean", "branch_pool"),
)
_D: tuple[Branch, ...] = (
    ("branch3x3_1", "branch3x3_2/2"),
    ("branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3", "branch7x7x3_4/2"),
    ("max/2",),
)


def _e(pool: str) -> tuple[Branch, ...]:
    one, two = (tuple(f"{name}{end}" for end in "ab") for name in ("branch3x3_2", "branch3x3dbl_3"))
    return (("branch1x1",), ("branch3x3_1", one), (*_DOUBLE[:2], two), (pool, "branch_pool"))  # type: ignore[return-value]


STEM = ("1a_3x3/2", "2a_3x3", "2b_3x3", "max/2", "3b_1x1", "4a_3x3", "max/2")
UNPADDED = ("Conv2d_2a_3x3", "Conv2d_4a_3x3")
BLOCKS = {"5b": _A, "5c": _A, "5d": _A, "6a": _B, "6b": _C, "6c": _C, "6d": _C, "6e": _C, "7a": _D, "7b": _e("mean")}


class Inception(nn.Module):
    """Features (n, 2048) of float images (n, 3, 299, 299), with FID's pools or torchvision's.

    The state dict has torchvision's names; what the features do not need is left out. Raises BadInput where weights are
    missing or of other shapes.
    """

    def __init__(self, weights: Mapping[str, Tensor], *, tensorflow: bool = True) -> None:
        super().__init__()
        self.tensorflow = tensorflow
        self.blocks = {**BLOCKS, "7c": _e("max" if tensorflow else "mean")}
        try:
            for name in _names(self.blocks):
                weight, bias = _folded(weights, name)
                self.register_buffer(_key(name, "weight"), weight.contiguous(memory_format=torch.channels_last))
                self.register_buffer(_key(name, "bias"), bias)
            buffers = {name: value.to("meta") for name, value in self.named_buffers()}
            x = torch.zeros(1, 3, SIZE, SIZE, device="meta")
            shape = tuple(torch.func.functional_call(self, buffers, x).shape)
        except (KeyError, RuntimeError, ValueError) as error:
            raise BadInput(f"these are not the weights of an Inception v3: {error}") from error
        if shape != (1, WIDTH):
            raise BadInput(f"these weights give {shape[1]} features: an Inception v3 gives {WIDTH}")

    def forward(self, x_bchw: Tensor) -> Tensor:
        x = x_bchw.contiguous(memory_format=torch.channels_last)
        for name in STEM:
            x = self._step(x, "" if name.startswith("max") else "Conv2d_", name)
        for block, branches in self.blocks.items():
            x = torch.cat([part for branch in branches for part in self._branch(x, f"Mixed_{block}.", branch)], dim=1)
        return x.mean(dim=(2, 3))

    def _branch(self, x: Tensor, block: str, branch: Branch) -> list[Tensor]:
        for step in branch:
            if isinstance(step, tuple):
                return [self._step(x, block, name) for name in step]
            x = self._step(x, block, step)
        return [x]

    def _step(self, x: Tensor, block: str, step: str) -> Tensor:
        name, _, stride = step.partition("/")
        if name == "max":
            return F.max_pool2d(x, 3, 2) if stride else F.max_pool2d(x, 3, 1, 1)
        if name == "mean":
            return F.avg_pool2d(x, 3, 1, 1, count_include_pad=not self.tensorflow)
        weight, bias = (self.get_buffer(_key(block + name, part)) for part in ("weight", "bias"))
        same = [0, 0] if stride or block + name in UNPADDED else [side // 2 for side in weight.shape[2:]]
        return F.conv2d(x, weight, bias, int(stride or 1), same).relu_()


def _key(name: str, part: str) -> str:
    return f"{name}.{part}".replace(".", "/")


def _names(blocks: Mapping[str, Sequence[Branch]]) -> list[str]:
    """All convolutions, by their names in a state dict."""
    steps = [("Conv2d_", step) for step in STEM]
    for block, branches in blocks.items():
        for step in itertools.chain(*branches):
            steps += [(f"Mixed_{block}.", name) for name in ((step,) if isinstance(step, str) else step)]
    names = [(prefix, step.partition("/")[0]) for prefix, step in steps]
    return [prefix + name for prefix, name in names if name not in ("max", "mean")]


def _folded(weights: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution with its normalisation: W g / s and b - m g / s, with s^2 = v + epsilon."""
    kernel = weights[f"{name}.conv.weight"].double()
    gain, shift, mean, variance = (
        weights[f"{name}.bn.{part}"].double() for part in ("weight", "bias", "running_mean", "running_var")
    )
    gain = gain / torch.sqrt(variance + EPSILON)
    return (kernel * gain.view(-1, 1, 1, 1)).float(), (shift - mean * gain).float()
