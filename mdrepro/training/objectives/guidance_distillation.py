"""Progressive distillation conditioned on guidance (Meng et al., arXiv 2210.03142), the comparison in SnapFusion's
Table 2 and Fig. 6b: w is an input of the student, which needs no second branch.

Stage one teaches a network with that input what guidance by w makes of its teacher, at all noise levels. Stage two
halves its steps, as in `progressive`, w being an input of both. The w that the paper gives is ours less 1.
"""

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from mdrepro.core.errors import BadInput
from mdrepro.data.examples import Batch
from mdrepro.diffusion.guidance import at_guidance, guidance_width
from mdrepro.diffusion.noise import NoiseSchedule, per_sample, predict
from mdrepro.diffusion.protocols import Scheduler
from mdrepro.models.mobilediffusion.unet import with_guidance_input
from mdrepro.training.engine.draws import Draws
from mdrepro.training.engine.objective import Phase
from mdrepro.training.objectives.inputs import Inputs, Training
from mdrepro.training.objectives.kinds import DENOISER, Kind, register
from mdrepro.training.objectives.progressive import (
    clean_target,
    predict_guided,
    student_times,
    truncated_snr_weight,
    two_steps,
)

RANGE = (1.0, 14.0)
"""From no guidance to the end of SnapFusion's CFG range."""


class _OnGuidance:
    """What both stages have in common: a student and a teacher, w drawn for each sample, an error in x0."""

    phases: tuple[Phase, ...] = (Phase("unet", ("unet",)),)

    def __init__(
        self,
        unet: ModelMixin,
        teacher: nn.Module,
        scheduler: Scheduler,
        null_text: Tensor,
        guidance: tuple[float, float],
    ) -> None:
        width = guidance_width(unet)
        if width is None:
            raise BadInput(
                "the student has no guidance input: allowed are networks that were trained from stage one on"
            )
        if not 1 <= guidance[0] <= guidance[1]:
            raise BadInput(f"guidance {guidance}: allowed is a range from 1 (no guidance) upwards")
        self.networks: dict[str, nn.Module] = {"unet": unet}
        self.frozen: dict[str, nn.Module] = {"teacher": teacher}
        self.ema: dict[str, nn.Module] = {}
        self.schedule = NoiseSchedule.from_scheduler(scheduler)
        self.null_text, self.guidance, self.width = null_text, guidance, width

    def _error(self, x_t: Tensor, t_b: Tensor, text_btc: Tensor, guidance_b: Tensor, target: Tensor) -> Tensor:
        """max(a_t^2 / s_t^2, 1) ||x(z_t, w) - target||^2, a scalar (arXiv 2210.03142, eq. 4 and algorithm 2)."""
        student = at_guidance(self.networks["unet"], guidance_b, self.width)
        error_b = per_sample((self.schedule.x0(predict(student, x_t, t_b, text_btc), x_t, t_b) - target).square())
        return torch.mean(truncated_snr_weight(self.schedule, t_b) * error_b)


class GuidanceDistillation(_OnGuidance):
    """Objective: stage one, a student with w as an input from a teacher that w guides (section 3.1 and algorithm 1).

    Batches need ``latent`` and ``text``.

    Args:
        unet: the student, with a guidance input (`mdrepro.diffusion.guidance`).
        teacher: a denoiser without; both predict what the scheduler's config says.
        scheduler: a diffusers scheduler, for its noise levels and prediction type.
        null_text: features of the empty text, (tokens, width).
        guidance: the range that w is drawn from, uniformly, for each sample.

    Raises:
        BadInput: a student without that input, or a range that is empty or begins under 1.
    """

    def __init__(
        self,
        unet: ModelMixin,
        teacher: nn.Module,
        scheduler: Scheduler,
        null_text: Tensor,
        *,
        guidance: tuple[float, float] = RANGE,
    ) -> None:
        super().__init__(unet, teacher, scheduler, null_text, guidance)

    def losses(self, phase: str, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        x0, text_btc, schedule = batch["latent"], batch["text"], self.schedule
        t_b = draws.integers(0, schedule.total)
        x_t = schedule.add_noise(x0, draws.normal(*x0.shape[1:]), t_b)
        w = draws.uniform(*self.guidance)
        with torch.no_grad():
            _, guided = predict_guided(self.frozen["teacher"], x_t, t_b, text_btc, self.null_text, w)
            target = schedule.x0(guided, x_t, t_b)
        return {"loss": self._error(x_t, t_b, text_btc, w, target)}


class ConditionedProgressiveDistillation(_OnGuidance):
    """Objective: stage two, a student of ``steps`` DDIM steps from a teacher of twice as many (section 3.2).

    Batches need ``latent`` and ``text``.

    Args:
        unet: the student, a copy of its teacher.
        teacher: a denoiser with a guidance input too.
        scheduler, null_text, guidance: as for `GuidanceDistillation`.
        steps: of the student.

    Raises:
        BadInput: as `GuidanceDistillation`.
    """

    def __init__(
        self,
        unet: ModelMixin,
        teacher: nn.Module,
        scheduler: Scheduler,
        null_text: Tensor,
        *,
        steps: int,
        guidance: tuple[float, float] = RANGE,
    ) -> None:
        super().__init__(unet, teacher, scheduler, null_text, guidance)
        self.steps = steps

    def losses(self, phase: str, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        x0, text_btc, schedule = batch["latent"], batch["text"], self.schedule
        times = student_times(schedule, self.steps, draws)
        x_t = schedule.add_noise(x0, draws.normal(*x0.shape[1:]), times[0])
        w = draws.uniform(*self.guidance)
        with torch.no_grad():
            teacher = at_guidance(self.frozen["teacher"], w, self.width)
            x_later = two_steps(teacher, schedule, x_t, times, text_btc, self.null_text, None)
            target = clean_target(schedule, x_t, x_later, times[0], times[2])
        return {"loss": self._error(x_t, times[0], text_btc, w, target)}


def _build(inputs: Inputs) -> Training:
    unet, teacher = inputs.denoiser(), inputs.teacher()
    student = with_guidance_input(unet)
    return inputs.on_latents(
        GuidanceDistillation(student, teacher, inputs.scheduler, inputs.null_text, **inputs.options)
    )


def _build_conditioned(inputs: Inputs) -> Training:
    networks = inputs.denoiser(), inputs.teacher()
    return inputs.on_latents(
        ConditionedProgressiveDistillation(*networks, inputs.scheduler, inputs.null_text, **inputs.options)
    )


register(Kind(name="guidance", build=_build, needs=DENOISER, options=(GuidanceDistillation,)))
register(
    Kind(name="conditioned", build=_build_conditioned, needs=DENOISER, options=(ConditionedProgressiveDistillation,))
)
