"""One number beside another package's, and the conventions that explain the difference."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any


@dataclass(frozen=True)
class Comparison:
    """One metric here and in another package, on the same images."""

    metric: str  # its name on the command line
    package: str  # with its version
    ours: float
    theirs: float | None  # None where it is infinite
    agrees: bool  # up to rounding
    conventions: tuple[str, ...] = ()  # what explains the difference; none where there is none, or no explanation
    under: float | None = None  # our number under these conventions

    @property
    def difference(self) -> float | None:
        return None if self.theirs is None else self.theirs - self.ours

    @property
    def verdict(self) -> str:
        """A sentence for people."""
        if self.agrees:
            return "the two agree"
        if not self.conventions:
            return "not explained by any known convention"
        again = "" if self.under is None else f"; ours under it: {self.under:.7g}"
        return f"explained by {', and '.join(self.conventions)}{again}"

    def record(self) -> dict[str, Any]:
        names = ("metric", "package", "ours", "theirs", "difference", "agrees", "conventions", "under", "verdict")
        return {name: getattr(self, name) for name in names}


def compare(
    metric: str,
    package: str,
    numbers: Mapping[tuple[str, ...], float],
    theirs: float,
    tolerance: float,
    exact: float | None = None,
) -> Comparison:
    """Theirs beside ours, and the first conventions under which the two agree up to a relative tolerance.

    ``numbers``: ours by conventions, () for our own, in the order in which they are tried. ``exact``: theirs in
    float64, where the package usually computes in float32: rounding is then kept apart.
    """
    exact = theirs if exact is None else exact

    def same(one: float, other: float) -> bool:
        return one == other or math.isclose(one, other, rel_tol=tolerance, abs_tol=1e-9)

    agrees = same(numbers[()], theirs)
    explaining = None if agrees else next((names for names, value in numbers.items() if same(value, exact)), None)
    conventions, under = explaining or (), None
    if explaining is not None:
        under = _finite(numbers[explaining])
        if not same(theirs, exact):
            conventions += (f"rounding in float32 (in float64 it gives {exact:.7g})",)
    name = f"{package} {version(package)}"
    return Comparison(metric, name, numbers[()], _finite(theirs), agrees, conventions, under)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
