"""Autoencoders in MobileDiffusion's proportions, at any width.

The layouts are those that fit the published decoder sizes (SD 49.5M, Ours 39.3M, Ours-Lite 9.8M: MobileDiffusion,
VAE table): spatial factor 8, channel multipliers 1, 2, 4, 4, a ResNet-attention-ResNet mid block. At width 128 the
decoders have 49.49M, 38.59M and 9.66M parameters. The encoder is SD's in every row (two ResNets a level); the paper
does not describe its own. Pixels are in [-1, 1]; ``config.scaling_factor`` gives latents unit variance over the crops.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.vae import Decoder
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from mdrepro.core.errors import BadInput, check
from mdrepro.models import systems
from mdrepro.models.safe import SafeModelMixin
from mdrepro.models.systems import DecoderLayout

MULTIPLIERS = (1, 2, 4, 4)
ENCODER_RESNETS = 2
PATH = ("conv_in", "conv_out", "quant_conv")  # with the resampling convolutions: what is left of zero ResNets
START_LOGVAR = -6.0

FAMILY: Mapping[str, DecoderLayout] = {each.row: each.layout for each in systems.autoencoders().values() if each.row}
"""Layouts by row of the VAE table: ``sd`` (49.5M decoder at width 128), ``ours`` (39.3M), ``ours-lite`` (9.8M)."""


class Autoencoder(SafeModelMixin, AutoencoderKL):
    """AutoencoderKL whose decoder may differ from its encoder in width and depth.

    Without the three ``decoder_*`` arguments it is diffusers' AutoencoderKL, and loads its configurations and weights.

    Args:
        decoder_resnets: ResNets per decoder level; None for AutoencoderKL's ``layers_per_block + 1``.
        decoder_block_out_channels, decoder_norm_num_groups: None for the encoder's.
        pixel_range: lowest and highest value of pixels in and out, (-1, 1) or (0, 1); see `mdrepro.models.latents`.
    """

    _no_split_modules = ("ResnetBlock2D", "Attention")

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",),
        up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",),
        block_out_channels: tuple[int, ...] = (64,),
        layers_per_block: int = 1,
        act_fn: str = "silu",
        latent_channels: int = 4,
        norm_num_groups: int = 32,
        sample_size: int = 32,
        scaling_factor: float = 0.18215,
        shift_factor: float | None = None,
        latents_mean: tuple[float, ...] | None = None,
        latents_std: tuple[float, ...] | None = None,
        force_upcast: bool = True,
        use_quant_conv: bool = True,
        use_post_quant_conv: bool = True,
        mid_block_add_attention: bool = True,
        decoder_resnets: int | None = None,
        decoder_block_out_channels: tuple[int, ...] | None = None,
        decoder_norm_num_groups: int | None = None,
        pixel_range: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        theirs = inspect.signature(AutoencoderKL.__init__).parameters
        super().__init__(**{name: value for name, value in self.config.items() if name in theirs})
        if decoder_resnets or decoder_block_out_channels or decoder_norm_num_groups:
            self.decoder = Decoder(
                in_channels=latent_channels,
                out_channels=out_channels,
                up_block_types=up_block_types,
                block_out_channels=decoder_block_out_channels or block_out_channels,
                layers_per_block=(decoder_resnets or layers_per_block + 1) - 1,  # diffusers builds one more
                norm_num_groups=decoder_norm_num_groups or norm_num_groups,
                act_fn=act_fn,
                mid_block_add_attention=mid_block_add_attention,
            )


def configuration(row: str, width: int) -> dict[str, Any]:
    """Arguments of `Autoencoder` for a row of `FAMILY`; ``width`` is its encoder's finest, 128 in the papers.

    Raises BadInput for another row, or a width that is no positive multiple of 8.
    """
    check("row", row, FAMILY)
    if width < 8 or width % 8:
        raise BadInput(f"width {width}: a multiple of 8, from 8")
    return arguments(FAMILY[row], width)


def arguments(layout: DecoderLayout, width: int) -> dict[str, Any]:
    """Arguments of `Autoencoder` for a layout, its encoder's finest level ``width`` channels wide."""
    decoder_width = round(width * layout.decoder_share)
    return {
        "down_block_types": ("DownEncoderBlock2D",) * len(MULTIPLIERS),
        "up_block_types": ("UpDecoderBlock2D",) * len(MULTIPLIERS),
        "block_out_channels": tuple(width * m for m in MULTIPLIERS),
        "layers_per_block": ENCODER_RESNETS,
        "latent_channels": layout.latent_channels,
        "norm_num_groups": _groups(width),
        "sample_size": 256,
        "scaling_factor": 1.0,
        "decoder_resnets": layout.decoder_resnets,
        "decoder_block_out_channels": tuple(decoder_width * m for m in MULTIPLIERS),
        "decoder_norm_num_groups": _groups(decoder_width),
    }


def build(row: str, width: int) -> Autoencoder:
    """A new `Autoencoder` with random weights (from torch's global generator); see `configuration`."""
    return Autoencoder(**configuration(row, width))


@torch.no_grad()
def start_as_averages(model: AutoencoderKL) -> None:
    """Initial weights from which a small autoencoder learns in hundreds of steps instead of thousands.

    Residual branches start at zero: the path of input, resampling and output convolutions is left. Its weights keep the
    variance: half of it is noise, half an orthogonal mixing of channels at the centre (the mean of 2 x 2 pixels when
    downsampling). The latent starts with little noise. Uses torch's global generator.
    """
    for name, module in model.named_modules():
        if isinstance(module, ResnetBlock2D):
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(_bias(module.conv2))
            if module.conv_shortcut is not None:
                nn.init.orthogonal_(module.conv_shortcut.weight)
                nn.init.zeros_(_bias(module.conv_shortcut))
        elif isinstance(module, Attention):
            nn.init.zeros_(module.to_out[0].weight)
        elif isinstance(module, nn.Conv2d) and ("sampler" in name or name.endswith(PATH)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            nn.init.zeros_(_bias(module))
            if module.kernel_size == (3, 3):
                module.weight.add_(_mixing(module.weight, halving="downsampler" in name)).mul_(0.5**0.5)
    if model.quant_conv is not None:
        _bias(model.quant_conv).chunk(2)[1].fill_(START_LOGVAR)


def _mixing(weight: Tensor, halving: bool) -> Tensor:
    """An orthogonal mixing of channels at the centre of 3 x 3, or spread over the 2 x 2 that a stride of 2 visits."""
    out_channels, in_channels = weight.shape[:2]
    spread = torch.zeros(3, 3)
    if halving:
        spread[:2, :2] = 0.25
    else:
        spread[1, 1] = 1
    mixing = nn.init.orthogonal_(torch.empty(out_channels, in_channels)) * max(1, out_channels / in_channels) ** 0.5
    return mixing[:, :, None, None] * spread


def _bias(module: nn.Conv2d) -> Tensor:
    assert module.bias is not None
    return module.bias


def decoder_parameters(model: AutoencoderKL) -> int:
    """Parameters of the image decoder, without the 1x1 convolution on the latent, as the papers' 49.49M counts."""
    return sum(p.numel() for p in model.decoder.parameters())


def encoder_parts(model: AutoencoderKL) -> list[nn.Module]:
    """The modules that make the latent: encoder and its 1x1 convolution."""
    return [m for m in (model.encoder, model.quant_conv) if m is not None]


def reconstruct(model: AutoencoderKL, pixels: Tensor) -> Tensor:
    """(n, 3, h, w) in [-1, 1] to the same by the mean of the latent, clamped; h and w multiples of 8."""
    return model.decode(model.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1)


def _groups(width: int) -> int:
    return min(32, max(1, width // 4))  # four channels a group, as SD has at width 128
