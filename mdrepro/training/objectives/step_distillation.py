"""SnapFusion's step distillation (arXiv 2306.00980, section 4 and appendix D): CFG-aware, with the original loss.

One student step learns two DDIM steps of its teacher, as in `progressive`, or more of them (Fig. 7c); in a share of the
iterations both are guided, so that the student keeps what guidance does. Direct (32 -> 16, 16 -> 8) and progressive
chains are recipes.

What the paper leaves open: L_ori is rescaled by stop_grad(L_dstl / L_ori), both means over the micro-batch, and taken
at the z_t, t and text of L_dstl and without guidance, so that it costs no evaluation; times are the N that the
student's DDIM steps will start from, not all of U[0, 1]; a share of the samples has the empty text, which the student
learns nowhere else but in L_cfg, and with which it is sampled.
"""

import random
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from mdrepro.core.errors import BadInput, check
from mdrepro.data.examples import Batch
from mdrepro.diffusion.noise import NoiseSchedule
from mdrepro.training.engine.draws import Draws
from mdrepro.training.objectives.diffusion import check_drop, drop_text
from mdrepro.training.objectives.progressive import (
    Student,
    clean_target,
    ddim,
    predict_guided,
    register_student,
    student_times,
    x0_loss,
)

SCALINGS = ("dynamic", "constant")


def original_loss(
    schedule: NoiseSchedule, student: Tensor, x0: Tensor, noise: Tensor, x_t: Tensor, t_b: Tensor
) -> Tensor:
    """L_ori = ||v_student - v||^2 with v = a_t e - s_t x0 (SnapFusion eq. 6), a scalar; ``student`` is not guided."""
    signal, spread = schedule.level(t_b, x_t)
    v = signal * noise - spread * x0
    return torch.mean((schedule.v(student, x_t, t_b) - v).square())


def dynamic(gamma: float, original: Tensor, distillation: Tensor) -> Tensor:
    """gamma L_ori stop_grad(L_dstl / L_ori): worth gamma L_dstl, with the gradient of L_ori."""
    return gamma * original * (distillation / original.clamp(min=1e-12)).detach()


@dataclass(eq=False)
class StepDistillation(Student):
    """Objective: L = L_dstl + gamma L_ori (SnapFusion eq. 11) for a student of ``steps`` DDIM steps.

    The student begins with its own version of twice as many steps. Raises BadInput for options that are not allowed.

    Args:
        unet, teacher, scheduler, null_text: see `Student`.
        steps: N of the student.
        probability: p, the share of iterations whose L_dstl is L_cfg; in the others it is L_vani.
        guidance: the CFG range that w is drawn from, uniformly, for each sample; from 1.
        gamma: weight of the original loss after its rescaling; 0 leaves it out.
        teacher_steps: of which one student step learns ``teacher_steps / steps``; None for twice the student's.
        scaling: of the original loss: ``dynamic``, to the size of L_dstl, or ``constant``, none (Fig. 7b).
        drop: share of samples whose text is the empty one in all losses, of student and teacher alike, from 0 to 1.
    """

    _: KW_ONLY
    steps: int
    probability: float = 0.1
    guidance: tuple[float, float] = (2.0, 14.0)
    gamma: float = 0.2
    teacher_steps: int | None = None
    scaling: str = SCALINGS[0]
    drop: float = 0.0

    def check(self) -> None:
        if not (0 <= self.probability <= 1 and 1 <= self.guidance[0] <= self.guidance[1] and self.gamma >= 0):
            raise BadInput(
                f"probability {self.probability}, guidance {self.guidance}, gamma {self.gamma}: they must be a "
                "probability from 0 to 1, a range from 1 (no guidance) upwards, and a number from 0"
            )
        check("scaling", self.scaling, SCALINGS)
        check_drop(self.drop)

    def losses(self, phase: str, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        x0, schedule = batch["latent"], self.schedule
        times = student_times(schedule, self.steps, draws, self.teacher_steps)
        noise = draws.normal(*x0.shape[1:])
        x_t = schedule.add_noise(x0, noise, times[0])
        aware = random.Random(draws.seed()).random() < self.probability
        guidance_b = draws.uniform(*self.guidance) if aware else None
        text_btc = drop_text(batch["text"], self.null_text, draws.uniform() < self.drop)
        with torch.no_grad():
            x_later = ddim(self.frozen["teacher"], schedule, x_t, times, text_btc, self.null_text, guidance_b)
            target = clean_target(schedule, x_t, x_later, times[0], times[-1])
        student = self.networks["unet"]
        conditional, guided = predict_guided(student, x_t, times[0], text_btc, self.null_text, guidance_b)
        distillation = x0_loss(schedule, guided, target, x_t, times[0])
        original = original_loss(schedule, conditional, x0, noise, x_t, times[0])
        constant = self.scaling == "constant"
        weighted = self.gamma * original if constant else dynamic(self.gamma, original, distillation)
        return {"loss": distillation + weighted, "distillation": distillation, "original": original}


register_student("steps", StepDistillation)
