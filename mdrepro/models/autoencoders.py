"""The papers' autoencoders at full size; `mdrepro.models.mobilediffusion.vae` builds their layouts at any width.

What SnapFusion kept wider to come to 13M is not published.
"""

from diffusers import AutoencoderKL

from mdrepro.core.errors import BadInput, check
from mdrepro.models import systems
from mdrepro.models.mobilediffusion import vae


def build(name: str) -> AutoencoderKL:
    """A full-size autoencoder with random weights, in eval mode, on torch's default device.

    The scaling factor of MobileDiffusion's is not published: it is 1 until training measures it, and is then saved in
    the config. Raises BadInput for a name that is not in `systems.autoencoders`, such as ``mobilediffusion-lite``.
    """
    known = systems.autoencoders()
    row = known[check("autoencoder", name, known)]
    config = vae.arguments(row.layout, systems.WIDTH) | dict(row.config)
    if row.layout.decoder_share == 1 and row.layout.decoder_resnets == vae.ENCODER_RESNETS + 1:  # diffusers' own
        return AutoencoderKL(**{key: value for key, value in config.items() if not key.startswith("decoder_")}).eval()
    return vae.Autoencoder(**config).eval()


def take_encoder(student: AutoencoderKL, teacher: AutoencoderKL) -> None:
    """Give a student with a lighter decoder its teacher's encoder, fixed, and the teacher's latent convention.

    Both papers train the light decoder alone. Weights are copied. Raises BadInput where the encoders differ in shape.
    """
    for ours, theirs in zip(vae.encoder_parts(student), vae.encoder_parts(teacher), strict=True):
        shapes = [{name: value.shape for name, value in part.state_dict().items()} for part in (ours, theirs)]
        if shapes[0] != shapes[1]:
            raise BadInput("the two encoders differ in shape: a light decoder keeps its teacher's encoder")
        ours.load_state_dict(theirs.state_dict())
        ours.requires_grad_(False)
    convention = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
    student.register_to_config(**{name: teacher.config.get(name) for name in convention})
