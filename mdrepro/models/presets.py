"""One named row per published network: the denoisers and image decoders that the papers compare.

Importing this module imports neither torch nor diffusers: only building a network does.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from mdrepro.core.errors import BadInput, unknown
from mdrepro.models.snapfusion.blocks import MEETS_TABLE_1, MEETS_TABLE_3

if TYPE_CHECKING:
    from torch import Tensor, nn

Kind = Literal["denoiser", "decoder", "text encoder"]

LATENT_FACTOR = 8
"""Image pixels per latent pixel, in every network here."""

LARGEST = 4096
"""Largest resolution accepted, px."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One published network.

    Args:
        name: the name on the command line and in every table.
        title: the name in print.
        kind: ``denoiser`` (noisy latent to prediction), ``decoder`` (latent to image) or ``text encoder`` (tokens to
            text features, the same at every resolution).
        network: the class it is built from, as named in protocols.
        builder: makes the network from ``config``, on torch's default device, with random weights.
        config: what differs from the builder's base configuration.
        source: where size and configuration come from.
        resolution: the image that its published cost is for, px.
        multiple: resolutions must be a multiple of this, px.
        latent_channels: channels of the latent.
        context_tokens, context_width: shape of the text features; 0 for decoders.
        pooled_width: width of the pooled text features that SDXL also takes; 0 elsewhere.
    """

    name: str
    title: str
    kind: Kind
    network: str
    builder: Callable[[Mapping[str, Any]], "nn.Module"] = field(repr=False)
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    source: str
    resolution: int = 512
    multiple: int = 64
    latent_channels: int = 4
    context_tokens: int = 77
    context_width: int = 768
    pooled_width: int = 0

    def build(self) -> "nn.Module":
        """The network in eval mode, float32, on torch's default device (wrap in ``torch.device("meta")`` for none)."""
        return self.builder(self.config).eval()

    def check_resolution(self, resolution: int) -> int:
        """``resolution`` itself. Raises BadInput where the network cannot take it."""
        if resolution % self.multiple or not 0 < resolution <= LARGEST:
            raise BadInput(
                f"{self.name} cannot be run at {resolution} px: allowed are multiples of {self.multiple} "
                f"from {self.multiple} to {LARGEST}"
            )
        return resolution

    def at(self, resolution: int | None) -> int:
        """``resolution``, or the published one for None. Raises BadInput where the network cannot take it."""
        return self.check_resolution(self.resolution if resolution is None else resolution)

    def example_inputs(
        self, resolution: int | None = None, *, batch: int = 1, device: str = "meta"
    ) -> dict[str, "Tensor | dict[str, Tensor]"]:
        """Keyword arguments of one forward pass, all zeros.

        Args:
            resolution: image height and width in px; None for the published one.
            batch: images.
            device: torch device.

        Returns:
            denoisers: ``sample`` (batch, latent_channels, resolution/8, resolution/8), ``timestep`` (batch,),
            ``encoder_hidden_states`` (batch, context_tokens, context_width), and for SDXL ``added_cond_kwargs``;
            decoders: ``input``, the latent; text encoders: ``input_ids`` (batch, context_tokens).

        Raises:
            BadInput: a resolution that the network cannot take.
        """
        import torch

        side = self.at(resolution) // LATENT_FACTOR
        with torch.device(device):
            if self.kind == "text encoder":
                return {"input_ids": torch.zeros(batch, self.context_tokens, dtype=torch.int64)}
            latent = torch.zeros(batch, self.latent_channels, side, side)
            if self.kind == "decoder":
                return {"input": latent}
            inputs: dict[str, Tensor | dict[str, Tensor]] = {
                "sample": latent,
                "timestep": torch.zeros(batch),
                "encoder_hidden_states": torch.zeros(batch, self.context_tokens, self.context_width),
            }
            if self.pooled_width:
                time_ids = torch.zeros(batch, 6)  # original size, crop corner, target size
                inputs["added_cond_kwargs"] = {
                    "text_embeds": torch.zeros(batch, self.pooled_width),
                    "time_ids": time_ids,
                }
            return inputs


def _sd_unet(config: Mapping[str, Any]) -> "nn.Module":
    from diffusers import UNet2DConditionModel

    # diffusers' defaults, with the text width, are Stable Diffusion 1.5.
    return UNet2DConditionModel(**{"sample_size": 64, "cross_attention_dim": 768} | dict(config))


def _mobilediffusion_unet(config: Mapping[str, Any]) -> "nn.Module":
    from mdrepro.models.mobilediffusion.unet import MobileDiffusionUNet

    return MobileDiffusionUNet(**config)


def _evolvable_unet(config: Mapping[str, Any]) -> "nn.Module":
    from mdrepro.models.snapfusion.evolvable import EvolvableUNet

    return EvolvableUNet(**config)


def _kl_decoder(config: Mapping[str, Any]) -> "nn.Module":
    """AutoencoderKL's way from latent to image, its modules under the names that they have there."""
    from collections import OrderedDict

    from diffusers.models.autoencoders.vae import Decoder
    from torch import nn

    base, latent = config["width"], config["latent_channels"]
    decoder = Decoder(
        in_channels=latent,
        out_channels=3,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(base, 2 * base, 4 * base, 4 * base),
        layers_per_block=config["resnets"] - 1,  # diffusers builds one more
    )
    return nn.Sequential(OrderedDict(post_quant_conv=nn.Conv2d(latent, latent, 1), decoder=decoder))


def _clip_text_model(config: Mapping[str, Any]) -> "nn.Module":
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig(**config))


def _denoiser(name: str, title: str, source: str, config: Mapping[str, Any] | None = None, **fields: Any) -> Preset:
    shared: dict[str, Any] = {"network": "diffusers UNet2DConditionModel", "builder": _sd_unet} | fields
    return Preset(name=name, title=title, kind="denoiser", source=source, config=config or {}, **shared)


def _decoder(name: str, title: str, source: str, width: int, resnets: int, latent_channels: int) -> Preset:
    return Preset(
        name=name,
        title=title,
        kind="decoder",
        network="diffusers AutoencoderKL decoder",
        builder=_kl_decoder,
        config={"width": width, "resnets": resnets, "latent_channels": latent_channels},
        source=source,
        multiple=LATENT_FACTOR,
        latent_channels=latent_channels,
        context_tokens=0,
        context_width=0,
    )


def _mobile(name: str, title: str, source: str, config: Mapping[str, Any] | None = None) -> Preset:
    return _denoiser(
        name,
        title,
        source,
        config,
        network="mdrepro MobileDiffusionUNet",
        builder=_mobilediffusion_unet,
        multiple=32,
        latent_channels=8,
    )


def _evolvable(name: str, title: str, source: str, actions: tuple[str, ...]) -> Preset:
    config = {"actions": actions}
    return _denoiser(name, title, source, config, network="mdrepro EvolvableUNet", builder=_evolvable_unet)


_CROSS_DOWN, _CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"

_ROWS = (
    _denoiser("sd15", "SD-1.5", "stable-diffusion-v1-5 unet/config.json; 860M in SnapFusion Table 1"),
    _denoiser(
        "sd21",
        "SD-2.1",
        "stable-diffusion-2-1-base unet/config.json (the 512 px network); 0.87B in BK-SDM's README",
        {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True},
        context_width=1024,
    ),
    _denoiser(
        "sdxl",
        "SDXL",
        "stable-diffusion-xl-base-1.0 unet/config.json (1024 px)",
        {
            "sample_size": 128,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", _CROSS_DOWN, _CROSS_DOWN),
            "up_block_types": (_CROSS_UP, _CROSS_UP, "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 1280 + 6 * 256,
        },
        resolution=1024,
        multiple=32,
        context_width=2048,
        pooled_width=1280,
    ),
    _denoiser(
        "bk-sdm-base",
        "BK-SDM-Base",
        "BK-SDM src/unet_config/bk_base: one layer a block",
        {"layers_per_block": 1},
    ),
    _denoiser(
        "bk-sdm-small",
        "BK-SDM-Small",
        "BK-SDM src/unet_config/bk_small: Base without the mid block",
        {"layers_per_block": 1, "mid_block_type": None},
    ),
    _denoiser(
        "bk-sdm-tiny",
        "BK-SDM-Tiny",
        "BK-SDM src/unet_config/bk_tiny: Small without the innermost level",
        {
            "layers_per_block": 1,
            "mid_block_type": None,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": (_CROSS_DOWN,) * 3,
            "up_block_types": (_CROSS_UP,) * 3,
        },
        multiple=32,
    ),
    # 848M (Table 1) and the block counts of Table 3 do not fit together: SD-1.5's blocks in Table 3's numbers have 759M
    # (723 to 786M, as one chooses what the table leaves open). So there are two rows: the first is SD-1.5 without its
    # five 320-wide transformer blocks, the one change of Table 3 that alone gives 848M; the second is Table 3.
    _evolvable(
        "snapfusion",
        "SnapFusion",
        "SnapFusion Table 1 (848M): SD-1.5 without its five 320-wide transformer blocks; "
        "its Table 3, built literally, has 759M: see snapfusion-table3",
        MEETS_TABLE_1,
    ),
    _evolvable(
        "snapfusion-table3",
        "SnapFusion (Table 3)",
        "SnapFusion Table 3, its block counts exactly; which blocks stay is ours, see models/blocks.py; "
        "its Table 1 says 848M: see snapfusion",
        MEETS_TABLE_3,
    ),
    _mobile(
        "mobilediffusion",
        "MobileDiffusion",
        "MobileDiffusion v2: 386M, 182 GMAC, 11 ResNets, 1024 channels; layout of the blocks ours, see models/unet.py",
    ),
    # 278M and 117 GMAC are remembered and inferred, not read: C1 taken literally (every level but the outermost, the
    # resamplers too) at 896 channels meets both.
    _mobile(
        "mobilediffusion-lite",
        "MobileDiffusion-Lite",
        "MobileDiffusion-Lite: 278M, 117 GMAC, 896 channels, none of them read in the paper; layout ours",
        {
            "block_out_channels": (320, 640, 896),
            "separable_conv": (False, True, True),
            "separable_resampling": True,
        },
    ),
    # Arguments of the decoders: width of the outermost level, ResNets a level, latent channels.
    _decoder("sd-decoder", "SD", "stable-diffusion-v1-5 vae/config.json: 49.49M", 128, 3, 4),
    _decoder("snapfusion-decoder", "SnapFusion", "SnapFusion Table 1: 13M; SD's decoder at half width", 64, 3, 4),
    _decoder(
        "mobilediffusion-decoder", "MobileDiffusion", "MobileDiffusion VAE table: 39.3M; layout inferred", 128, 2, 8
    ),
    _decoder(
        "mobilediffusion-decoder-lite",
        "MobileDiffusion-Lite",
        "MobileDiffusion VAE table: 9.8M; layout inferred (the full one at half width)",
        64,
        2,
        8,
    ),
    Preset(
        name="text-encoder",
        title="CLIP ViT-L/14 text encoder",
        kind="text encoder",
        network="transformers CLIPTextModel",
        builder=_clip_text_model,
        config={
            "vocab_size": 49408,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "max_position_embeddings": 77,
        },
        source="openai/clip-vit-large-patch14 text_config: 125M in MobileDiffusion's blog, 123M in SnapFusion Table 1",
        multiple=LATENT_FACTOR,
    ),
)

PRESETS: Mapping[str, Preset] = MappingProxyType({row.name: row for row in _ROWS})


def names(kind: Kind | None = None) -> list[str]:
    """Names of all presets, or of one kind, in the order of the tables."""
    return [row.name for row in _ROWS if kind in (None, row.kind)]


def get(name: str) -> Preset:
    """The preset of this name.

    Raises:
        BadInput: there is none; the message names all and the nearest one.
    """
    if name not in PRESETS:
        raise unknown("network", name, PRESETS)
    return PRESETS[name]


def select(wanted: list[str]) -> list[str]:
    """Names of presets, ``all`` among them standing for every one; in table order, each once.

    Raises:
        BadInput: an unknown name.
    """
    chosen = {get(name).name for name in wanted if name != "all"} | set(PRESETS if "all" in wanted else ())
    return [name for name in PRESETS if name in chosen]


def build(name: str) -> "nn.Module":
    """The network of this name, see `Preset.build`. Raises BadInput for an unknown name."""
    return get(name).build()
