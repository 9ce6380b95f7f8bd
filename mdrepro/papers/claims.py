"""Claims: sentences of the papers as inequalities between cells, and what measured numbers say about them."""

import enum
import operator
from collections.abc import Iterator, Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from mdrepro.papers.base import CellKey, Confidence, Data, Name

_OPERATORS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
Kind = Literal["superiority", "equivalence", "figure"]
Ends = tuple[float, float, float]
"""A number and its 95 % interval: low, value, high."""
World = dict[CellKey, float | str]
"""Values of cells: numbers, or ``cell op cell`` with ``+ - * /`` between spaces, where a cell of another table has that
table's name and a colon before it."""


class ClaimVerdict(enum.StrEnum):
    """What measured numbers say about a claim; `mdrepro.reproduce.report.legend.CLAIM_VERDICTS` explains each."""

    HOLDS = "holds"
    BY_CONSTRUCTION = "by construction"
    WITHIN_NOISE = "within noise"
    NOT_SENSITIVE = "bed not sensitive"
    FAILS = "does not hold"
    UNCONFIRMED = "unconfirmed"
    NOT_ATTEMPTED = "not attempted"

    @property
    def clause(self) -> str:
        """As it follows a subject: "holds", "is within noise"."""
        return self.value if self in (ClaimVerdict.HOLDS, ClaimVerdict.FAILS) else f"is {self.value}"


class Condition(Data):
    """``left op right * factor + margin``; a side is ``row/column`` of the claim's table, or a number on the right."""

    left: CellKey
    op: Literal[">=", ">", "<=", "<"]
    right: float | CellKey
    factor: float = 1.0
    margin: float = 0.0

    def cells(self) -> list[str]:
        """The cells that must have been measured for this condition."""
        return [self.left, *([self.right] if isinstance(self.right, str) else [])]

    def difference(self, left: Ends, right: Ends) -> Ends:
        """The left side less ``right * factor + margin``, with the ends at which the two sides are farthest apart."""
        ends = [side * self.factor + self.margin for side in right]
        return left[0] - max(ends), left[1] - ends[1], left[2] - min(ends)

    def judge(self, left: Ends, right: Ends) -> ClaimVerdict:
        """Compare two sides; an exact number has low = value = high.

        The claim holds when the inequality is true at the unfavourable ends of both intervals, fails when it is
        false at the favourable ends, and is within noise between.
        """
        low, _, high = self.difference(left, right)
        test = _OPERATORS[self.op]
        worst, best = (low, high) if self.op in (">=", ">") else (high, low)
        if test(worst, 0):
            return ClaimVerdict.HOLDS
        return ClaimVerdict.WITHIN_NOISE if test(best, 0) else ClaimVerdict.FAILS

    def renamed(self, columns: Mapping[str, str]) -> "Condition | None":
        """The same on other columns; None where one of its own has no counterpart ("")."""

        def side(key: str) -> str:
            row, _, column = key.partition("/")
            other = columns.get(column, column)
            return f"{row}/{other}" if other else ""

        left, right = side(self.left), side(self.right) if isinstance(self.right, str) else self.right
        return None if "" in (left, right) else self.model_copy(update={"left": left, "right": right})

    def __str__(self) -> str:
        right = f"{self.right:g}" if isinstance(self.right, float) else self.right
        right += f" × {self.factor:g}" if self.factor != 1 else ""
        right += f" {'+' if self.margin > 0 else '−'} {abs(self.margin):g}" if self.margin else ""
        return f"{self.left} {self.op} {right}"


class Claim(Data):
    """A sentence of the paper that a measurement can contradict: all ``conditions`` must hold.

    A ``superiority`` says that something is better, an ``equivalence`` that nothing is lost, a ``figure`` how much.
    """

    id: Name
    statement: str
    source: str
    confidence: Confidence
    kind: Kind
    conditions: tuple[Condition, ...] = Field(min_length=1)
    control: tuple[Condition, ...] = ()
    """Of an equivalence: what must be seen to lose in the same table, so that "nothing is lost" means something."""
    baseline: tuple[Condition, ...] = ()
    """Of a comparison with another method: what shows that it was trained well enough to be compared with."""
    among: tuple[Name, ...] = ()
    """Of a superlative: all rows that the first condition's row must beat in its column; of "each" and "every": all
    rows that are meant."""
    world: World = {}
    """The paper's own numbers for cells that the table gives none for; examples where it prints none."""
    untrue: dict[CellKey, float | tuple[float, ...]] = {}
    """Numbers, near the paper's, with each of which alone the sentence is not true any more."""
    constructed: str = ""
    """What this project put in or chose so that it holds; "": it can fail."""
    contradicted: str = ""
    """Which of the paper's own figures contradict it; "": none does."""
    note: str = ""
    """Why the factor or the margin is what it is, declared before measuring."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.kind == "equivalence") != bool(self.control):
            raise ValueError(f"{self.id}: an equivalence, and nothing else, has a positive control")
        return self

    def cells(self) -> list[str]:
        """All cells of its conditions, of its control and of its baseline."""
        every = (*self.conditions, *self.control, *self.baseline)
        return [cell for condition in every for cell in condition.cells()]

    def untruths(self) -> Iterator[dict[str, float]]:
        """The worlds of ``untrue``: one number each; other cells stay the paper's."""
        for key, values in self.untrue.items():
            yield from ({key: value} for value in (values if isinstance(values, tuple) else (values,)))


class Unmeasured(Data):
    """A statement of the paper that no condition on the table's cells can test yet, with what a test needs."""

    id: Name
    statement: str
    source: str
    confidence: Confidence
    needs: str = Field(min_length=1)


MOST_SEEDS = 1000


def seeds_to_decide(value: float, low: float, high: float, seeds: int, threshold: float) -> int | None:
    """The least number of training seeds whose 95 % interval would leave out ``threshold``; None beyond `MOST_SEEDS`.

    The estimate is taken to stay where it is, and the whole half-width towards the threshold to be Student's
    t(0.975, n - 1) s / sqrt(n) at n = ``seeds``. What the captions add to it does not shrink with seeds: where they
    dominate it takes more captions, or more seeds than this. Raises ValueError for fewer than two seeds, which say
    nothing about s, and for a value outside its interval.
    """
    from scipy.stats import t  # type: ignore[import-untyped]

    if seeds < 2 or not low <= value <= high:
        raise ValueError(f"{value} in [{low}, {high}] of {seeds} seeds: expected two seeds and an interval around it")
    half = value - low if threshold < value else high - value
    at_one = half * seeds**0.5 / t.ppf(0.975, seeds - 1)
    enough = (n for n in range(2, MOST_SEEDS + 1) if t.ppf(0.975, n - 1) * at_one / n**0.5 < abs(value - threshold))
    return next(enough, None)
