"""Denoisers that take the guidance scale w as an input (Meng et al., arXiv 2210.03142), and so need no second branch.

w is embedded as a time is and added to the embedded time through a projection, as in diffusers' networks with a
``time_cond_proj_dim``: the pipeline samples both alike.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from mdrepro.core.errors import BadInput

WIDTH = 256
"""Of the embedded guidance, as in the latent consistency models that diffusers loads."""


def guidance_embedding(guidance_b: Tensor, width: int) -> Tensor:
    """Fourier features of w, (b, width): those of the time 1000 (w - 1), as diffusers' pipelines give them.

    Args:
        guidance_b: w in w v(text) - (w - 1) v(empty); 1 is no guidance.
        width: even.
    """
    return get_timestep_embedding(1000 * (guidance_b - 1), width, downscale_freq_shift=1)


def width_of(unet: Any) -> int | None:
    """Width of the embedded guidance that a denoiser takes as an input; None where it has no such input."""
    width: int | None = getattr(unet.config, "time_cond_proj_dim", None)
    return width


def conditioned(unet: Any, width: int = WIDTH) -> Any:
    """A network with w as an input that at first says, whatever w is, what ``unet`` says: its projection is zero.

    Args:
        unet: a trained MobileDiffusionUNet.
        width: of the embedded guidance.

    Raises:
        BadInput: a denoiser of another class, or one with that input.
    """
    from mdrepro.models.mobilediffusion.unet import MobileDiffusionUNet

    if not isinstance(unet, MobileDiffusionUNet) or width_of(unet) is not None:
        raise BadInput(
            f"a {type(unet).__name__} cannot be given the guidance scale as an input: allowed is a MobileDiffusionUNet "
            "without that input"
        )
    told = {name: value for name, value in unet.config.items() if not name.startswith("_")}
    made = MobileDiffusionUNet.from_config({**told, "time_cond_proj_dim": width})
    projection: Any = made.time_embedding.cond_proj
    made.load_state_dict({**unet.state_dict(), "time_embedding.cond_proj.weight": torch.zeros_like(projection.weight)})
    return made.to(unet.device).train(unet.training)


def at(net: nn.Module, guidance_b: Tensor, width: int) -> Callable[..., Any]:
    """A network with w as an input, called as one without: at ``guidance_b``, (b,)."""
    return partial(net, timestep_cond=guidance_embedding(guidance_b, width))
