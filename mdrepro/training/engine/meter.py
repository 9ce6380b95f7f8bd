"""Means of the losses between two rows of the curve, and the watch for numbers that are not finite."""

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from torch import Tensor

NEVER = 2**62


class Meter:
    """Sums stay on the device, and processes are asked only when a row is due: training does not wait for them.

    ``saved`` is what `saved` gave, to go on with.
    """

    def __init__(self, accelerator: Accelerator, saved: Mapping[str, Any] | None = None) -> None:
        self._accelerator = accelerator
        self._bad: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {name: count for name, (_, count) in (saved or {}).items()}
        self._sums = {  # multiplied in float64, which gives the sum's own bits
            name: torch.tensor(mean * count, device=accelerator.device) for name, (mean, count) in (saved or {}).items()
        }

    def add(self, phase: str, values: Mapping[str, Tensor]) -> None:
        """Count one value of each of these scalars."""
        for name, value in values.items():
            key, value = f"{phase}/{name}", value.detach().float()
            self._sums[key] = self._sums[key] + value if key in self._sums else value.clone()
            self._counts[key] = self._counts.get(key, 0) + 1

    def watch(self, phase: str, step: int, loss: Tensor) -> None:
        """Remember the first step (from 0) in which this process's loss was not finite."""
        bad = torch.where(torch.isfinite(loss.detach()), NEVER, step)
        self._bad[phase] = torch.minimum(self._bad[phase], bad) if phase in self._bad else bad

    def first_bad(self) -> tuple[int, str] | None:
        """The first step (from 0) and phase in which any process's loss was not finite."""
        if not self._bad:
            return None
        steps = self._accelerator.gather(torch.stack(list(self._bad.values()))[None]).amin(0).tolist()
        step, phase = min(zip(steps, self._bad, strict=True))
        return (step, phase) if step < NEVER else None

    def saved(self) -> dict[str, tuple[float, int]]:
        """Mean over processes and count of each scalar since the last row."""
        if not self._sums:
            return {}
        sums = self._accelerator.reduce(torch.stack(list(self._sums.values())), "mean").tolist()
        return {name: (total / count, count) for (name, count), total in zip(self._counts.items(), sums, strict=True)}

    def row(self) -> dict[str, float]:
        """The means, after which counting begins again."""
        means = {name: mean for name, (mean, _) in self.saved().items()}
        self._sums, self._counts = {}, {}
        return means
