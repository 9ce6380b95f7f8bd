"""Progressive distillation (arXiv 2202.00512): one student step learns two DDIM steps of its teacher.

A chain of runs, each with the last student as teacher, halves the steps: 32 -> 16 -> 8. The paper's networks have no
guidance; here the first teacher of a chain may be guided by a fixed w, as in arXiv 2210.03142, which its students then
need no more.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, InitVar, dataclass
from typing import ClassVar, TypeAlias

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from mdrepro.core.errors import BadInput
from mdrepro.data.examples import Batch
from mdrepro.diffusion.noise import NoiseSchedule, per_sample, predict
from mdrepro.diffusion.protocols import Scheduler
from mdrepro.training.engine.draws import Draws
from mdrepro.training.engine.objective import Networks, Phase
from mdrepro.training.objectives.diffusion import check_drop, drop_text
from mdrepro.training.objectives.inputs import Inputs, Training
from mdrepro.training.objectives.kinds import DENOISER, Kind, register

Net: TypeAlias = Callable[..., tuple[Tensor]]
"""A denoiser, as `mdrepro.diffusion.noise.predict` calls it."""


def guide(conditional: Tensor, null: Tensor, guidance_b: Tensor) -> Tensor:
    """w v(c) - (w - 1) v(empty), SnapFusion's guidance (w = 1: none); the same for e and x0 at a given x_t."""
    w = guidance_b.reshape(-1, *[1] * (conditional.ndim - 1))
    return w * conditional - (w - 1) * null


def predict_guided(
    net: Net, x_t: Tensor, t_b: Tensor, text_btc: Tensor, null_tc: Tensor, guidance_b: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The prediction without and with guidance, both shaped as ``x_t``, from one call of the network.

    ``net``, ``x_t``, ``t_b``, ``text_btc``: the denoiser and its arguments. ``null_tc``: features of the empty text,
    (tokens, width). ``guidance_b``: w of each sample; None for no guidance, which leaves the empty text's branch out.
    """
    if guidance_b is None:
        conditional = predict(net, x_t, t_b, text_btc)
        return conditional, conditional
    null_btc = null_tc.to(text_btc).expand_as(text_btc)
    out = predict(net, torch.cat([x_t, x_t]), torch.cat([t_b, t_b]), torch.cat([text_btc, null_btc]))
    conditional, null = out.chunk(2)
    return conditional, guide(conditional, null, guidance_b)


def ddim(
    net: Net,
    schedule: NoiseSchedule,
    x_t: Tensor,
    times: Sequence[Tensor],
    text_btc: Tensor,
    null_tc: Tensor,
    guidance_b: Tensor | None,
) -> Tensor:
    """z at the last of ``times``, each (b,), after (guided) DDIM steps from one to the next, from z at the first.

    With three times, the two steps of arXiv 2202.00512, algorithm 2, and SnapFusion eq. 7.
    """
    for now, after in itertools.pairwise(times):
        _, prediction = predict_guided(net, x_t, now, text_btc, null_tc, guidance_b)
        clean, noise = schedule.x0(prediction, x_t, now), schedule.noise(prediction, x_t, now)
        x_t = schedule.add_noise(clean, noise, after)
    return x_t


def clean_target(schedule: NoiseSchedule, x_t: Tensor, x_later: Tensor, t_b: Tensor, later_b: Tensor) -> Tensor:
    """The x0 from which a single DDIM step t -> t'' reaches z_t'' (arXiv 2202.00512, algorithm 2 and appendix G).

    (z_t'' - (s_t'' / s_t) z_t) / (a_t'' - (s_t'' / s_t) a_t); with t'' = CLEAN it is z_t'' itself.
    """
    signal, spread = schedule.level(t_b, x_t)
    signal_later, spread_later = schedule.level(later_b, x_t)
    ratio = spread_later / spread
    return (x_later - ratio * x_t) / (signal_later - ratio * signal)


def x0_loss(schedule: NoiseSchedule, prediction: Tensor, target: Tensor, x_t: Tensor, t_b: Tensor) -> Tensor:
    """max(a_t^2 / s_t^2, 1) ||x0 - target||^2, a scalar; x0 is what the student's prediction at t implies.

    arXiv 2202.00512, section 4; SnapFusion eq. 9; arXiv 2210.03142, eq. 4.
    """
    error_b = per_sample((schedule.x0(prediction, x_t, t_b) - target).square())
    return torch.mean(schedule.snr(t_b).clamp(min=1) * error_b)


def student_times(
    schedule: NoiseSchedule, steps: int, draws: Draws, teacher_steps: int | None = None
) -> tuple[Tensor, ...]:
    """t, t', t'', ..., each (b,): a random one of the student's ``steps`` steps, divided into those of its teacher.

    They are the times that a scheduler with ``timestep_spacing="trailing"`` visits, so that the student is trained
    where it will be sampled; the last step ends at CLEAN. ``teacher_steps`` are a multiple of ``steps``; None is twice
    as many, which gives three times. Raises BadInput for other numbers of steps.
    """
    if not 1 <= 2 * steps <= schedule.total:
        raise BadInput(f"a student of {steps} steps: it must have 1 to {schedule.total // 2}")
    taught = 2 * steps if teacher_steps is None else teacher_steps
    if taught % steps or not 2 * steps <= taught <= schedule.total:
        raise BadInput(
            f"a teacher of {taught} steps for a student of {steps}: it must have {2 * steps}, {3 * steps} and so on to "
            f"{schedule.total}"
        )
    each = taught // steps
    step_b = each * draws.integers(0, steps)
    times = schedule.trailing(taught).to(step_b.device)
    return tuple(times[step_b + index] for index in range(each + 1))


@dataclass(eq=False)
class Student(Networks):
    """What objectives share in which a denoiser learns from another. Batches need ``latent`` and ``text``.

    Args:
        unet: the student, usually a copy of its teacher.
        teacher: the denoiser that it learns from; both predict what the scheduler's config says.
        scheduler, null_text: as in `mdrepro.training.objectives.diffusion.Diffusion`.
    """

    phases: ClassVar[tuple[Phase, ...]] = (Phase("unet", ("unet",)),)
    unet: InitVar[nn.Module]
    teacher: InitVar[nn.Module]
    scheduler: InitVar[Scheduler]
    null_text: Tensor

    def __post_init__(self, unet: nn.Module, teacher: nn.Module, scheduler: Scheduler) -> None:
        self.keep({"unet": unet}, {"teacher": teacher})
        self.schedule = NoiseSchedule.from_scheduler(scheduler)
        self.check()

    def check(self) -> None:
        """Raise BadInput for options that are not allowed."""


@dataclass(eq=False)
class ProgressiveDistillation(Student):
    """Objective: a student of ``steps`` DDIM steps from a teacher of twice as many, guided by w; 1 is no guidance.

    ``drop``: share of samples whose text is the empty one, of student and teacher alike; from 0 to 1, BadInput for
    others. A student that is to be guided needs some: it learns the empty text's branch from these alone.
    """

    _: KW_ONLY
    steps: int
    guidance: float = 1.0
    drop: float = 0.0

    def check(self) -> None:
        check_drop(self.drop)

    def losses(self, phase: str, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        x0 = batch["latent"]
        times = student_times(self.schedule, self.steps, draws)
        x_t = self.schedule.add_noise(x0, draws.normal(*x0.shape[1:]), times[0])
        text_btc = drop_text(batch["text"], self.null_text, draws.uniform() < self.drop)
        with torch.no_grad():
            guidance_b = None if self.guidance == 1 else torch.full((len(x0),), self.guidance, device=x0.device)
            x_later = ddim(self.frozen["teacher"], self.schedule, x_t, times, text_btc, self.null_text, guidance_b)
            target = clean_target(self.schedule, x_t, x_later, times[0], times[2])
        prediction = predict(self.networks["unet"], x_t, times[0], text_btc)
        return {"loss": x0_loss(self.schedule, prediction, target, x_t, times[0])}


def register_student(
    name: str, objective: type[Student], change: Callable[[ModelMixin], ModelMixin] | None = None
) -> None:
    """Register a kind of run in which a denoiser learns from another; ``change`` as in `Inputs.student`."""

    def build(inputs: Inputs) -> Training:
        return inputs.on_latents(inputs.student(objective, change))

    register(Kind(name=name, build=build, needs=DENOISER, options=(objective,)))


register_student("progressive", ProgressiveDistillation)
