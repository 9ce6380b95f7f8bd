"""What the denoisers of both papers have in common: how they are called, and what input they refuse."""

import importlib
from abc import abstractmethod
from collections.abc import Mapping

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor

from mdrepro.core.errors import BadInput, check
from mdrepro.diffusion.guidance import guidance_width
from mdrepro.models.safe import SafeModelMixin

CLASSES: Mapping[str, str] = {
    "MobileDiffusionUNet": "mdrepro.models.mobilediffusion.unet",
    "EvolvableUNet": "mdrepro.models.snapfusion.evolvable",
    "UNet2DConditionModel": "diffusers",
}
"""Modules of denoisers by the name of their class (a config cannot name another); their last layer is ``conv_out``."""


def class_named(name: str, setting: str) -> type[ModelMixin]:
    """The class of this name in `CLASSES`. Raises BadInput, which names the ``setting``, where it is none of them."""
    check(setting, name, CLASSES)
    kind: type[ModelMixin] = getattr(importlib.import_module(CLASSES[name]), name)
    return kind


class BaseDenoiser(SafeModelMixin, ConfigMixin):
    """A UNet that is called as diffusers' UNet2DConditionModel is.

    Its config has in_channels, out_channels, cross_attention_dim, block_out_channels and sample_size.
    """

    time_proj: Timesteps
    time_embedding: TimestepEmbedding

    @abstractmethod
    def denoise(self, x_bchw: Tensor, time_bt: Tensor, text_bmc: Tensor) -> Tensor:
        """`forward` after its checks, from the embedded time."""

    @property
    def resolution_multiple(self) -> int:
        """Height and width of the latent must be multiples of this many latent pixels."""
        return 2 ** (len(self.config.block_out_channels) - 1)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        return_dict: bool = True,
        timestep_cond: Tensor | None = None,
    ) -> UNet2DConditionOutput | tuple[Tensor]:
        """Predict what the training objective asks for (noise, v or x0), (batch, out_channels, height, width).

        Args:
            sample: noisy latent, (batch, in_channels, height, width).
            timestep: diffusion time, one number for the batch or a tensor of (batch,) of any real type.
            encoder_hidden_states: text features, (batch, tokens, cross_attention_dim).
            timestep_cond: the embedded guidance scale, (batch, time_cond_proj_dim), if the network has that input.

        Raises BadInput where channels, text width or batch sizes do not fit, height or width is not a multiple of
        `resolution_multiple`, or ``timestep_cond`` is missing or not allowed.
        """
        self._check_inputs(sample, encoder_hidden_states, timestep_cond)
        time = torch.as_tensor(timestep, device=sample.device).expand(sample.shape[0])
        time_bt = self.time_embedding(self.time_proj(time).to(sample.dtype), timestep_cond)
        out_bchw = self.denoise(sample, time_bt, encoder_hidden_states)
        return UNet2DConditionOutput(sample=out_bchw) if return_dict else (out_bchw,)

    def _check_inputs(self, sample: Tensor, text: Tensor, condition: Tensor | None) -> None:
        channels, width, step = self.config.in_channels, self.config.cross_attention_dim, self.resolution_multiple
        if sample.ndim != 4 or sample.shape[1] != channels or sample.shape[2] % step or sample.shape[3] % step:
            raise BadInput(
                f"sample has shape {tuple(sample.shape)}: expected (batch, {channels}, height, width) with height "
                f"and width multiples of {step}"
            )
        if text.ndim != 3 or text.shape[0] != sample.shape[0] or text.shape[2] != width:
            raise BadInput(
                f"encoder_hidden_states has shape {tuple(text.shape)}: expected (batch {sample.shape[0]}, tokens, "
                f"{width})"
            )
        wanted = None if (width := guidance_width(self)) is None else (len(sample), width)
        if (None if condition is None else tuple(condition.shape)) != wanted:
            raise BadInput(
                f"timestep_cond is {'missing' if condition is None else tuple(condition.shape)}: expected "
                + ("none, as this network has no such input" if wanted is None else f"an embedded guidance {wanted}")
            )
