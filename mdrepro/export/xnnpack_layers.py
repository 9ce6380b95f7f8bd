"""Layers written again for ExecuTorch, so that XNNPACK takes all of a network.

ExecuTorch leaves to its own slow kernels what its XNNPACK partitioner does not know, and splits the network there: a
mean over other dimensions than a picture's two, group norm, layer norm, the masks in torch's attention, splitting and
nearest-neighbour upsampling. The layers of `mdrepro.export.reauthor` mend norms and attention; those here mend what
they are made of.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdrepro.core.errors import BadInput
from mdrepro.export import reauthor
from mdrepro.export.components import Inputs
from mdrepro.export.reauthor import Reauthored

LARGE = 4096  # elements above which a mean over the last dimension is a product: others are pictures of one column


def transposed_product(a: Tensor, b: Tensor) -> Tensor:
    """a b^T of (batch, heads, rows, channels), by a product of three dimensions."""
    rows, columns = a.shape[-2], b.shape[-2]
    product = torch.bmm(a.reshape(-1, *a.shape[-2:]), b.reshape(-1, *b.shape[-2:]).transpose(1, 2))
    return product.view(*a.shape[:2], rows, columns)


def mean(input: Tensor, dim: int | tuple[int, ...] | None = None, keepdim: bool = False, **options: Any) -> Tensor:
    """`torch.Tensor.mean` over the last dimension with ``keepdim``; others are torch's own."""
    if dim != -1 or not keepdim or options:
        return input.mean(dim, keepdim, **options)
    *outer, count = input.shape
    if input.numel() > LARGE:
        return torch.mm(input.reshape(-1, count), torch.full((count, 1), 1 / count)).view(*outer, 1)
    return input.reshape(1, -1, count, 1).mean((2, 3), keepdim=True).view(*outer, 1)


def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """`torch.Tensor.chunk` of equal pieces, as slices."""
    if input.shape[dim] % chunks:
        return input.chunk(chunks, dim)
    size = input.shape[dim] // chunks
    return tuple(input.narrow(dim, number * size, size) for number in range(chunks))


def interpolate(
    input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", **options: Any
) -> Tensor:
    """`torch.nn.functional.interpolate`, of (batch, channels, h, w); twice the size by nearest neighbour as two joins.

    Raises BadInput for other resizing by nearest neighbour, which XNNPACK has not.
    """
    if mode != "nearest" or size is not None or scale_factor not in (2, 2.0, (2, 2), (2.0, 2.0)):
        if mode.startswith("nearest"):
            raise BadInput(f"resizing by {mode} to {size or scale_factor}: expected twice the size")
        return F.interpolate(input, size, scale_factor, mode, **options)
    batch, channels, height, width = input.shape
    column = input.reshape(1, batch * channels * height, width, 1)
    wide = torch.cat([column, column], 3).view(1, batch * channels, height, 2 * width)
    return torch.cat([wide, wide], 3).view(batch, channels, 2 * height, 2 * width)


INNER: Mapping[Callable[..., Any], Callable[..., Any]] = {
    F.group_norm: reauthor.group_norm,
    F.layer_norm: reauthor.layer_norm,
    F.scaled_dot_product_attention: functools.partial(reauthor.attention, product=transposed_product),
    F.interpolate: interpolate,
    Tensor.chunk: chunk,
    torch.chunk: chunk,
}
OUTER: Mapping[Callable[..., Any], Callable[..., Any]] = {Tensor.mean: mean}
"""Stand in inside those of ``INNER`` too."""


class Rewritten(nn.Module):
    """A component's module, computed by these layers."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, **inputs: Tensor) -> Inputs:
        with Reauthored(OUTER), Reauthored(INNER):
            outputs: Inputs = self.module(**inputs)
        return outputs
