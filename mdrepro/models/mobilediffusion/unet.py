"""The MobileDiffusion UNet (arXiv 2311.16567), every design rule a field that can be turned back to what SD does.

The authors released no code. The paper fixes 386M parameters, 182 GMAC at a 64x64 latent, 11 ResNets, 1024 channels at
the bottleneck, rules T1 to T6, C1 and C2; the rest of the layout is ours. With 320/640/1024 channels, one ResNet a
level on the way down (two in the middle, two a level on the way up: 3 + 2 + 6 = 11), 15 full blocks in the middle and
one cross-attention block after every ResNet at 32x32 and 16x16, keys and values shared in self-attention, and no
projections around the stacks, this network has 385.1M parameters and 182.2 GMAC. It has 15 self-attention and 21
cross-attention layers; "15 + 18" is remembered, but read in no source.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn
from torch.nn import functional as F

from mdrepro.core.errors import BadInput
from mdrepro.diffusion.guidance import WIDTH, guidance_width
from mdrepro.models.denoiser import BaseDenoiser
from mdrepro.models.mobilediffusion.layers import (
    ACTIVATIONS,
    Attention,
    Resample,
    ResnetBlock,
    TransformerStack,
    beside,
)
from mdrepro.models.protocols import Denoiser

CHOICES: Mapping[str, Iterable[str]] = {
    "shared_key_value": ("none", "self", "cross", "both"),
    "ffn_activation": ACTIVATIONS,
    "attention": ("softmax", "relu"),
    "relu_scaling": ("length", "sum", "none"),
}

# What SD does, rule by rule: MobileDiffusionUNet(**SD_VALUES["T3"]) turns rule T3 back and keeps the others.
SD_VALUES: Mapping[str, dict[str, Any]] = {
    "T1": {"block_out_channels": (320, 640, 1280), "transformer_blocks": (1, 1, 1), "mid_transformer_blocks": 1},
    "T2": {"self_attention": (True, True, True)},
    "T3": {"shared_key_value": "none"},
    "T4": {"ffn_activation": "gelu"},
    "T5": {"attention": "softmax"},
    "T6": {"ffn_ratio": 4},
    "C1": {"separable_conv": (False, False, False), "mid_separable_conv": False, "separable_resampling": False},
    "C2": {"resnets_per_level": (2, 2, 2)},
}


class DownLevel(nn.ModuleDict):
    """ResNets, each followed by its transformer stack, then a downsampler except at the last level."""

    resnets: nn.ModuleList
    stacks: nn.ModuleList

    def forward(self, x_bchw: Tensor, time_bt: Tensor, context_bmc: Tensor) -> tuple[Tensor, list[Tensor]]:
        skips = []
        for resnet, stack in zip(self.resnets, self.stacks, strict=True):
            x_bchw = stack(resnet(x_bchw, time_bt), context_bmc)
            skips.append(x_bchw)
        if "down" in self:
            x_bchw = self["down"](x_bchw)
            skips.append(x_bchw)
        return x_bchw, skips


class UpLevel(nn.ModuleDict):
    """ResNets, each fed one skip connection and followed by its stack, then an upsampler except at the first level.

    The skip connections are given in the order in which the ResNets take them.
    """

    resnets: nn.ModuleList
    stacks: nn.ModuleList

    def forward(self, x_bchw: Tensor, skips: list[Tensor], time_bt: Tensor, context_bmc: Tensor) -> Tensor:
        for resnet, stack, skip_bchw in zip(self.resnets, self.stacks, skips, strict=True):
            x_bchw = stack(resnet(torch.cat([x_bchw, beside(skip_bchw, x_bchw)], dim=1), time_bt), context_bmc)
        return self["up"](x_bchw) if "up" in self else x_bchw


class MobileDiffusionUNet(BaseDenoiser):
    """MobileDiffusion's denoiser. The defaults are the preset ``mobilediffusion``: 385.1M parameters, 182.2 GMAC.

    "Per level" values run from the outermost level (64x64 for a 512 px image) to the innermost (16x16).

    Args:
        sample_size: height and width of the latent, in latent pixels (64 for 512 px).
        block_out_channels: width per level (T1: 1024 at the bottleneck, where SD has 1280).
        resnets_per_level: C2. ResNets per level on the way down; the way up has one more, the middle two. SD: 2.
        transformer_blocks, mid_transformer_blocks: T1. After each ResNet of a level, and in the middle. SD: 1.
        self_attention: T2. Whether the blocks of a level have self-attention; the middle always has. SD: everywhere.
        cross_attention: whether the blocks of a level have cross-attention; the middle always has. False with
            ``self_attention`` False is the paper's negative control (FID 12.50 -> 17.87).
        shared_key_value: T3. Where key and value are one projection: ``self``, ``cross``, ``both`` or ``none`` (SD).
        ffn_activation: T4. ``swish``, or ``gelu`` (SD).
        attention: T5. ``relu``, or ``softmax`` (SD). The paper trains with softmax and switches over for the
            last 10K iterations, so softmax is the default: see `set_attention`.
        relu_scaling: T5. ``length``, ``sum`` or ``none``: see `layers.attend`. Not given in the paper.
        ffn_ratio: T6. Inner width of the gated feed-forward layer over its outer width. SD: 4.
        separable_conv, mid_separable_conv: C1. Separable convolutions in the ResNets of a level. SD: nowhere.
        separable_resampling: C1, also for the down- and upsamplers of the levels named in ``separable_conv``.
        transformer_projection: norm and linear projections around each stack, as in SD.
        attention_head_dim: channels of an attention head. Not given in the paper.
        time_embed_dim: width of the time embedding; None for 4 times the first level's width.
        time_cond_proj_dim: width of the embedded guidance scale that the network takes as an input, beside the time
            (arXiv 2210.03142; see `mdrepro.diffusion.guidance`); None for a network without that input.

    Raises BadInput for a value that is not allowed, per-level values of different lengths, or a width that is not a
    multiple of ``attention_head_dim`` (where the level has attention) or ``norm_num_groups``.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ("ResnetBlock", "TransformerBlock", "TimestepEmbedding")

    @register_to_config
    def __init__(
        self,
        sample_size: int = 64,
        in_channels: int = 8,
        out_channels: int = 8,
        cross_attention_dim: int = 768,
        block_out_channels: Sequence[int] = (320, 640, 1024),
        resnets_per_level: Sequence[int] = (1, 1, 1),
        transformer_blocks: Sequence[int] = (0, 1, 1),
        mid_transformer_blocks: int = 15,
        self_attention: Sequence[bool] = (False, False, False),
        cross_attention: Sequence[bool] = (True, True, True),
        shared_key_value: str = "self",
        ffn_activation: str = "swish",
        attention: str = "softmax",
        relu_scaling: str = "length",
        ffn_ratio: float = 3,
        separable_conv: Sequence[bool] = (False, False, True),
        mid_separable_conv: bool = True,
        separable_resampling: bool = False,
        transformer_projection: bool = False,
        attention_head_dim: int = 64,
        norm_num_groups: int = 32,
        time_embed_dim: int | None = None,
        time_cond_proj_dim: int | None = None,
    ) -> None:
        super().__init__()
        widths = list(block_out_channels)
        _check_choices({name: self.config[name] for name in CHOICES})
        for name in ("resnets_per_level", "transformer_blocks", "self_attention", "cross_attention", "separable_conv"):
            if len(self.config[name]) != len(widths):
                raise BadInput(f"{name} has {len(self.config[name])} values for {len(widths)} block_out_channels")
        for level, width in enumerate(widths):
            attends = transformer_blocks[level] or (level == len(widths) - 1 and mid_transformer_blocks)
            for name in ("norm_num_groups", *(["attention_head_dim"] if attends else [])):
                if width % self.config[name]:
                    raise BadInput(f"block_out_channels: {width} is not a multiple of {name} ({self.config[name]})")

        time_width = time_embed_dim or 4 * widths[0]
        last = len(widths) - 1

        def resnet(from_width: int, to_width: int, separable: bool) -> ResnetBlock:
            return ResnetBlock(from_width, to_width, time_width, separable, norm_num_groups)

        def stack(width: int, depth: int, self_attends: bool, cross_attends: bool) -> TransformerStack:
            return TransformerStack(
                width,
                depth,
                projection=transformer_projection,
                groups=norm_num_groups,
                context_width=cross_attention_dim,
                head_width=attention_head_dim,
                self_attention=self_attends,
                cross_attention=cross_attends,
                shared_key_value=shared_key_value,
                kernel=attention,
                scaling=relu_scaling,
                ffn_ratio=ffn_ratio,
                activation=ffn_activation,
            )

        def resample(width: int, level: int, up: bool) -> Resample:
            return Resample(width, separable_resampling and separable_conv[level], up=up)

        def modules(resnets: list[ResnetBlock], level: int) -> dict[str, nn.Module]:
            depth, attends = transformer_blocks[level], (self_attention[level], cross_attention[level])
            stacks = nn.ModuleList(stack(widths[level], depth, *attends) for _ in resnets)
            return {"resnets": nn.ModuleList(resnets), "stacks": stacks}

        self.time_proj = Timesteps(widths[0], flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(widths[0], time_width, cond_proj_dim=time_cond_proj_dim)
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)

        skip_widths, width = [widths[0]], widths[0]
        self.down_levels = nn.ModuleList()
        for level, to_width in enumerate(widths):
            resnets = []
            for _ in range(resnets_per_level[level]):
                resnets.append(resnet(width, to_width, separable_conv[level]))
                width = to_width
                skip_widths.append(width)
            down: dict[str, nn.Module] = {}
            if level < last:
                down["down"] = resample(width, level, up=False)
                skip_widths.append(width)
            self.down_levels.append(DownLevel(modules(resnets, level) | down))

        first, blocks = resnet(width, width, mid_separable_conv), stack(width, mid_transformer_blocks, True, True)
        second = resnet(width, width, mid_separable_conv)
        self.middle = nn.ModuleDict({"first": first, "stack": blocks, "last": second})

        self.up_levels = nn.ModuleList()
        for level in reversed(range(len(widths))):
            resnets = []
            for _ in range(resnets_per_level[level] + 1):
                resnets.append(resnet(width + skip_widths.pop(), widths[level], separable_conv[level]))
                width = widths[level]
            up = {"up": resample(width, level, up=True)} if level else {}
            self.up_levels.append(UpLevel(modules(resnets, level) | up))

        self.norm_out = nn.GroupNorm(norm_num_groups, width, eps=1e-5)
        self.conv_out = nn.Conv2d(width, out_channels, 3, padding=1)

    def set_attention(self, attention: str, relu_scaling: str | None = None) -> None:
        """Switch a (trained) network between softmax and ReLU attention, in place (T5).

        No weight changes; the config follows, so that the network is saved as what it is. Arguments are those of the
        constructor, None for the ``relu_scaling`` in the config. Raises BadInput for another name.
        """
        scaling = self.config.relu_scaling if relu_scaling is None else relu_scaling
        chosen = {"attention": attention, "relu_scaling": scaling}
        _check_choices(chosen)
        self.register_to_config(**chosen)
        for module in self.modules():
            if isinstance(module, Attention):
                module.kernel, module.scaling = attention, scaling

    def denoise(self, x_bchw: Tensor, time_bt: Tensor, text_bmc: Tensor) -> Tensor:
        """See `BaseDenoiser.denoise`."""
        x_bchw = self.conv_in(x_bchw)
        skips = [x_bchw]
        for level in self.down_levels:
            x_bchw, level_skips = level(x_bchw, time_bt, text_bmc)
            skips += level_skips
        first, stack, last = self.middle.values()
        x_bchw = last(stack(first(x_bchw, time_bt), text_bmc), time_bt)
        for level, resnets in zip(self.up_levels, reversed(self.config.resnets_per_level), strict=True):
            x_bchw = level(x_bchw, [skips.pop() for _ in range(resnets + 1)], time_bt, text_bmc)
        return self.conv_out(F.silu(self.norm_out(x_bchw)))


def with_guidance_input(unet: Denoiser, width: int = WIDTH) -> MobileDiffusionUNet:
    """A copy of ``unet`` with the guidance scale as an input, which it ignores at first: its projection is zero.

    ``width`` is that of the embedded guidance. Raises BadInput for a denoiser of another class, or with that input.
    """
    if not isinstance(unet, MobileDiffusionUNet) or guidance_width(unet) is not None:
        raise BadInput(
            f"a {type(unet).__name__} cannot be given the guidance scale as an input: expected a MobileDiffusionUNet "
            "without that input"
        )
    config = {name: value for name, value in unet.config.items() if not name.startswith("_")}
    student = MobileDiffusionUNet.from_config({**config, "time_cond_proj_dim": width})
    projection: nn.Linear = student.time_embedding.cond_proj
    zero = {"time_embedding.cond_proj.weight": torch.zeros_like(projection.weight)}
    student.load_state_dict(unet.state_dict() | zero)
    return student.to(unet.device).train(unet.training)


def _check_choices(values: Mapping[str, str]) -> None:
    for field, value in values.items():
        if value not in CHOICES[field]:
            raise BadInput(f"{field} is {value!r}: expected one of {', '.join(CHOICES[field])}")
