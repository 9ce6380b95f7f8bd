"""Noise levels, the three kinds of prediction, and the deterministic step between two levels.

Notation of SnapFusion: z_t = a_t x + s_t e with a = sqrt(alpha-bar) and s = sqrt(1 - alpha-bar);
v = a_t e - s_t x (arXiv 2202.00512, appendix D).
"""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from mdrepro.core.errors import BadInput, check
from mdrepro.diffusion.protocols import Scheduler

PREDICTIONS = ("epsilon", "v_prediction", "sample")

CLEAN = -1
"""The time after the last step: a = 1 and s = 0, or what the scheduler's ``set_alpha_to_one=False`` makes of it."""


class NoiseSchedule:
    """a_t and s_t of a diffusers scheduler, and the conversions between epsilon, v and x0 (``sample``).

    Times are integers, one a sample: 0 (least noise) to ``total`` - 1, and `CLEAN`. Levels are computed in float64 and
    given as float32, or as float64 where the data is.

    ``alphas_cumprod``: alpha-bar of the times 0..T-1, (T,); ``clean`` is that of `CLEAN`. ``prediction_type``: what the
    network predicts, of `PREDICTIONS`.

    Raises:
        BadInput: another prediction type, or ``epsilon`` with a level of pure noise, where it does not determine x0.
    """

    def __init__(self, alphas_cumprod: Tensor, prediction_type: str, clean: float = 1.0) -> None:
        check("prediction_type", prediction_type, PREDICTIONS)
        if prediction_type == "epsilon" and float(alphas_cumprod.min()) <= 0:
            raise BadInput("epsilon does not determine x0 at a level of pure noise: expected v_prediction or sample")
        self.total, self.prediction_type = len(alphas_cumprod), prediction_type
        kept = torch.cat([alphas_cumprod.double().cpu(), torch.tensor([clean], dtype=torch.float64)])
        self._levels = torch.stack([kept.sqrt(), (1 - kept).sqrt()])  # CLEAN, -1, finds the last column

    @classmethod
    def from_scheduler(cls, scheduler: Scheduler) -> Self:
        """The levels of any diffusers scheduler that has ``alphas_cumprod``, and its config's prediction type."""
        clean = float(getattr(scheduler, "final_alpha_cumprod", 1.0))
        return cls(scheduler.alphas_cumprod, scheduler.config.prediction_type, clean)

    def level(self, t_b: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """a_t and s_t, (b, 1, ...) with as many dimensions as ``like`` has."""
        if self._levels.device != like.device:
            self._levels = self._levels.to(like.device)
        kind = torch.promote_types(like.dtype, torch.float32)
        signal, spread = self._levels[:, t_b].to(kind).reshape(2, -1, *[1] * (like.ndim - 1))
        return signal, spread

    def snr(self, t_b: Tensor) -> Tensor:
        """Signal-to-noise ratio a_t^2 / s_t^2, (b,)."""
        signal, spread = self.level(t_b, torch.empty(0, device=t_b.device))
        return (signal / spread).square()

    def add_noise(self, x0: Tensor, noise: Tensor, t_b: Tensor) -> Tensor:
        """z_t = a_t x0 + s_t e. With predicted x0 and e it is DDIM's step to t (arXiv 2010.02502, eq. 12, eta 0)."""
        signal, spread = self.level(t_b, x0)
        return signal * x0 + spread * noise

    def target(self, x0: Tensor, noise: Tensor, t_b: Tensor) -> Tensor:
        """The network's target at t: e, a_t e - s_t x0, or x0."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return x0
        signal, spread = self.level(t_b, x0)
        return signal * noise - spread * x0

    def x0(self, prediction: Tensor, x_t: Tensor, t_b: Tensor) -> Tensor:
        """The clean latent that a prediction at t implies."""
        if self.prediction_type == "sample":
            return prediction
        signal, spread = self.level(t_b, x_t)
        if self.prediction_type == "v_prediction":
            return signal * x_t - spread * prediction
        return (x_t - spread * prediction) / signal

    def noise(self, prediction: Tensor, x_t: Tensor, t_b: Tensor) -> Tensor:
        """The noise e that a prediction at t implies."""
        if self.prediction_type == "epsilon":
            return prediction
        signal, spread = self.level(t_b, x_t)
        if self.prediction_type == "v_prediction":
            return spread * x_t + signal * prediction
        return (x_t - signal * prediction) / spread

    def v(self, prediction: Tensor, x_t: Tensor, t_b: Tensor) -> Tensor:
        """The v that a prediction at t implies."""
        if self.prediction_type == "v_prediction":
            return prediction
        signal, spread = self.level(t_b, x_t)
        if self.prediction_type == "sample":
            return (signal * x_t - prediction) / spread
        return (prediction - spread * x_t) / signal

    def trailing(self, steps: int) -> Tensor:
        """The times that ``steps`` steps of a scheduler with ``timestep_spacing="trailing"`` visit, and `CLEAN`.

        (steps + 1,), falling: 999, 749, 499, 249, -1 for 4 of 1000. Raises BadInput for steps that are not 1 to T.
        """
        if not 1 <= steps <= self.total:
            raise BadInput(f"{steps} steps: it must be 1 to {self.total}")
        times = [round(self.total - index * self.total / steps) - 1 for index in range(steps)]
        return torch.tensor([*times, CLEAN])


def predict(net: Callable[..., Any], x_t: Tensor, t_b: Tensor, text_btc: Tensor) -> Tensor:
    """A denoiser's prediction, shaped as ``x_t``, in float32 at least whatever the type that it computes in."""
    out: Tensor = net(x_t, t_b, text_btc, return_dict=False)[0]
    return out.to(torch.promote_types(out.dtype, torch.float32))


def per_sample(error: Tensor) -> Tensor:
    """Mean over all but the first dimension, (b,)."""
    return error.flatten(1).mean(dim=1)
