"""A measured number with its protocol, as the evaluations give it."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Score:
    """One metric of one set of images.

    Args:
        metric: its name on the command line.
        name: what to call the number; only FID's network gives an "FID".
        value: None where it was not measured; ``reason`` says why.
        low, high: the 95 % bootstrap interval over images, where there is one.
        unit: dB, or nothing.
        n: images it rests on, ``n_reference`` those of the other side.
        biased: too few images, and the override was used: not comparable with numbers of other sets.
        protocol: all else that the number depends on.
        reason: why there is none.
    """

    metric: str
    name: str
    value: float | None
    n: int
    protocol: str
    n_reference: int | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    biased: bool = False
    reason: str = ""

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def cells(self) -> tuple[str, str, str]:
        """Name, number with its interval, and what to know of it, for a table of texts."""
        if self.value is None:
            return self.name, "–", f"not attempted: {self.reason}"
        interval = "" if self.low is None or self.high is None else f" [{self.low:.5g}, {self.high:.5g}]"
        counts = f"{self.n} images" if self.n_reference is None else f"{self.n_reference} and {self.n} images"
        note = f"{counts}{', BIASED: too few' if self.biased else ''}"
        return self.name, f"{self.value:.6g}{interval} {self.unit}".rstrip(), note
