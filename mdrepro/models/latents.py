"""Between pixels and the latents that a diffusion model sees, with every range named.

Mixing any two of these conventions gives a wrong image and no error:

- pixels: ``uint8`` (0 to 255), ``0..1`` or ``-1..1``. What an autoencoder takes is its config's ``pixel_range``, -1..1
  where there is none (every autoencoder of diffusers).
- latents out of the encoder, z, and latents of the diffusion model, x = (z - shift) * scale, with ``shift_factor`` and
  ``scaling_factor`` (0.18215 for SD-1.5) of the autoencoder's config; or per channel x = (z - mean) / std * scale, with
  its ``latents_mean`` and ``latents_std``.
- images and latents are (batch, channels, height, width); latents are smaller by `factor` in height and width.
"""

from collections.abc import Sequence

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from mdrepro.core.errors import BadInput, check
from mdrepro.diffusion.protocols import Configured, Generators
from mdrepro.models.protocols import Autoencoder

PIXEL_RANGES = ("uint8", "0..1", "-1..1")
TOLERANCE = 0.01
"""How far a float pixel may lie outside its range (rounding in bfloat16 is 0.004), before it is taken for an error."""


def factor(vae: Configured) -> int:
    """Image pixels per latent pixel: 8 in both papers."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def model_range(vae: Configured) -> str:
    """The pixel range that an autoencoder takes and gives: ``-1..1`` or ``0..1``. Raises BadInput for any other."""
    written = tuple(vae.config.get("pixel_range") or (-1, 1))
    named = {(-1, 1): "-1..1", (0, 1): "0..1"}
    if written not in named:
        raise BadInput(f"pixel_range is {written} in the autoencoder's config: it must be (-1, 1) or (0, 1)")
    return named[written]


def convert(pixels: Tensor, source: str, target: str) -> Tensor:
    """Pixels of one range as pixels of another; any shape.

    To ``uint8`` it rounds (truncation would darken by half a level). Float input is clamped. Raises BadInput for an
    unknown range, another type than the range's, and floats more than `TOLERANCE` outside the range, or not finite.
    """
    for name in (source, target):
        check("pixel range", name, PIXEL_RANGES)
    if (source == "uint8") != (pixels.dtype == torch.uint8) or not (pixels.is_floating_point() or source == "uint8"):
        raise BadInput(f"pixels declared as {source} are {pixels.dtype}")
    low = -1.0 if source == "-1..1" else 0.0
    if source != "uint8":
        smallest, largest = (float(value) for value in pixels.aminmax())
        if not (low - TOLERANCE <= smallest and largest <= 1 + TOLERANCE):  # a NaN is neither
            raise BadInput(f"pixels declared as {source} run from {smallest:.3g} to {largest:.3g}")
        pixels = pixels.clamp(low, 1)
    if source == target:
        return pixels
    unit = pixels.float() / 255 if source == "uint8" else (pixels - low) / (1 - low)
    if target == "uint8":
        return (unit.float() * 255).round().to(torch.uint8)
    return unit if target == "0..1" else unit * 2 - 1


def scale(vae: Configured, z_bchw: Tensor) -> Tensor:
    """Latents of the encoder as the diffusion model sees them: x = (z - shift) * scale. The inverse is `unscale`."""
    shift, size = _shift_and_size(vae, z_bchw)
    return (z_bchw - shift) / size


def unscale(vae: Configured, x_bchw: Tensor) -> Tensor:
    """Latents of the diffusion model as the decoder takes them: z = x / scale + shift. The inverse is `scale`."""
    shift, size = _shift_and_size(vae, x_bchw)
    return x_bchw * size + shift


def _shift_and_size(vae: Configured, like_bchw: Tensor) -> tuple[Tensor, Tensor]:
    config = vae.config
    mean, std, shift = config.get("latents_mean"), config.get("latents_std"), config.get("shift_factor")
    if (mean is None) != (std is None) or (mean is not None and shift):
        raise BadInput(
            f"the autoencoder's config has latents_mean {mean}, latents_std {std} and shift_factor {shift}: "
            "expected mean and std together, or a shift"
        )

    def per_channel(values: float | Sequence[float]) -> Tensor:
        return torch.as_tensor(values, dtype=like_bchw.dtype, device=like_bchw.device).reshape(1, -1, 1, 1)

    size = per_channel(1.0 if std is None else std) / config.scaling_factor
    return per_channel((shift or 0.0) if mean is None else mean), size


def to_latent(vae: Autoencoder, pixels: Tensor, pixel_range: str, generator: Generators = None) -> Tensor:
    """Encode images for a diffusion model: scaled latents, (batch, channels, height / factor, width / factor).

    Args:
        vae: diffusers' AutoencoderKL, AutoencoderTiny, or this project's.
        pixels: (batch, 3, height, width), height and width multiples of `factor`, in one of `PIXEL_RANGES`.
        generator: draws the latent from the posterior, one for all images or one each; None takes its mean.

    Raises BadInput where the shape does not fit, or `convert` refuses the pixels.
    """
    step = factor(vae)
    if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.shape[2] % step or pixels.shape[3] % step:
        raise BadInput(
            f"pixels have shape {tuple(pixels.shape)}: expected (batch, 3, height, width), height and width "
            f"multiples of {step}"
        )
    encoded = vae.encode(convert(pixels, pixel_range, model_range(vae)).to(vae.device, vae.dtype))
    if (latents := getattr(encoded, "latents", None)) is not None:  # AutoencoderTiny has no posterior
        return scale(vae, latents)
    posterior = encoded.latent_dist
    z_bchw = posterior.mode()
    if generator is not None:
        generators = generator if isinstance(generator, torch.Generator) else list(generator)
        noise = randn_tensor(z_bchw.shape, generator=generators, device=z_bchw.device, dtype=z_bchw.dtype)
        z_bchw = z_bchw + posterior.std * noise
    return scale(vae, z_bchw)


def to_image(vae: Autoencoder, latent_bchw: Tensor, pixel_range: str) -> Tensor:
    """Decode scaled latents, as `to_latent` gives them, to pixels of ``pixel_range``; floats in float32.

    Raises BadInput where the decoder gave values that are not finite, as half precision does when it overflows.
    """
    own = model_range(vae)
    decoded = vae.decode(unscale(vae, latent_bchw).to(vae.device, vae.dtype)).sample.float()
    if not decoded.isfinite().all():
        raise BadInput(f"the decoder gave values that are not finite in {vae.dtype}: run it in bfloat16 or float32")
    return convert(decoded.clamp(0 if own == "0..1" else -1, 1), own, pixel_range)
