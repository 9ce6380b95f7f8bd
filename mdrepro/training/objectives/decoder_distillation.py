"""A light decoder for the latents of a trained autoencoder, as each paper trains it.

SnapFusion: student and teacher decode the same latents, which the diffusion model samples; the loss is the squared
difference of the two images, nothing else. MobileDiffusion: the student decodes latents of real images, computed by the
teacher's encoder, which is fixed, and learns the images themselves.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from mdrepro.data.examples import Batch
from mdrepro.models import latents
from mdrepro.models.autoencoders import take_encoder
from mdrepro.models.mobilediffusion import vae
from mdrepro.training.engine.draws import Draws
from mdrepro.training.engine.objective import Networks, Phase
from mdrepro.training.objectives.autoencoder import (
    DecoderHalf,
    EncoderHalf,
    ImageObjective,
    Terms,
    initial,
    reconstruction_loss,
    take_halves,
)
from mdrepro.training.objectives.inputs import Inputs, Training
from mdrepro.training.objectives.kinds import Kind, register


class DecoderDistillation(Networks):
    """Objective (SnapFusion): mean squared difference between the student's and the teacher's image, not clamped.

    Batches need ``latent``. The student is given the teacher's encoder and latent convention. Raises BadInput where the
    encoders differ in shape.
    """

    phases: ClassVar[tuple[Phase, ...]] = (Phase("decoder", ("decoder",)),)

    def __init__(self, student: AutoencoderKL, teacher: AutoencoderKL) -> None:
        take_encoder(student, teacher)
        self.model = student
        self.keep({"decoder": DecoderHalf(student)}, {"teacher": DecoderHalf(teacher)})

    def losses(self, phase: str, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        z = latents.unscale(self.model, batch["latent"])
        with torch.no_grad():
            target = self.frozen["teacher"](z)
        return {"loss": reconstruction_loss(target, self.networks["decoder"](z), 2)}

    def finish(self, networks: Mapping[str, nn.Module]) -> AutoencoderKL:
        """The student with its trained decoder; see `take_halves`."""
        return take_halves(self.model, networks)


class LiteDecoder(ImageObjective):
    """Objective (MobileDiffusion): the student's decoder learns real images from the mean of their latent.

    The student is given the teacher's encoder, fixed, and its latent convention. Raises BadInput where the encoders
    differ in shape, and as `ImageObjective`.
    """

    name = "decoder"

    def __init__(self, student: AutoencoderKL, teacher: AutoencoderKL, terms: Terms = Terms()) -> None:
        take_encoder(student, teacher)
        super().__init__(student, terms, {"decoder": DecoderHalf(student)}, {"encoder": EncoderHalf(student)})

    def reconstruct(self, x: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            mean, _ = self.frozen["encoder"](x)
        return self.networks["decoder"](mean), {}

    def finish(self, networks: Mapping[str, nn.Module]) -> AutoencoderKL:
        """The student with its trained decoder; see `take_halves`."""
        return take_halves(self.model, networks)


def _build(inputs: Inputs) -> Training:
    student, examples = initial(inputs), inputs.examples()
    objective = LiteDecoder(student, inputs.parents["vae"].load("vae"), Terms(**inputs.options))
    return Training(objective, examples, lambda networks: {"vae": objective.finish(networks)})


register(
    Kind(
        name="decoder",
        build=_build,
        needs=("vae",),
        options=(Terms,),
        network=vae.build,
        captions=False,
        check=vae.configuration,
        gives="vae",
    )
)
