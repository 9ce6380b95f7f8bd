"""Samplers in numpy: DDIM (arXiv 2010.02502, eta 0) and UFOGen's re-noising (arXiv 2311.09257), as in PyTorch.

Levels are alpha-bar of every timestep, read from the file as the checkpoint's scheduler had them. With
a = sqrt(alpha-bar) and s = sqrt(1 - alpha-bar), a prediction is noise e (``epsilon``), a e - s x0 (``v_prediction``) or
x0 (``sample``). Importing this module imports numpy alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mdrepro.core.errors import BadInput, check

Array = NDArray[Any]

ALLOWED = {
    "sampler": ("ddim", "renoise"),
    "prediction": ("epsilon", "v_prediction", "sample"),
    "spacing": ("trailing", "leading", "linspace"),
}


@dataclass(frozen=True)
class Schedule:
    """How an image is sampled. Raises BadInput for a name that is not in `ALLOWED`.

    Args:
        prediction: what the denoiser gives.
        levels: alpha-bar of every timestep, from the cleanest on.
        clean: alpha-bar after the last step, of DDIM.
        spacing: of DDIM's steps; ``leading`` adds ``offset``.
        clip: DDIM's x0 is clipped to -clip..clip; None for not at all.
    """

    sampler: str
    prediction: str
    levels: tuple[float, ...]
    clean: float = 1.0
    spacing: str = "trailing"
    offset: int = 0
    clip: float | None = None

    def __post_init__(self) -> None:
        for kind, allowed in ALLOWED.items():
            check(kind, getattr(self, kind), allowed)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """From JSON values. Raises BadInput where fields are missing or unknown."""
        try:
            schedule = cls(**values | {"levels": tuple(values["levels"])})
            levels = np.asarray(schedule.levels, np.float64)
            clip = 1.0 if schedule.clip is None else schedule.clip
            if levels.ndim != 1 or not len(levels) or not ((levels >= 0) & (levels <= 1)).all():
                raise ValueError("its levels are not numbers from 0 to 1")
            if not 0 <= schedule.clean <= 1 or clip <= 0 or type(schedule.offset) is not int or schedule.offset < 0:
                raise ValueError("clean, clip or offset beyond their bounds")
            return schedule
        except BadInput:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"this is no schedule of sampling ({error}): export the model again") from error

    def timesteps(self, steps: int) -> list[int]:
        """Timesteps of ``steps`` evaluations, from the noisiest on. Raises BadInput unless there are 1 to all."""
        total = len(self.levels)
        if not 1 <= steps <= total:
            raise BadInput(f"steps is {steps}: it must be 1 to {total}")
        if self.sampler == "renoise":
            return [round(total - i * total / steps) - 1 for i in range(steps)]
        if self.spacing == "trailing":
            times = np.round(np.arange(total, 0, -total / steps)).astype(np.int64) - 1
        elif self.spacing == "leading":
            times = (np.arange(steps) * (total // steps))[::-1] + self.offset
        else:
            times = np.linspace(0, total - 1, steps).round()[::-1].astype(np.int64)
        if times[0] < total / 2:
            raise BadInput(
                f"{steps} step(s) with {self.spacing} spacing start at timestep {times[0]} of {total}, where there is "
                "little noise, but an image starts as pure noise: take more steps"
            )
        return [int(t) for t in times]

    def step(self, x: Array, prediction: Array, times: Sequence[int], index: int, noise: Array | None) -> Array:
        """Noisy latents x, any shape, from the level of ``times[index]`` to the next.

        ``prediction``: the denoiser's, as x. ``times``: of `timesteps`. ``noise``: fresh, as x: needed by ``renoise``
        before the last step.
        """
        a, s = self._level(times[index])
        if self.prediction == "epsilon":
            clean, spread = (x - s * prediction) / a, prediction
        elif self.prediction == "v_prediction":
            clean, spread = a * x - s * prediction, a * prediction + s * x
        else:
            clean, spread = prediction, (x - a * prediction) / s if s else np.zeros_like(x)
        if self.sampler == "renoise":
            if index == len(times) - 1:
                return clean
            assert noise is not None
            a, s = self._level(times[index + 1])
            return a * clean + s * noise
        if self.clip is not None:
            clean = clean.clip(-self.clip, self.clip)
        a, s = self._level(times[index] - len(self.levels) // len(times))
        return a * clean + s * spread

    def draws(self, steps: int) -> int:
        """Arrays of noise that an image takes."""
        return steps if self.sampler == "renoise" else 1

    def _level(self, time: int) -> tuple[Array, Array]:
        kept = np.array(self.levels[time] if time >= 0 else self.clean, np.float32)
        return np.asarray(np.sqrt(kept)), np.asarray(np.sqrt(1 - kept))
