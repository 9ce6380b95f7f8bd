"""Claims: sentences of the papers as inequalities between cells, and what measured numbers say about them."""

import enum
import operator
from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from mdrepro.papers.base import CellKey, Confidence, Data, Name

_OPERATORS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
Kind = Literal["superiority", "equivalence", "figure"]
World = dict[CellKey, float | str]
"""Values of cells: numbers, or ``cell op cell`` with ``+ - * /`` between spaces, where a cell of another table has that
table's name and a colon before it."""


class ClaimVerdict(enum.StrEnum):
    """What measured numbers say about a claim; `mdrepro.reproduce.report.views.CLAIM_VERDICTS` explains each."""

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

    def judge(self, left: tuple[float, float, float], right: tuple[float, float, float]) -> ClaimVerdict:
        """Compare two (low, value, high) triples; an exact number has low = value = high.

        The claim holds when the inequality is true at the unfavourable ends of both intervals, fails when it is
        false at the favourable ends, and is within noise between.
        """
        low, _, high = sorted(side * self.factor + self.margin for side in right)
        test = _OPERATORS[self.op]
        upward = self.op in (">=", ">")
        worst = test(left[0], high) if upward else test(left[2], low)
        best = test(left[2], low) if upward else test(left[0], high)
        return ClaimVerdict.HOLDS if worst else ClaimVerdict.WITHIN_NOISE if best else ClaimVerdict.FAILS

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
    among: tuple[Name, ...] = ()
    """Of a superlative: all rows that the first condition's row must beat in its column."""
    world: World = {}
    """The paper's own numbers for cells that the table gives none for; examples where it prints none."""
    untrue: dict[CellKey, float] = {}
    """Numbers, near the paper's, with which the sentence is not true any more; other cells stay the paper's."""
    constructed: str = ""
    """What this project put in or chose so that it holds; "": it can fail."""
    note: str = ""
    """Why the factor or the margin is what it is, declared before measuring."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.kind == "equivalence") != bool(self.control):
            raise ValueError(f"{self.id}: an equivalence, and nothing else, has a positive control")
        return self

    def cells(self) -> list[str]:
        """All cells of its conditions and of its control."""
        return [cell for condition in (*self.conditions, *self.control) for cell in condition.cells()]
