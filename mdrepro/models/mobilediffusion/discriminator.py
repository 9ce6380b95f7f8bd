"""The discriminator of the diffusion-GAN that makes MobileDiffusion one-step (UFOGen, arXiv 2311.09257).

It is a copy of the trained denoiser, conditioned on noise level and text, but for the last layer: a convolution to one
channel, zero at first, so that every logit is 0. The papers do not say whether there is a logit per image or position.
Here it is one per latent pixel (``map``), as in the reference code of UFOGen's first author; ``image`` is their mean.
"""

from typing import Any, Self

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor, nn

from mdrepro.core.errors import check
from mdrepro.models.denoiser import class_named
from mdrepro.models.protocols import Denoiser
from mdrepro.models.safe import SafeModelMixin

LOGITS = ("map", "image")


class Discriminator(SafeModelMixin, ConfigMixin):
    """Real or generated, from a noisy latent, its noise level and its text. Mostly built by `from_unet`.

    Raises BadInput for a denoiser's class that is not in `mdrepro.models.denoiser.CLASSES`, or another kind of logits.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self, unet_class: str = "MobileDiffusionUNet", unet_config: dict[str, Any] | None = None, logits: str = "map"
    ) -> None:
        super().__init__()
        kind = class_named(unet_class, "unet_class")
        check("kind of logits", logits, LOGITS)
        self.unet = kind.from_config(unet_config or {})
        last = self.unet.conv_out
        self.unet.conv_out = nn.Identity()
        self.head = nn.Conv2d(last.in_channels, 1, last.kernel_size, padding=last.padding)
        for weight in self.head.parameters():
            nn.init.zeros_(weight)

    @classmethod
    def from_unet(cls, unet: Denoiser, logits: str = "map") -> Self:
        """A discriminator with copies of a trained denoiser's weights, on its device, in its type and mode.

        Raises BadInput for a denoiser of a class that is not in `mdrepro.models.denoiser.CLASSES`.
        """
        config = {name: value for name, value in unet.config.items() if not name.startswith("_")}
        discriminator = cls(type(unet).__name__, config, logits)
        weights = unet.state_dict()
        discriminator.unet.load_state_dict({name: weights[name] for name in discriminator.unet.state_dict()})
        return discriminator.to(device=unet.device, dtype=unet.dtype).train(unet.training)

    def features(self, sample: Tensor, timestep: Tensor | float, encoder_hidden_states: Tensor) -> Tensor:
        """What the denoiser computes before its last layer, (batch, outermost width, height, width)."""
        return self.unet(sample, timestep, encoder_hidden_states, return_dict=False)[0]

    def forward(self, sample: Tensor, timestep: Tensor | float, encoder_hidden_states: Tensor) -> Tensor:
        """Logits, positive for real: ``map``: (batch, 1, height, width); ``image``: (batch,).

        Arguments are the denoiser's: the latent at the lower noise level, x_{t - jump}, that level, and text features.
        """
        logits_b1hw = self.head(self.features(sample, timestep, encoder_hidden_states))
        return logits_b1hw if self.config.logits == "map" else torch.mean(logits_b1hw, dim=(1, 2, 3))
