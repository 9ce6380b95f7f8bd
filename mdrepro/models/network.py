"""A published network as data, and how it is built. Importing this module imports neither torch nor diffusers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from mdrepro.core.errors import BadInput

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
        name, title: on the command line and in every table; in print.
        kind: ``denoiser``, ``decoder`` (latent to image) or ``text encoder`` (the same at every resolution).
        network, config: the class it is built from, a key of `BUILDERS`, and what differs from its base configuration.
        source: where size and configuration come from.
        resolution, multiple: the image that its published cost is for, and what every resolution is a multiple of, px.
        context_tokens, context_width: shape of the text features; 0 for decoders.
        pooled_width: width of the pooled text features that SDXL also takes; 0 elsewhere.
    """

    name: str
    title: str
    kind: Kind
    network: str
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
        return BUILDERS[self.network](self.config).eval()

    def resolve(self, resolution: int | None) -> int:
        """``resolution``, or the published one for None. Raises BadInput where the network cannot take it."""
        resolution = self.resolution if resolution is None else resolution
        if resolution % self.multiple or not 0 < resolution <= LARGEST:
            raise BadInput(
                f"{self.name} cannot be run at {resolution} px: expected a multiple of {self.multiple} "
                f"from {self.multiple} to {LARGEST}"
            )
        return resolution

    def example_inputs(
        self, resolution: int | None = None, *, batch: int = 1, device: str = "meta"
    ) -> dict[str, "Tensor | dict[str, Tensor]"]:
        """Keyword arguments of one forward pass, all zeros; ``resolution`` as for `resolve`.

        Denoisers: ``sample`` (batch, latent_channels, resolution/8, resolution/8), ``timestep`` (batch,),
        ``encoder_hidden_states`` (batch, context_tokens, context_width), and for SDXL ``added_cond_kwargs``;
        decoders: ``input``, the latent; text encoders: ``input_ids`` (batch, context_tokens).
        """
        import torch

        side = self.resolve(resolution) // LATENT_FACTOR
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
                pooled = torch.zeros(batch, self.pooled_width)
                inputs["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": time_ids}
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
    """AutoencoderKL's layers from latent to image, under the names that they have there."""
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


UNET = "diffusers UNet2DConditionModel"
MOBILE_UNET, EVOLVABLE_UNET = "mdrepro MobileDiffusionUNet", "mdrepro EvolvableUNet"
DECODER, TEXT_MODEL = "diffusers AutoencoderKL decoder", "transformers CLIPTextModel"
BUILDERS: Mapping[str, Callable[[Mapping[str, Any]], "nn.Module"]] = {
    UNET: _sd_unet,
    MOBILE_UNET: _mobilediffusion_unet,
    EVOLVABLE_UNET: _evolvable_unet,
    DECODER: _kl_decoder,
    TEXT_MODEL: _clip_text_model,
}
"""Classes of networks: each makes one from a configuration, on torch's default device, with random weights."""
