"""A measured number with its protocol, as the evaluations give it."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Score:
    """One metric of one set of images."""

    metric: str  # its name on the command line
    name: str  # what to call the number; only FID's network gives an "FID"
    value: float | None  # None where it was not measured
    n: int  # images it rests on
    protocol: str  # all else that it depends on
    n_reference: int | None = None  # images of the other side
    low: float | None = None  # the 95 % interval over images, where there is one
    high: float | None = None
    unit: str = ""  # dB, or nothing
    biased: bool = False  # too few images, and the override was used: not comparable with numbers of other sets
    reason: str = ""  # why there is no value

    def record(self) -> dict[str, Any]:
        return asdict(self)

    def cells(self) -> tuple[str, str, str]:
        """Name, number with its interval, and what to know of it, for a table of texts."""
        if self.value is None:
            return self.name, "–", f"not attempted: {self.reason}"
        interval = "" if self.low is None or self.high is None else f" [{self.low:.5g}, {self.high:.5g}]"
        counts = f"{self.n} images" if self.n_reference is None else f"{self.n_reference} and {self.n} images"
        note = f"{counts}{', BIASED: too few' if self.biased else ''}"
        return self.name, f"{self.value:.6g}{interval} {self.unit}".rstrip(), note
