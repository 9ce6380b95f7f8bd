"""The papers' autoencoders at full size; `vae` has the family that they belong to, at any width.

| name | latent | decoder | published | source |
| --- | --- | --- | --- | --- |
| sd | 4 channels | 49.49M | 49.49M | stable-diffusion-v1-5 vae/config.json; diffusers' own class |
| snapfusion | SD's | 12.39M | 13M | SnapFusion Table 1 and section 2.4: SD's decoder, half its channels, encoder kept |
| mobilediffusion | 8 channels | 38.59M | 39.3M | MobileDiffusion VAE table ("Ours"); layout inferred |
| mobilediffusion-lite | 8 channels | 9.66M | 9.8M | the same table ("Ours-Lite"); half the channels, encoder kept |

What SnapFusion kept wider to come to 13M is not published.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from diffusers import AutoencoderKL

from mdrepro.core.errors import BadInput, unknown
from mdrepro.models.mobilediffusion import vae

SD_CONFIG: Mapping[str, Any] = MappingProxyType(
    {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
        "norm_num_groups": 32,
        "sample_size": 512,
        "scaling_factor": 0.18215,
    }
)


def _snapfusion() -> vae.Autoencoder:
    halved = tuple(width // 2 for width in SD_CONFIG["block_out_channels"])
    return vae.Autoencoder(**SD_CONFIG, decoder_block_out_channels=halved)


FULL_SIZE: Mapping[str, Callable[[], AutoencoderKL]] = MappingProxyType(
    {
        "sd": lambda: AutoencoderKL(**SD_CONFIG),
        "snapfusion": _snapfusion,
        "mobilediffusion": lambda: vae.build("ours", 128),
        "mobilediffusion-lite": lambda: vae.build("ours-lite", 128),
    }
)


def build(name: str) -> AutoencoderKL:
    """A full-size autoencoder with random weights, in eval mode, on torch's default device.

    The scaling factor of MobileDiffusion's is not published: it is 1 until training measures it, and is then saved in
    the config.

    Args:
        name: ``sd``, ``snapfusion``, ``mobilediffusion`` or ``mobilediffusion-lite``.

    Raises:
        BadInput: another name.
    """
    if name not in FULL_SIZE:
        raise unknown("autoencoder", name, FULL_SIZE)
    return FULL_SIZE[name]().eval()


def take_encoder(student: AutoencoderKL, teacher: AutoencoderKL) -> None:
    """Give a student with a lighter decoder its teacher's encoder, fixed, and the teacher's latent convention.

    Both papers train the light decoder alone: SnapFusion section 2.4, MobileDiffusion section 1.3. Weights are copied.

    Raises:
        BadInput: the encoders differ in shape.
    """
    for ours, theirs in zip(vae.encoder_parts(student), vae.encoder_parts(teacher), strict=True):
        shapes = [{name: value.shape for name, value in part.state_dict().items()} for part in (ours, theirs)]
        if shapes[0] != shapes[1]:
            raise BadInput("the two encoders differ in shape: a light decoder keeps its teacher's encoder")
        ours.load_state_dict(theirs.state_dict())
        ours.requires_grad_(False)
    convention = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
    student.register_to_config(**{name: teacher.config.get(name) for name in convention})
