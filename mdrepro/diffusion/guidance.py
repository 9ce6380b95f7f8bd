"""The guidance scale w as an input of a denoiser (Meng et al., arXiv 2210.03142), which then needs no second branch.

w is embedded as a time is and added to the embedded time through a projection, as in diffusers' networks with a
``time_cond_proj_dim``.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from mdrepro.diffusion.protocols import Configured

WIDTH = 256
"""Of the embedded guidance, as in the latent consistency models that diffusers loads."""


def guidance_embedding(guidance_b: Tensor, width: int) -> Tensor:
    """Fourier features of w, (b, width): those of the time 1000 (w - 1), as diffusers' pipelines compute them.

    w is that of w v(text) - (w - 1) v(empty), 1 is no guidance; ``width`` is even.
    """
    return get_timestep_embedding(1000 * (guidance_b - 1), width, downscale_freq_shift=1)


def guidance_width(denoiser: Configured) -> int | None:
    """Width of the embedded guidance that a denoiser takes as an input; None where it has no such input."""
    width: int | None = getattr(denoiser.config, "time_cond_proj_dim", None)
    return width


def at_guidance(denoiser: nn.Module, guidance_b: Tensor, width: int) -> Callable[..., Any]:
    """A denoiser with w as an input, called like one without: at ``guidance_b``, (b,)."""
    return partial(denoiser, timestep_cond=guidance_embedding(guidance_b, width))
