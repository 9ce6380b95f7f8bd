"""Layers written again for LiteRT: the same numbers with fewer operations, and feature maps that keep their layout.

LiteRT's convolutions want channels last. What a converter makes of torch's own layers is right, but it transposes
feature maps into and out of every group norm, copies queries, keys and weights around the two products of attention,
and transposes a picture twice where it becomes a sequence. The functions here compute the same without that, on tensors
of four dimensions at most, in operations that mobile delegates have. `docs/export.md` has the counts before and after.

They take effect inside ``with Reauthored():``, whichever class calls them: this project's, diffusers' or transformers'.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

FAR = -30000.0  # added to what attention must not see: exp(FAR) is 0, and float16 still holds the sum


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """`torch.nn.functional.group_norm`, of (batch, channels, ...), from each channel's mean and variance.

    Nothing is repeated to a channel's shape but in a sum or a product: XNNPACK leaves BROADCAST_TO to others.
    """
    x_bchw = input if input.ndim == 4 else input.flatten(2).unsqueeze(-1)
    batch, channels = input.shape[:2]
    by_group = (batch, num_groups, channels // num_groups)
    means_bc11 = x_bchw.mean((2, 3), keepdim=True)
    away_bchw = x_bchw - means_bc11
    means_bgc = means_bc11.view(by_group)
    apart_bgc = means_bgc - means_bgc.mean(-1, keepdim=True)
    variance_bgc = away_bchw.square().mean((2, 3), keepdim=True).view(by_group) + apart_bgc.square()
    gain_bgc = torch.rsqrt(variance_bgc.mean(-1, keepdim=True) + eps)
    gain_bgc = gain_bgc.expand(by_group) if weight is None else gain_bgc * weight.view(1, *by_group[1:])
    offset_bgc = apart_bgc * gain_bgc
    if bias is not None:
        offset_bgc = offset_bgc + bias.view(1, *by_group[1:])
    gain_bc11, offset_bc11 = (one.reshape(batch, channels, 1, 1) for one in (gain_bgc, offset_bgc))
    out_bchw = away_bchw * gain_bc11 + offset_bc11
    return out_bchw if input.ndim == 4 else out_bchw.view(input.shape)


def half_group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """`group_norm` whose squares do not overflow in half precision, where 256 squared is infinite.

    Each group is divided by its mean magnitude before anything is squared, which the norm takes out again:
    with y = x / s, the norm of x with eps is that of y with eps / s^2. ``s`` has sqrt(eps) added, so that it is not 0.
    """
    batch, channels = input.shape[:2]
    by_group = (batch, num_groups, channels // num_groups)
    x_bchw = input if input.ndim == 4 else input.flatten(2).unsqueeze(-1)

    def of_groups(values_bc11: Tensor) -> Tensor:
        means_bgc = values_bc11.mean((2, 3), keepdim=True).view(by_group)
        return means_bgc.mean(-1, keepdim=True).expand(by_group).reshape(batch, channels, 1, 1)

    away_bchw = x_bchw - of_groups(x_bchw)
    magnitude_bc11 = of_groups(away_bchw.abs())
    scale_bc11 = magnitude_bc11 + math.sqrt(eps)
    small_bchw = away_bchw / scale_bc11
    root_bc11 = 1 - magnitude_bc11 / scale_bc11  # sqrt(eps) / s
    out_bchw = small_bchw * torch.rsqrt(of_groups(small_bchw.square()) + root_bc11 * root_bc11)
    if weight is not None:
        out_bchw = out_bchw * weight.view(1, -1, 1, 1)
    if bias is not None:
        out_bchw = out_bchw + bias.view(1, -1, 1, 1)
    return out_bchw if input.ndim == 4 else out_bchw.view(input.shape)


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.layer_norm` over the last dimension."""
    away = input - input.mean(-1, keepdim=True)
    out = away * torch.rsqrt(away.square().mean(-1, keepdim=True) + eps)
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


def transposed_product(a: Tensor, b: Tensor) -> Tensor:
    """a b^T of (batch, heads, rows, channels), of which LiteRT's converter makes one operation."""
    from litert_torch.generative.custom_ops.bmm_4d import bmm_4d  # type: ignore[import-untyped]

    product: Tensor = bmm_4d(a, b)
    return product


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    product: Callable[[Tensor, Tensor], Tensor] = transposed_product,
) -> Tensor:
    """`torch.nn.functional.scaled_dot_product_attention` of (batch, heads, positions, channels), without dropout.

    The queries are scaled, which are smaller than the weights. ``product``: a b^T of four dimensions.
    """
    weights_bhnm = product(query * (query.shape[-1] ** -0.5 if scale is None else scale), key)
    if is_causal:
        attn_mask = torch.ones(weights_bhnm.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros(attn_mask.shape).masked_fill(~attn_mask, FAR)
    if attn_mask is not None:
        weights_bhnm = weights_bhnm + attn_mask
    return product(weights_bhnm.softmax(-1), value.transpose(-1, -2))


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """`torch.Tensor.flatten`; of a picture, see `reshape`."""
    if input.ndim == 4 and start_dim == 2 and end_dim in (-1, 3):
        return reshape(input, *input.shape[:2], -1)
    return input.flatten(start_dim, end_dim)


def reshape(input: Tensor, *shape: Any) -> Tensor:
    """`torch.Tensor.reshape`; from a picture (batch, channels, h, w) to a sequence (batch, channels, h w) and back, by
    way of channels last, so that the transposition which follows or goes before cancels out."""
    if isinstance(shape[0], torch.dtype):
        return input.view(shape[0])
    wanted = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape
    if input.ndim in (3, 4):
        batch, channels, *sides = input.shape
        if input.ndim == 4 and wanted in [(batch, channels, n) for n in (-1, math.prod(sides))]:
            return input.permute(0, 2, 3, 1).reshape(batch, -1, channels).transpose(1, 2)
        if input.ndim == 3 and len(wanted) == 4 and (*wanted[:2], math.prod(wanted[2:])) == (batch, channels, *sides):
            return input.transpose(1, 2).reshape(batch, *wanted[2:], channels).permute(0, 3, 1, 2)
    return input.reshape(wanted)


LAYERS: Mapping[Callable[..., Tensor], Callable[..., Tensor]] = {
    F.group_norm: group_norm,
    F.layer_norm: layer_norm,
    F.scaled_dot_product_attention: attention,
    Tensor.flatten: flatten,
    Tensor.reshape: reshape,
    Tensor.view: reshape,
}
"""torch's functions, and those that stand in for them."""


class Reauthored(TorchFunctionMode):
    """Inside it, ``layers`` stand in for torch's functions.

    What a layer calls itself is left alone, but for an outer mode of this kind.
    """

    def __init__(self, layers: Mapping[Callable[..., Any], Callable[..., Any]] = LAYERS) -> None:
        super().__init__()
        self.layers = layers

    def __torch_function__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self.layers.get(func, func)(*args, **(kwargs or {}))
