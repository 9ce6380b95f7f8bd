"""Size and cost of one image by a whole system: text encoder, denoiser, decoder. Importing it imports no torch."""

from dataclasses import asdict, dataclass
from typing import Any

from mdrepro.metrics.cost.measure import calculate
from mdrepro.metrics.cost.quantities import Cost
from mdrepro.models import systems
from mdrepro.models.systems import Schedule


@dataclass(frozen=True)
class SystemCost:
    """Size and cost of one image of one prompt by a system under one of its schedules.

    ``parts`` are the costs of one run of text encoder, denoiser and decoder, ``runs`` says how often each runs.
    """

    system: str
    schedule: Schedule
    parts: tuple[Cost, ...]
    runs: tuple[int, ...]

    @property
    def params(self) -> int:
        """Parameters of all parts, each once."""
        return sum(part.params for part in self.parts)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image, attention products included."""
        return sum(part.macs * runs for part, runs in zip(self.parts, self.runs, strict=True))

    @property
    def macs_without_attention(self) -> int:
        """Those with a weight as one operand."""
        return sum(part.macs_without_attention * runs for part, runs in zip(self.parts, self.runs, strict=True))

    def as_dict(self) -> dict[str, Any]:
        """Everything by name: the sums, the schedule, and each part with its ``runs``."""
        return {
            "system": self.system,
            **asdict(self.schedule),
            "params": self.params,
            "macs": self.macs,
            "macs_without_attention": self.macs_without_attention,
            "flops": 2 * self.macs,
            "resolution": self.parts[-1].resolution,
            "parts": [part.as_dict() | {"runs": runs} for part, runs in zip(self.parts, self.runs, strict=True)],
        }


def measure_system(name: str) -> list[SystemCost]:
    """Size and cost of a system, once for each of its schedules. Raises BadInput for an unknown name."""
    system = systems.get(name)
    parts = tuple(calculate(part, system.resolution) for part in system.parts)
    return [
        SystemCost(name, schedule, parts, (schedule.branches, schedule.steps * schedule.branches, 1))
        for schedule in system.schedules
    ]
