"""One number beside another package's, and the conventions that explain the difference."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any


@dataclass(frozen=True)
class Comparison:
    """One metric here and in another package, on the same images.

    Args:
        metric: its name on the command line.
        package: the other package and its version.
        ours, theirs: the two numbers; ``theirs`` is None where it is infinite.
        agrees: whether they are the same up to rounding.
        conventions: what explains the difference; none where there is no difference, or no explanation.
        under: our number under these conventions.
    """

    metric: str
    package: str
    ours: float
    theirs: float | None
    agrees: bool
    conventions: tuple[str, ...] = ()
    under: float | None = None

    @property
    def difference(self) -> float | None:
        """Theirs less ours; None where theirs is infinite."""
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
        """As JSON."""
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
    """Theirs beside ours, and the first conventions under which the two agree.

    Args:
        metric, package: names; the version is added.
        numbers: ours by conventions, () for our own, in the order in which they are tried.
        theirs: the package's.
        tolerance: relative.
        exact: theirs in float64, where the package usually computes in float32: rounding is then kept apart.
    """
    exact = theirs if exact is None else exact

    def same(one: float, other: float) -> bool:
        return one == other or math.isclose(one, other, rel_tol=tolerance, abs_tol=1e-9)

    agrees = same(numbers[()], theirs)
    found = None if agrees else next((names for names, value in numbers.items() if same(value, exact)), None)
    under = None if found is None else numbers[found]
    rounding = (
        () if found is None or same(theirs, exact) else (f"rounding in float32 (in float64 it gives {exact:.7g})",)
    )
    return Comparison(
        metric,
        f"{package} {version(package)}",
        numbers[()],
        theirs if math.isfinite(theirs) else None,
        agrees,
        (*(found or ()), *rounding),
        under if under is None or math.isfinite(under) else None,
    )
