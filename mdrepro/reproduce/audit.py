"""The audit of claims: each is judged in four worlds, so that its test can hold and can fail.

- *paper*: the paper's own figures, what follows from them, and examples where it prints none. The claim must hold.
- *equal*: all networks are the same one, so that differences are 0 and ratios 1. It must not hold; an equivalence must
  come out as "bed not sensitive". Claims about one network alone have no such world.
- *reversed*: the effect is turned round; an equivalence loses as much as its positive control; a figure is half
  as much again, or two thirds. It must not hold.
- *untrue*: one number is near the paper's, and the sentence is not true any more. It must not hold, so that no factor,
  margin or bound is looser than the sentence.

No condition may hide behind another: each must be false where all networks are equal, or, where it gives way by a
factor, a margin or a bound, in an untrue world whose number lies within a quarter of that bound. A claim that the
paper's own figures contradict must not hold in the paper's world, and must hold in the reversed one.

Beside them, a superlative must compare with all rows that it is about, a figure must have a bound on both sides, and a
sentence that says how much ("3.2 times", "46 %") must be a figure, unless it says "at least", "over" or the like.
"""

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mdrepro.papers import ledger
from mdrepro.papers.base import CONFIRMED
from mdrepro.papers.claims import Claim, ClaimVerdict, Condition
from mdrepro.papers.schema import Table

PAPER, EQUAL, REVERSED, UNTRUE = WORLDS = "paper", "equal", "reversed", "untrue"
HOLDS = frozenset({ClaimVerdict.HOLDS, ClaimVerdict.BY_CONSTRUCTION})
OWN, FOLLOWS, INFERRED, RECALLED, EXAMPLE = "the paper's", "from the paper's", "inferred", "recalled", "example"
ORIGINS = (OWN, FOLLOWS, INFERRED, RECALLED, EXAMPLE)
"""Where a number of the paper's world is from, best first; what is made of several has the worst of theirs."""
_OPERATORS: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
_SUPERLATIVE = re.compile(
    r"\b(lowest|highest|best|fewest|smallest|largest|cheapest|fastest|slowest|(?<!at )most(?! of)|(?<!at )least"
    r"|than the other)\b",
    re.IGNORECASE,
)
_EVERY = re.compile(r"\b(every|each|whatever|any)\b", re.IGNORECASE)
_BOUNDS = ("over", "at least", "at most", "more than", "less than")
_NOT_BOUNDED = "".join(f"(?<!{bound} )(?<!{bound} a )" for bound in _BOUNDS) + r"(?<![\d.])"
_HOW_MUCH = re.compile(rf"{_NOT_BOUNDED}\b(\d[\d.]*\s?(?:times|%)|twice|half as)", re.IGNORECASE)
_FRACTION = re.compile(rf"{_NOT_BOUNDED}\b(half|third|quarter|fifth|tenth|hundredth) of", re.IGNORECASE)
_ANOTHER = 1.5  # by what a figure is multiplied or divided to be another one
_NEAR = 0.25  # how far from its bound, of the larger of both, an untrue number may be
Cells = dict[str, float]
Figure = tuple[float | None, str]
"""A number of the paper's world and its origin; None where nothing gives it."""


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
    def examples_only(self) -> bool:
        """Whether no number of the paper's world is from the papers."""
        return set(self.origins.values()) == {EXAMPLE}

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
    result.faults += [*_superlative(table, claim), *_every(table, claim), *_two_sides(claim), *_overruled(table, claim)]
    cells: Cells = {}
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
    worlds: list[tuple[str, Cells]] = [(PAPER, cells)]
    if equal := _equal(table, claim, cells):
        worlds.append((EQUAL, equal))
    worlds += [(REVERSED, values) for values in _reversed(table, claim, cells)]
    worlds += [(UNTRUE, cells | untruth) for untruth in claim.untruths()]
    for world, values in worlds:
        verdict, numbers = _judge(claim, values)
        result.verdicts.setdefault(world, verdict)
        result.numbers.setdefault(world, numbers)
        result.faults += _fault(claim, world, values, verdict, numbers)
    result.faults += _hidden(table, claim, worlds)
    return result


def _judge(claim: Claim, cells: Mapping[str, float]) -> tuple[ClaimVerdict, str]:
    """The ledger's verdict on exact numbers, as of a claim that the paper makes."""
    rows = [
        {"row": row, "column": column, "value": value, "ci_low": None, "ci_high": None}
        for (row, _, column), value in ((key.partition("/"), value) for key, value in cells.items())
    ]
    return ledger.judge_claim(claim.model_copy(update={"confidence": "read-P"}), rows)


def _fault(claim: Claim, world: str, cells: Cells, verdict: ClaimVerdict, numbers: str) -> Iterator[str]:
    if (verdict in HOLDS) != (world == (REVERSED if claim.contradicted else PAPER)):
        yield f"in the {world} world it {verdict.clause}: {numbers}"
    elif world == EQUAL and claim.kind == "equivalence":
        kept = any(_true(condition, cells) for condition in claim.conditions)
        if not kept or any(_true(condition, cells) for condition in claim.control):
            yield f"in the equal world it is not {ClaimVerdict.NOT_SENSITIVE}: {numbers}"


def _hidden(table: Table, claim: Claim, worlds: Sequence[tuple[str, Cells]]) -> Iterator[str]:
    """Conditions that equal networks pass, and those that give way and are not shown to be false near their bound."""
    if claim.contradicted:
        return
    equals = any(world == EQUAL for world, _ in worlds)
    for condition in (*claim.conditions, *claim.baseline):
        false = [(world, cells) for world, cells in worlds if not _true(condition, cells)]
        if _gives_way(table, condition):
            if not any(world == UNTRUE and _near(condition, cells) for world, cells in false):
                yield f"{condition} gives way by a factor, a margin or a bound: show where, as the claim's `untrue`"
        elif not any(world == (EQUAL if equals else REVERSED) for world, _ in false):
            yield f"{condition} hides behind another condition: it is true where all networks are equal"


def _true(condition: Condition, cells: Cells) -> bool:
    left, right = cells[condition.left], _right(condition, cells)
    return condition.judge((left, left, left), (right, right, right)) is ClaimVerdict.HOLDS


def _near(condition: Condition, cells: Cells) -> bool:
    left, bound = cells[condition.left], _right(condition, cells) * condition.factor + condition.margin
    return abs(left - bound) <= _NEAR * max(abs(left), abs(bound))


def _right(condition: Condition, cells: Cells) -> float:
    return cells[condition.right] if isinstance(condition.right, str) else condition.right


def _gives_way(table: Table, condition: Condition) -> bool:
    """Whether the condition is another one than "more" or "less" between two networks."""
    if condition.factor != 1 or condition.margin:
        return True
    if isinstance(condition.right, str):
        return False
    derived = table.columns[_column(condition.left)].derived
    return derived is None or condition.right != derived.equal


def _superlative(table: Table, claim: Claim) -> Iterator[str]:
    """Rows that a superlative must be compared with, in the first condition's column, one row with all, and is not."""
    if claim.kind != "superiority" or not (claim.among or _SUPERLATIVE.search(claim.statement)):
        return
    found = _SUPERLATIVE.search(claim.statement)
    if found and not claim.among:
        yield f"{found.group()!r} is a superlative: name the rows it is among, as the claim's `among`"
    if not found and _EVERY.search(claim.statement):
        return
    first, pairs = claim.conditions[0], []
    for condition in claim.conditions:
        if (_column(condition.left), condition.op[0]) == (_column(first.left), first.op[0]):
            pairs.append(_rows(table, condition))
    rows = set[str]().union(*pairs) if set.intersection(*pairs) else set()
    yield from (f"it is not compared with {row}" for row in claim.among if row not in rows)


def _every(table: Table, claim: Claim) -> Iterator[str]:
    """Rows that a sentence on each or every one is about, and that no condition is."""
    found = _EVERY.search(claim.statement) if claim.kind == "superiority" else None
    if found and not claim.among:
        yield f"{found.group()!r}: name the rows that are meant, as the claim's `among`"
    elif found:
        rows = set[str]().union(*(_rows(table, condition) for condition in claim.conditions))
        yield from (f"no condition is about {row}" for row in claim.among if row not in rows)


def _rows(table: Table, condition: Condition) -> set[str]:
    """The rows that a condition sets beside each other, in two cells or in a derived one."""
    keys = [key.split("/") for key in condition.cells()]
    return {name for row, column in keys for name in (row, table.compared(row, column)) if name}


def _two_sides(claim: Claim) -> Iterator[str]:
    """Sides of a figure that have no bound, and sentences that say how much and are no figure."""
    sides = {(condition.left, condition.op[0]) for condition in claim.conditions}
    opposite = {(left, "<" if op == ">" else ">") for left, op in sides}
    if claim.kind == "figure":
        yield from (f"a figure has two sides: bound {left} by {op} too" for left, op in sorted(opposite - sides))
    elif found := _HOW_MUCH.search(claim.statement):
        yield f"{found.group()!r} says how much: make it a figure"
    elif (found := _FRACTION.search(claim.statement)) and not sides & opposite:
        yield f"{found.group()!r} says how much: bound one cell on both sides"


def _overruled(table: Table, claim: Claim) -> Iterator[str]:
    """Cells of the claim's world that have another number by the paper's figures or the rest of that world."""
    for key in claim.world:
        rest = claim.model_copy(update={"world": {other: claim.world[other] for other in claim.world if other != key}})
        value, _ = _value(table, key)
        if value is not None:
            yield f"the paper gives {value:g} for {key}: leave it out of the claim's `world`"
        elif (value := _value(table, key, rest)[0]) is not None:
            yield f"{value:g} for {key} follows from the rest of the claim's `world`: leave it out"


def _column(key: str) -> str:
    return key.partition("/")[2]


def _worst(origins: Iterable[str]) -> str:
    """The origin of what is made of numbers with these origins."""
    return max((FOLLOWS, *origins), key=ORIGINS.index)


def _value(table: Table, key: str, claim: Claim | None = None) -> Figure:
    """The value of a cell in the paper's world: the claim's, the paper's, or what follows from other cells."""
    if claim and key in claim.world:
        return _number(table, claim.world[key])
    row, _, column = key.partition("/")
    cell = table.cell(row, column)
    if cell and cell.value is not None:
        return cell.value, OWN if cell.confidence in CONFIRMED else cell.confidence
    if (point := _on_curve(table, row, column))[0] is not None:
        return point
    derived, other = table.columns[column].derived if column in table.columns else None, table.compared(row, column)
    if derived and derived.of and other:
        one, two = (_value(table, f"{name}/{derived.of}", claim) for name in (row, other))
        if one[0] is not None and two[0] is not None:
            return derived(one[0], two[0]), _worst((one[1], two[1]))
    pictures = table.on_pictures.get(column)
    return _value(table, f"{row}/{pictures}", claim) if pictures else (None, "")


def _number(table: Table, given: float | str) -> Figure:
    """A number of a claim's world: as it stands, a cell's, or of two of them. Raises ValueError for anything else."""
    if not isinstance(given, str):
        return given, EXAMPLE
    terms = given.split(" ")
    if len(terms) not in (1, 3) or (len(terms) == 3 and terms[1] not in _OPERATORS):
        raise ValueError(f"{given!r}: expected a cell or two with one of {' '.join(_OPERATORS)} between")
    numbers, origins = [], []
    for term in terms[::2]:
        name, _, key = term.rpartition(":")
        try:
            number, origin = float(term), EXAMPLE
        except ValueError:
            found, origin = _value(ledger.find(name, planned=True) if name else table, key)
            if found is None:
                raise ValueError(f"{given!r}: the paper has no figure for {term}") from None
            number = found
        numbers.append(number)
        origins.append(origin)
    return numbers[0] if len(numbers) == 1 else _OPERATORS[terms[1]](*numbers), _worst(origins)


def _on_curve(table: Table, row: str, column: str) -> Figure:
    """A curve's number, from the paper's points on all curves of the table."""
    if row not in table.curves:
        return None, ""
    import numpy as np

    from mdrepro.evaluation.curves import Levels, compare

    levels, origins = {}, set[str]()
    for name, prefix in table.curves.items():
        points = [point for point in table.rows if point.startswith(f"{prefix}-")]
        cells = {of: [_value(table, f"{point}/{of}") for point in points] for of in ("fid", "clip")}
        origins |= {origin for column in cells.values() for _, origin in column}
        fid, clip = (np.array([[[value for value, _ in column]]]) for column in cells.values())
        levels[name] = Levels("", tuple(range(len(points))), 0, fid, clip)
    values = compare(levels)[row].get(column)
    return (None, "") if values is None else (values.value, _worst(origins))


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
