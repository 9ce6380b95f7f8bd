"""Latent consistency distillation (LCM, arXiv 2310.04378): a guided trajectory's points are mapped to its end.

The comparison that few-step papers name. Sampled with diffusers' LCMScheduler. As in the authors' later LoRA variant
(arXiv 2311.05556) w is not an input of the network.
"""

from dataclasses import KW_ONLY, dataclass

import torch
from diffusers import LCMScheduler
from torch import Tensor

from mdrepro.core.errors import BadInput
from mdrepro.data.examples import Batch
from mdrepro.diffusion.noise import NoiseSchedule, predict
from mdrepro.training.engine.draws import Draws
from mdrepro.training.objectives.inputs import Inputs, Training
from mdrepro.training.objectives.kinds import DENOISER, Kind, register
from mdrepro.training.objectives.progressive import Net, Student, ddim

SIGMA_DATA = 0.5
TIMESTEP_SCALING = 10.0


def boundary_scalings(t_b: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """c_skip and c_out, broadcastable to ``like``: 1 and 0 at t = 0 (arXiv 2303.01469, section 3, LCM's values)."""
    scaled = TIMESTEP_SCALING * t_b.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))
    return SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2), scaled / (scaled**2 + SIGMA_DATA**2).sqrt()


def consistency_function(net: Net, schedule: NoiseSchedule, x_t: Tensor, t_b: Tensor, text_btc: Tensor) -> Tensor:
    """f(z, c, t) = c_skip(t) z + c_out(t) x0(z, c, t) (LCM section 4.1)."""
    skip, out = boundary_scalings(t_b, x_t)
    return skip * x_t + out * schedule.x0(predict(net, x_t, t_b, text_btc), x_t, t_b)


def pseudo_huber(error: Tensor, c: float) -> Tensor:
    """Mean of sqrt(error^2 + c^2) - c (arXiv 2310.14189, for each value here)."""
    return torch.mean((error.square() + c**2).sqrt() - c)


@dataclass(eq=False)
class ConsistencyDistillation(Student):
    """Objective: ||f(z_{t_{n+k}}) - f_ema(z_{t_n})|| (LCM algorithm 1); BadInput from a loop without EMA, its target.

    Args:
        unet, teacher, scheduler, null_text: see `Student`; the student begins as a copy of its teacher.
        solver_steps: over how many DDIM steps T is divided, 1 to T; the skipping step k is T / solver_steps.
        guidance: range of w, from 1, drawn uniformly for each sample; (w, w) fixes it.
        huber: c of `pseudo_huber`.
    """

    _: KW_ONLY
    solver_steps: int = 50
    guidance: tuple[float, float] = (3.0, 15.0)
    huber: float = 0.001

    def check(self) -> None:
        if not (1 <= self.guidance[0] <= self.guidance[1] and 1 <= self.solver_steps <= self.schedule.total):
            raise BadInput(
                f"guidance {self.guidance}, solver_steps {self.solver_steps}: they must be a range from 1 (no "
                f"guidance) upwards, and 1 to {self.schedule.total} steps"
            )

    def losses(self, phase: str, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        if "unet" not in self.ema:
            raise BadInput("consistency distillation needs the average of its network as target: ema must be above 0")
        x0, text_btc, schedule = batch["latent"], batch["text"], self.schedule
        skip = schedule.total // self.solver_steps
        t_b = skip * draws.integers(1, self.solver_steps + 1) - 1  # the times that LCMScheduler starts from
        later_b = (t_b - skip).clamp(min=0)
        x_t = schedule.add_noise(x0, draws.normal(*x0.shape[1:]), t_b)
        w = draws.uniform(*self.guidance)
        with torch.no_grad():  # one guided step of the teacher (LCM sections 4.2, 4.3; w is its 1 + omega)
            x_later = ddim(self.frozen["teacher"], schedule, x_t, (t_b, later_b), text_btc, self.null_text, w)
            target = consistency_function(self.ema["unet"], schedule, x_later, later_b, text_btc)
        endpoint = consistency_function(self.networks["unet"], schedule, x_t, t_b, text_btc)
        return {"loss": pseudo_huber(endpoint - target, self.huber)}


def _build(inputs: Inputs) -> Training:
    objective = inputs.student(ConsistencyDistillation)
    sampler = LCMScheduler.from_config(
        inputs.scheduler.config, original_inference_steps=objective.solver_steps, timestep_spacing="leading"
    )
    return inputs.on_latents(objective, scheduler=sampler)


register(Kind(name="consistency", build=_build, needs=DENOISER, options=(ConsistencyDistillation,), sampler=None))
