"""The audit of claims: each is judged in four worlds, so that its test can hold and can fail.

- *paper*: the paper's own figures, what follows from them, and examples where it prints none. The claim must hold.
- *equal*: all networks are the same one, so that differences are 0 and ratios 1. It must not hold; an equivalence must
  come out as "bed not sensitive". Claims about one network alone have no such world.
- *reversed*: the effect is turned round; an equivalence loses as much as its positive control; a figure is half
  as much again, or two thirds. It must not hold.
- *untrue*: numbers near the paper's with which the sentence is not true any more, so that no factor, margin or bound is
  looser than the sentence. It must not hold.

Beside them, a superlative must compare with all rows that it is about, and a figure must have a bound on both sides.
"""

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mdrepro.papers import ledger
from mdrepro.papers.base import CONFIRMED
from mdrepro.papers.claims import Claim, ClaimVerdict, Condition
from mdrepro.papers.schema import Table

PAPER, EQUAL, REVERSED, UNTRUE = WORLDS = "paper", "equal", "reversed", "untrue"
HOLDS = frozenset({ClaimVerdict.HOLDS, ClaimVerdict.BY_CONSTRUCTION})
OWN, FOLLOWS, EXAMPLE = "the paper's", "from the paper's", "example"
_OPERATORS: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
_SUPERLATIVE = re.compile(r"\b(lowest|highest|best|fewest|(?<!at )most(?! of)|(?<!at )least|than the other)\b")
_ANOTHER = 1.5  # by what a figure is multiplied or divided to be another one
Cells = dict[str, float]


@dataclass
class Audit:
    """One claim in the four worlds: verdicts and inequalities with their numbers, by world, for those that it has.

    ``origins``: for each cell, where the value in the paper's world is from. ``faults``: none if it passes.
    """

    table: str
    claim: Claim
    origins: dict[str, str] = field(default_factory=dict)
    verdicts: dict[str, ClaimVerdict] = field(default_factory=dict)
    numbers: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def figures(self) -> str:
        """Where the numbers of the paper's world are from, in words."""
        return ", ".join(sorted(set(self.origins.values()))) or "none"

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        names = {"table": self.table, "claim": self.claim.id, "kind": self.claim.kind}
        return names | {name: getattr(self, name) for name in ("origins", "verdicts", "numbers", "faults")}


def audit() -> list[Audit]:
    """All claims of both papers."""
    return [audit_claim(table, claim) for table in ledger.tables(planned=True).values() for claim in table.claims]


def audit_claim(table: Table, claim: Claim) -> Audit:
    """One claim of a table."""
    result = Audit(table.id, claim)
    result.faults += [*_superlative(table, claim), *_two_sides(claim)]
    cells: Cells = {}
    for key in claim.world:
        if (cell := table.cell(*key.split("/"))) and cell.value is not None:
            result.faults.append(f"the paper gives {cell.value:g} for {key}: leave it out of the claim's `world`")
    for key in dict.fromkeys(claim.cells()):
        try:
            value, origin = _value(table, key, claim)
        except ValueError as error:
            value, origin = None, str(error)
        if value is None:
            result.faults.append(f"{origin or f'no number for {key}'}: give it, or an example, as the claim's `world`")
        else:
            cells[key], result.origins[key] = value, origin
    if len(cells) < len(set(claim.cells())):
        return result
    worlds = [(PAPER, cells), (EQUAL, _equal(table, claim, cells))]
    worlds += [(REVERSED, values) for values in _reversed(table, claim, cells)]
    if claim.untrue:
        worlds.append((UNTRUE, cells | claim.untrue))
    elif any(_gives_way(table, condition) for condition in claim.conditions):
        result.faults.append(
            "a condition gives way by a factor, a margin or a bound: show where, as the claim's `untrue`"
        )
    for world, values in worlds:
        if values is not None:
            verdict, numbers = _judge(claim, values)
            result.verdicts.setdefault(world, verdict)
            result.numbers.setdefault(world, numbers)
            result.faults += _fault(claim, world, values, verdict, numbers)
    return result


def _judge(claim: Claim, cells: Mapping[str, float]) -> tuple[ClaimVerdict, str]:
    """The ledger's verdict on exact numbers, as of a claim that the paper makes."""
    rows = [
        {"row": row, "column": column, "value": value, "ci_low": None, "ci_high": None}
        for (row, _, column), value in ((key.partition("/"), value) for key, value in cells.items())
    ]
    return ledger.judge_claim(claim.model_copy(update={"confidence": "read-P"}), rows)


def _fault(claim: Claim, world: str, cells: Cells, verdict: ClaimVerdict, numbers: str) -> Iterator[str]:
    if (verdict in HOLDS) != (world == PAPER):
        yield f"in the {world} world it {verdict.clause}: {numbers}"
    elif world == EQUAL and claim.kind == "equivalence":
        kept = any(_true(condition, cells) for condition in claim.conditions)
        if not kept or all(_true(condition, cells) for condition in claim.control):
            yield f"in the equal world it is not {ClaimVerdict.NOT_SENSITIVE}: {numbers}"


def _true(condition: Condition, cells: Cells) -> bool:
    left, right = cells[condition.left], _right(condition, cells)
    return condition.judge((left, left, left), (right, right, right)) is ClaimVerdict.HOLDS


def _right(condition: Condition, cells: Cells) -> float:
    return cells[condition.right] if isinstance(condition.right, str) else condition.right


def _gives_way(table: Table, condition: Condition) -> bool:
    """Whether the condition is another one than "more" or "less" between two networks."""
    if condition.factor != 1 or condition.margin:
        return True
    if isinstance(condition.right, str):
        return False
    derived = table.columns[_column(condition.left)].derived
    return derived is not None and condition.right != derived.equal


def _superlative(table: Table, claim: Claim) -> list[str]:
    """Rows that a superlative must be compared with, in the first condition's column, one row with all, and is not."""
    found = _SUPERLATIVE.search(claim.statement) if claim.kind == "superiority" else None
    if found and not claim.among:
        return [f"{found.group()!r} is a superlative: name the rows it is among, as the claim's `among`"]
    first, pairs = claim.conditions[0], []
    for condition in claim.conditions:
        if (_column(condition.left), condition.op[0]) == (_column(first.left), first.op[0]):
            keys = [key.split("/") for key in condition.cells()]
            pairs.append({name for row, column in keys for name in (row, table.compared(row, column)) if name})
    rows = set[str]().union(*pairs) if set.intersection(*pairs) else set()
    return [f"it is not compared with {row}" for row in claim.among if row not in rows]


def _two_sides(claim: Claim) -> list[str]:
    """Sides of a figure that have no bound."""
    if claim.kind != "figure":
        return []
    sides = {(condition.left, condition.op[0]) for condition in claim.conditions}
    missing = {(left, "<" if op == ">" else ">") for left, op in sides} - sides
    return [f"a figure has two sides: bound {left} by {op} too" for left, op in sorted(missing)]


def _column(key: str) -> str:
    return key.partition("/")[2]


def _value(table: Table, key: str, claim: Claim | None = None) -> tuple[float | None, str]:
    """The value of a cell in the paper's world, and where it is from; None where nothing gives it."""
    if claim and key in claim.world:
        given = claim.world[key]
        return _number(table, given, claim), FOLLOWS if re.search(r"\S/\S", str(given)) else EXAMPLE
    row, _, column = key.partition("/")
    cell = table.cell(row, column)
    if cell and cell.value is not None:
        return cell.value, OWN if cell.confidence in CONFIRMED else cell.confidence
    if (value := _on_curve(table, row, column)) is not None:
        return value, FOLLOWS
    derived, other = table.columns[column].derived if column in table.columns else None, table.compared(row, column)
    if derived and derived.of and other:
        sides = [_value(table, f"{name}/{derived.of}", claim)[0] for name in (row, other)]
        if sides[0] is not None and sides[1] is not None:
            return derived(sides[0], sides[1]), FOLLOWS
    pictures = table.on_pictures.get(column)
    return _value(table, f"{row}/{pictures}", claim) if pictures else (None, "")


def _number(table: Table, given: float | str, claim: Claim) -> float:
    """A number of a claim's world: as it stands, a cell's, or of two of them. Raises ValueError for anything else."""
    if not isinstance(given, str):
        return given
    terms = given.split(" ")
    if len(terms) not in (1, 3) or (len(terms) == 3 and terms[1] not in _OPERATORS):
        raise ValueError(f"{given!r}: expected a cell or two with one of {' '.join(_OPERATORS)} between")
    numbers = []
    for term in terms[::2]:
        name, _, key = term.rpartition(":")
        try:
            number: float | None = float(term)
        except ValueError:
            number = _value(ledger.find(name, planned=True) if name else table, key)[0]
        if number is None:
            raise ValueError(f"{given!r}: the paper has no figure for {term}")
        numbers.append(number)
    return numbers[0] if len(numbers) == 1 else _OPERATORS[terms[1]](*numbers)


def _on_curve(table: Table, row: str, column: str) -> float | None:
    """A curve's number, from the paper's points on all curves of the table."""
    if row not in table.curves:
        return None
    import numpy as np

    from mdrepro.evaluation.curves import Levels, compare

    levels = {}
    for name, prefix in table.curves.items():
        points = [point for point in table.rows if point.startswith(f"{prefix}-")]
        fid, clip = (np.array([[_value(table, f"{point}/{of}")[0] for point in points]]) for of in ("fid", "clip"))
        levels[name] = Levels("", tuple(range(len(points))), 0, fid, clip)
    values = compare(levels)[row].get(column)
    return None if values is None else float(values[0])


def _equal(table: Table, claim: Claim, cells: Cells) -> Cells | None:
    """All rows of a column have the first one's value; None where a claim compares no two networks."""
    first: Cells = {}
    values = {}
    compared = False
    for key, value in cells.items():
        derived = table.columns[_column(key)].derived
        compared = compared or derived is not None or _column(key) in first
        values[key] = first.setdefault(_column(key), value) if derived is None else derived.equal
    return values if compared else None


def _reversed(table: Table, claim: Claim, cells: Cells) -> list[Cells]:
    """The effect turned round; of a figure, more and less."""
    lefts = {condition.left: condition for condition in claim.conditions}
    if claim.kind == "figure":
        return [cells | {key: cells[key] * factor for key in lefts} for factor in (_ANOTHER, 1 / _ANOTHER)]
    if claim.kind == "equivalence":
        return [cells | {key: _as_lost(claim, condition, cells) for key, condition in lefts.items()}]
    values = {}
    for key, value in cells.items():
        derived = table.columns[_column(key)].derived
        column = [cells[other] for other in cells if _column(other) == _column(key)]
        if derived is not None:
            values[key] = 1 / value if derived.by == "ratio" else -value
        elif len(column) > 1:
            values[key] = max(column) + min(column) - value
        else:
            bound = lefts[key].right if key in lefts else value
            values[key] = 2 * bound - value if isinstance(bound, float) else value
    return [values]


def _as_lost(claim: Claim, condition: Condition, cells: Cells) -> float:
    """A condition's left side if it lost what the control loses, or as far beyond its bound as it lies within."""
    for control in claim.control:
        if _column(control.left) == _column(condition.left):
            return cells[control.left]
    return 2 * (_right(condition, cells) * condition.factor + condition.margin) - cells[condition.left]
