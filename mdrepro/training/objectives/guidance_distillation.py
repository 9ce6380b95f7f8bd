"""Progressive distillation conditioned on guidance (Meng et al., arXiv 2210.03142), the comparison in SnapFusion's
Table 2 and Fig. 6b: w is an input of the student, which needs no second branch.

Stage one teaches a network with that input what guidance by w makes of its teacher, at all noise levels. Stage two
halves its steps, as in `progressive`, w being an input of both. The w that the paper gives is ours less 1.
"""

from dataclasses import KW_ONLY, dataclass
from typing import cast

import torch
from torch import Tensor

from mdrepro.core.errors import BadInput
from mdrepro.data.examples import Batch
from mdrepro.diffusion.guidance import at_guidance, guidance_width
from mdrepro.diffusion.noise import predict
from mdrepro.diffusion.protocols import Configured
from mdrepro.models.mobilediffusion.unet import with_guidance_input
from mdrepro.training.engine.draws import Draws
from mdrepro.training.objectives.progressive import (
    Student,
    clean_target,
    ddim,
    predict_guided,
    register_student,
    student_times,
    x0_loss,
)


@dataclass(eq=False)
class GuidanceDistillation(Student):
    """Objective: stage one, a student with w as an input from a teacher that w guides (section 3.1 and algorithm 1).

    Args:
        unet: the student, with a guidance input (`mdrepro.diffusion.guidance`).
        teacher: a denoiser without.
        scheduler, null_text: see `Student`.
        guidance: the range that w is drawn from, uniformly, for each sample; by default from no guidance to the end of
            SnapFusion's CFG range.
    """

    _: KW_ONLY
    guidance: tuple[float, float] = (1.0, 14.0)

    def check(self) -> None:
        width = guidance_width(cast(Configured, self.networks["unet"]))
        if width is None:
            raise BadInput("the student has no guidance input: it must be a network that was trained from stage one on")
        if not 1 <= self.guidance[0] <= self.guidance[1]:
            raise BadInput(f"guidance {self.guidance}: it must be a range from 1 (no guidance) upwards")
        self.width = width

    def losses(self, phase: str, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        x0, text_btc, schedule = batch["latent"], batch["text"], self.schedule
        t_b = draws.integers(0, schedule.total)
        x_t = schedule.add_noise(x0, draws.normal(*x0.shape[1:]), t_b)
        w = draws.uniform(*self.guidance)
        with torch.no_grad():
            _, guided = predict_guided(self.frozen["teacher"], x_t, t_b, text_btc, self.null_text, w)
            target = schedule.x0(guided, x_t, t_b)
        return {"loss": self._error(x_t, t_b, text_btc, w, target)}

    def _error(self, x_t: Tensor, t_b: Tensor, text_btc: Tensor, guidance_b: Tensor, target: Tensor) -> Tensor:
        student = at_guidance(self.networks["unet"], guidance_b, self.width)
        return x0_loss(self.schedule, predict(student, x_t, t_b, text_btc), target, x_t, t_b)


@dataclass(eq=False)
class ConditionedProgressiveDistillation(GuidanceDistillation):
    """Objective: stage two, a student of ``steps`` DDIM steps from a teacher of twice as many (section 3.2).

    Both have the guidance input; the student begins as a copy of its teacher. Arguments and errors are otherwise those
    of `GuidanceDistillation`.
    """

    _: KW_ONLY
    steps: int

    def losses(self, phase: str, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        x0, text_btc, schedule = batch["latent"], batch["text"], self.schedule
        times = student_times(schedule, self.steps, draws)
        x_t = schedule.add_noise(x0, draws.normal(*x0.shape[1:]), times[0])
        w = draws.uniform(*self.guidance)
        with torch.no_grad():
            teacher = at_guidance(self.frozen["teacher"], w, self.width)
            x_later = ddim(teacher, schedule, x_t, times, text_btc, self.null_text, None)
            target = clean_target(schedule, x_t, x_later, times[0], times[2])
        return {"loss": self._error(x_t, times[0], text_btc, w, target)}


register_student("guidance", GuidanceDistillation, with_guidance_input)
register_student("conditioned", ConditionedProgressiveDistillation)
