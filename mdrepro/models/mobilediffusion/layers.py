"""Building blocks of the MobileDiffusion UNet (arXiv 2311.16567, sections on transformer and convolution blocks).

Tensors are named by shape: ``x_bchw`` (batch, channels, height, width), ``x_bnc`` (batch, positions, channels),
``q_bhnd`` (batch, heads, positions, channels of a head).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"swish": F.silu, "gelu": F.gelu}


def beside(x: Tensor, other: Tensor) -> Tensor:
    """``x`` on the device of ``other``: itself, but where accelerate has spread a network over several devices."""
    return x if x.device == other.device else x.to(other.device)


class SeparableConv2d(nn.Module):
    """3x3 depthwise convolution, then 1x1 pointwise (rule C1): 9·in + in·out weights in place of 9·in·out."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, stride, padding=1, groups=in_channels, bias=False)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x_bchw: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x_bchw))


def conv3x3(in_channels: int, out_channels: int, separable: bool, stride: int = 1) -> nn.Module:
    """A 3x3 convolution with padding 1: dense as in SD, or separable (rule C1)."""
    if separable:
        return SeparableConv2d(in_channels, out_channels, stride)
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1)


class ResnetBlock(nn.Module):
    """SD's residual block: twice (norm, swish, 3x3 convolution), the time embedding added between the two.

    Where the widths differ the residual goes through a 1x1 convolution. ``separable``: both 3x3 convolutions are (C1).
    """

    def __init__(self, in_channels: int, out_channels: int, time_width: int, separable: bool, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=1e-5)
        self.conv1 = conv3x3(in_channels, out_channels, separable)
        self.time = nn.Linear(time_width, out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=1e-5)
        self.conv2 = conv3x3(out_channels, out_channels, separable)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x_bchw: Tensor, time_bt: Tensor) -> Tensor:
        h_bchw = self.conv1(F.silu(self.norm1(x_bchw)))
        h_bchw = h_bchw + self.time(F.silu(time_bt))[:, :, None, None]
        return self.shortcut(x_bchw) + self.conv2(F.silu(self.norm2(h_bchw)))


class Resample(nn.Module):
    """Halves height and width by a 3x3 convolution of stride 2, or doubles them by nearest neighbour before one."""

    def __init__(self, channels: int, separable: bool, *, up: bool) -> None:
        super().__init__()
        self.up = up
        self.conv = conv3x3(channels, channels, separable, stride=1 if up else 2)

    def forward(self, x_bchw: Tensor) -> Tensor:
        return self.conv(F.interpolate(x_bchw, scale_factor=2.0, mode="nearest") if self.up else x_bchw)


def attend(q_bhnd: Tensor, k_bhmd: Tensor, v_bhmd: Tensor, kernel: str = "softmax", scaling: str = "length") -> Tensor:
    """Attention of n queries to m keys, by softmax or by ReLU (rule T5).

    softmax: softmax_m(q·k / sqrt d) · v. ReLU: r = relu(q·k / sqrt d), then by ``scaling``, which the paper does not
    give, ``length``: r·v / m (arXiv 2309.08586); ``sum``: r·v / sum_m r; ``none``: r·v.
    """
    if kernel == "softmax":
        return F.scaled_dot_product_attention(q_bhnd, k_bhmd, v_bhmd)
    weights_bhnm = F.relu(q_bhnd @ k_bhmd.transpose(-1, -2) * q_bhnd.shape[-1] ** -0.5)
    if scaling == "length":
        weights_bhnm = weights_bhnm / k_bhmd.shape[-2]
    elif scaling == "sum":
        weights_bhnm = weights_bhnm / weights_bhnm.sum(-1, keepdim=True).clamp_min(1e-6)
    return weights_bhnm @ v_bhmd


class Attention(nn.Module):
    """Multi-head attention of image positions to a context (their own features, or text).

    With ``shared_key_value`` one projection is key and value (T3). ``kernel`` and ``scaling``, of `attend`, may change.
    """

    def __init__(
        self, width: int, context_width: int, head_width: int, shared_key_value: bool, kernel: str, scaling: str
    ) -> None:
        super().__init__()
        self.head_width = head_width
        self.kernel = kernel
        self.scaling = scaling
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width, width, bias=False)
        self.to_v = None if shared_key_value else nn.Linear(context_width, width, bias=False)
        self.to_out = nn.Linear(width, width)

    def _heads(self, x_bnc: Tensor) -> Tensor:
        return x_bnc.unflatten(-1, (-1, self.head_width)).transpose(1, 2)

    def forward(self, x_bnc: Tensor, context_bmc: Tensor) -> Tensor:
        q_bhnd = self._heads(self.to_q(x_bnc))
        k_bhmd = self._heads(self.to_k(context_bmc))
        v_bhmd = k_bhmd if self.to_v is None else self._heads(self.to_v(context_bmc))
        return self.to_out(attend(q_bhnd, k_bhmd, v_bhmd, self.kernel, self.scaling).transpose(1, 2).flatten(2))


class GatedFeedForward(nn.Module):
    """Gated feed-forward layer: W_out(value · act(gate)), where (value, gate) = W_in x; act: see rule T4.

    ``ratio`` is inner width over ``width`` (T6); v1 of the paper counts value and gate together: its 8 and 6 are 4, 3.
    """

    def __init__(self, width: int, ratio: float, activation: str) -> None:
        super().__init__()
        inner = round(width * ratio)
        self.activation = ACTIVATIONS[activation]
        self.to_value_gate = nn.Linear(width, 2 * inner)
        self.to_out = nn.Linear(inner, width)

    def forward(self, x_bnc: Tensor) -> Tensor:
        value, gate = self.to_value_gate(x_bnc).chunk(2, dim=-1)
        return self.to_out(value * self.activation(gate))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward, each pre-normed and residual; either attention may be left out.

    ``shared_key_value`` is ``none``, ``self``, ``cross`` or ``both`` (rule T3).
    """

    def __init__(
        self,
        width: int,
        *,
        context_width: int,
        head_width: int,
        self_attention: bool,
        cross_attention: bool,
        shared_key_value: str,
        kernel: str,
        scaling: str,
        ffn_ratio: float,
        activation: str,
    ) -> None:
        super().__init__()

        def attention(source_width: int, kind: str) -> Attention:
            return Attention(width, source_width, head_width, shared_key_value in (kind, "both"), kernel, scaling)

        self.norm_self = nn.LayerNorm(width) if self_attention else None
        self.self_attention = attention(width, "self") if self_attention else None
        self.norm_cross = nn.LayerNorm(width) if cross_attention else None
        self.cross_attention = attention(context_width, "cross") if cross_attention else None
        self.norm_ffn = nn.LayerNorm(width)
        self.ffn = GatedFeedForward(width, ffn_ratio, activation)

    def forward(self, x_bnc: Tensor, context_bmc: Tensor) -> Tensor:
        if self.norm_self is not None and self.self_attention is not None:
            normed = self.norm_self(x_bnc)
            x_bnc = x_bnc + self.self_attention(normed, normed)
        if self.norm_cross is not None and self.cross_attention is not None:
            x_bnc = x_bnc + self.cross_attention(self.norm_cross(x_bnc), context_bmc)
        return x_bnc + self.ffn(self.norm_ffn(x_bnc))


class TransformerStack(nn.Module):
    """``depth`` transformer blocks one after the other at one resolution; with 0 an identity.

    ``projection``: group norm and two linear projections around the blocks, inside one more residual, as in SD; False
    runs the blocks on the feature map itself, as in UViT. ``block``: the other arguments of `TransformerBlock`.
    """

    _gradient_checkpointing_func: Callable[..., Tensor]  # set by diffusers' enable_gradient_checkpointing

    def __init__(self, width: int, depth: int, *, projection: bool, groups: int, **block: object) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        wrapped = projection and depth > 0
        self.norm = nn.GroupNorm(groups, width, eps=1e-6) if wrapped else None
        self.proj_in = nn.Linear(width, width) if wrapped else nn.Identity()
        self.blocks = nn.ModuleList(TransformerBlock(width, **block) for _ in range(depth))  # type: ignore[arg-type]
        self.proj_out = nn.Linear(width, width) if wrapped else nn.Identity()

    def forward(self, x_bchw: Tensor, context_bmc: Tensor) -> Tensor:
        if not self.blocks:
            return x_bchw
        normed_bchw = x_bchw if self.norm is None else self.norm(x_bchw)
        h_bnc = self.proj_in(normed_bchw.flatten(2).transpose(1, 2).contiguous())
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                h_bnc = self._gradient_checkpointing_func(block, h_bnc, context_bmc)
            else:
                h_bnc = block(h_bnc, context_bmc)
        out_bchw = self.proj_out(h_bnc).transpose(1, 2).reshape(x_bchw.shape)
        return out_bchw if self.norm is None else beside(x_bchw, out_bchw) + out_bchw
