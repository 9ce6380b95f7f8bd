"""SnapFusion's decoder distillation (arXiv 2306.00980): a light decoder learns on synthetic latents.

A latent is sampled for each prompt and step by the frozen diffusion model, so that there is no end of data; student
and teacher decode it, and the loss is the squared difference of the two images. What the paper leaves open: guidance
(here 7.5), and the first weights of the pruned decoder (here drawn anew).
"""

import inspect

import torch
from diffusers import AutoencoderKL
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from mdrepro.core.errors import BadInput
from mdrepro.data.examples import Batch
from mdrepro.diffusion.noise import NoiseSchedule
from mdrepro.diffusion.protocols import Scheduler
from mdrepro.models import latents, text
from mdrepro.models.mobilediffusion import vae
from mdrepro.training.engine.draws import Draws
from mdrepro.training.objectives.decoder_distillation import DecoderDistillation
from mdrepro.training.objectives.inputs import Encoders, Inputs, Training
from mdrepro.training.objectives.kinds import DENOISER, Kind, register
from mdrepro.training.objectives.progressive import ddim


def pruned(teacher: AutoencoderKL, *, share: float = 0.5) -> vae.Autoencoder:
    """An autoencoder whose decoder has a share of its teacher's channels at every level, random weights.

    Half of Stable Diffusion's decoder has 12.39M parameters; the paper says 13M. Raises BadInput for widths that the
    groups of its norms do not divide.
    """
    known = inspect.signature(vae.Autoencoder.__init__).parameters
    config = {name: value for name, value in teacher.config.items() if name in known}
    widths = tuple(round(share * width) for width in teacher.config.block_out_channels)
    groups = config.get("decoder_norm_num_groups") or config["norm_num_groups"]
    if min(widths) < 1 or any(width % groups for width in widths):
        raise BadInput(f"share {share}: the decoder's widths would be {widths}; they must be multiples of {groups}")
    student = vae.Autoencoder(**config | {"decoder_block_out_channels": widths})
    vae.start_as_averages(student)
    return student


class SyntheticLatents(DecoderDistillation):
    """Objective: `DecoderDistillation` on latents that a diffusion model makes of the captions of a batch.

    Batches need ``caption``, and ``pixels`` for their size alone.

    Args:
        student: as in `DecoderDistillation`; its teacher is the autoencoder of ``encoders``.
        unet, scheduler: the denoiser, its noise levels and prediction type.
        steps: of DDIM.
        guidance: w, 1 is none.
    """

    def __init__(
        self,
        student: AutoencoderKL,
        encoders: Encoders,
        unet: ModelMixin,
        scheduler: Scheduler,
        *,
        steps: int = 50,
        guidance: float = 7.5,
    ) -> None:
        super().__init__(student, encoders.vae)
        self.frozen |= {"unet": unet, "text_encoder": encoders.text_encoder}
        self.schedule, self.encoders = NoiseSchedule.from_scheduler(scheduler), encoders
        self.null_text = encoders.null_text()
        self.times, self.guidance = self.schedule.trailing(steps), guidance
        self.channels: int = unet.config.in_channels

    def losses(self, phase: str, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        with torch.no_grad():
            latent = self.sample(batch, draws)
        return super().losses(phase, {**batch, "latent": latent}, draws)

    def sample(self, batch: Batch, draws: Draws) -> Tensor:
        """Scaled latents of the captions, (b, channels, height / 8, width / 8) for pixels of height and width."""
        height, width = (side // latents.factor(self.model) for side in batch["pixels"].shape[-2:])
        text_btc = text.encode(self.encoders.tokenizer, self.encoders.text_encoder, batch["caption"]).float()
        x_t = draws.normal(self.channels, height, width)
        times = [time.expand(len(x_t)).to(x_t.device) for time in self.times]
        guidance_b = None if self.guidance == 1 else torch.full((len(x_t),), self.guidance, device=x_t.device)
        return ddim(self.frozen["unet"], self.schedule, x_t, times, text_btc, self.null_text, guidance_b)


def _build(inputs: Inputs) -> Training:
    encoders, unet = inputs.encoders, inputs.parents["unet"].load("unet")
    student = pruned(encoders.vae, **inputs.recipe.network)
    objective = SyntheticLatents(student, encoders, unet, inputs.scheduler, **inputs.options)
    return Training(objective, inputs.examples(), lambda networks: {"vae": objective.finish(networks)})


register(Kind(name="synthetic", build=_build, needs=DENOISER, options=(SyntheticLatents,), network=pruned, gives="vae"))
