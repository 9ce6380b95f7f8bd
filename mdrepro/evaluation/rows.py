"""One measured (or not attempted) number, as notebooks hand it to ``record``."""

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from mdrepro.metrics.jackknife import Interval


@dataclass(frozen=True)
class Row:
    """One cell of a table. Its unit is the column's in ``mdrepro/papers/*.yaml``, which no caller repeats.

    Raises ValueError where both or neither of ``value`` and ``reason`` are given, or the interval lacks the value.
    """

    row: str  # as named there
    column: str
    value: float | None  # None when it was not attempted
    protocol: str  # how it was measured, in a sentence that lets another person repeat it
    _: KW_ONLY
    n: int | None = None  # independent samples (photographs, images, runs) that it rests on; None when exact
    ci_low: float | None = None  # 95 % interval; None when exact
    ci_high: float | None = None
    by_seed: tuple[float, ...] = ()  # the value of each training seed; none where no network was trained for it
    reason: str = ""  # why it was not attempted and how to get what is missing

    def __post_init__(self) -> None:
        if (self.value is None) != bool(self.reason):
            raise ValueError(f"{self.row}/{self.column}: give either a value or the reason why there is none")
        if (self.ci_low is None) != (self.ci_high is None):
            raise ValueError(f"{self.row}/{self.column}: an interval has two ends")
        low, high = self.ci_low, self.ci_high
        if low is not None and high is not None and not (self.value is not None and low <= self.value <= high):
            raise ValueError(f"{self.row}/{self.column}: {self.value} is outside {low}..{high}")

    @classmethod
    def measured(cls, row: str, column: str, interval: "Interval", protocol: str) -> Self:
        """A row of an estimate with its interval and number of samples."""
        return cls(
            row,
            column,
            interval.value,
            protocol,
            n=interval.n,
            ci_low=interval.low,
            ci_high=interval.high,
            by_seed=interval.by_seed,
        )

    @classmethod
    def absent(cls, row: str, column: str, reason: str) -> Self:
        return cls(row, column, None, "", reason=reason)
