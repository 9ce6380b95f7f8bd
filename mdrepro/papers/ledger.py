"""Loads the papers' data and judges measured numbers against it. The only judge of the project."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, cast

from mdrepro.core.errors import check
from mdrepro.papers.base import CONFIRMED
from mdrepro.papers.claims import MOST_SEEDS, Claim, ClaimVerdict, Condition, Ends, seeds_to_decide
from mdrepro.papers.schema import TIERS, Column, Paper, Table, Tier, Verdict

PAPERS = ("mobilediffusion", "snapfusion")
_ORDER = (ClaimVerdict.FAILS, ClaimVerdict.NOT_ATTEMPTED, ClaimVerdict.WITHIN_NOISE, ClaimVerdict.HOLDS)
"""A claim has the first of these that one of its conditions has."""


@functools.cache
def papers() -> dict[str, Paper]:
    """Both papers, validated. Raises pydantic's ValidationError where the data are inconsistent."""
    return {name: Paper.read(Path(__file__).with_name(f"{name}.yaml")) for name in PAPERS}


def tables(*, planned: bool = False) -> dict[str, Table]:
    """Every table that has a notebook, by name; with ``planned`` also those that have none yet."""
    found = (table for paper in papers().values() for table in paper.tables)
    return {table.id: table for table in found if planned or table.notebook}


def find(name: str, *, planned: bool = False) -> Table:
    """The table called ``name``. Raises BadInput, naming all tables, for any other name."""
    known = tables(planned=planned)
    return known[check("table", name, known)]


def default_recipes(tier: Tier) -> list[str]:
    """Recipes, of all declared training seeds, whose checkpoints the tables take that run at a tier by default."""
    taken = (table.recipes(tier) for table in tables().values() if not table.by_name_only(tier))
    return list(dict.fromkeys(name for recipes in taken for name in recipes))


def check_tier(name: str) -> Tier:
    """``name`` itself. Raises BadInput for an unknown tier."""
    return cast(Tier, check("tier", name, TIERS))


def paper_of(table: Table) -> Paper:
    """The paper that published ``table``."""
    return next(paper for paper in papers().values() if table in paper.tables)


def judge(
    table: Table, tier: str, row: str, column: str, value: float | None, ci: tuple[float, float] | None = None
) -> Verdict:
    """The verdict on one measured number in the column's unit (None: not attempted) against the paper's cell.

    ``ci``: its 95 % interval; None when exact.
    """
    cell, spec = table.cell(row, column), table.columns[column]
    if value is None:
        return Verdict.NOT_ATTEMPTED
    if cell is None or cell.value is None:
        return Verdict.NO_FIGURE
    if tier not in spec.comparable_at:
        return Verdict.NOT_COMPARABLE
    if cell.confidence not in CONFIRMED:
        return Verdict.UNCONFIRMED
    if (cell.tolerance or spec.tolerance).allows(value, cell.value):
        return Verdict.BY_CONSTRUCTION if cell.constructed else Verdict.REPRODUCED
    return Verdict.WITHIN_NOISE if ci and ci[0] <= cell.value <= ci[1] else Verdict.DIFFERS


def agrees(column: Column, value: float | None, published: float | None) -> bool | None:
    """Whether a rerun's number agrees with the one published before; None where either was not attempted."""
    return None if value is None or published is None else column.rerun.allows(value, published)


@dataclass(frozen=True)
class _Measured:
    """Measured cells by their keys: numbers with their intervals, and how many training seeds they rest on, if any."""

    numbers: Mapping[str, Ends]
    seeds: Mapping[str, int]


def _measured(rows: Iterable[Mapping[str, Any]]) -> _Measured:
    known = {f"{row['row']}/{row['column']}": row for row in rows if row["value"] is not None}
    numbers = {
        key: (row["value"],) * 3 if row["ci_low"] is None else (row["ci_low"], row["value"], row["ci_high"])
        for key, row in known.items()
    }
    return _Measured(numbers, {key: row["seeds"] for key, row in known.items() if row.get("seeds")})


@dataclass(frozen=True)
class Judged:
    """What measured numbers say of one condition of a claim; ``part``: "" of the claim itself.

    ``left``, ``right``: its sides with their intervals, None where a cell was not measured. ``seeds``: on how many
    training seeds they rest, in words; "": on none.
    """

    condition: Condition
    part: str
    verdict: ClaimVerdict
    left: Ends | None
    right: Ends | None
    seeds: str = ""

    @property
    def missing(self) -> list[str]:
        """The cells that were not measured."""
        sides = zip(self.condition.cells(), (self.left, self.right), strict=False)
        return [key for key, side in sides if side is None]

    def __str__(self) -> str:
        if self.left is None or self.right is None:
            return f"{self.condition}: not measured: {', '.join(self.missing)}"
        text = f"{self.condition}: {_interval_text(self.left)} against {_interval_text(self.right)}"
        return text + (f" ({self.seeds})" if self.seeds else "")


def judge_claim(
    claim: Claim, rows: Iterable[Mapping[str, Any]], on_pictures: Mapping[str, str] | None = None
) -> tuple[ClaimVerdict, str]:
    """The verdict on a claim from its table's rows (mappings as in result.json), and the numbers behind it in words.

    ``on_pictures``: see `Table.on_pictures`. It holds where rows have its columns of pictures and none of scenes.
    """
    verdict, numbers = ClaimVerdict.NOT_ATTEMPTED, ""
    for part, conditions in groupby(judge_conditions(claim, rows, on_pictures), lambda one: one.part):
        judged = list(conditions)
        shown, seen = min((one.verdict for one in judged), key=_ORDER.index), "; ".join(map(str, judged))
        if not part:
            verdict, numbers = shown, seen
        elif verdict is not ClaimVerdict.NOT_ATTEMPTED:
            numbers += f"; {part}: {seen}"
            if shown is not ClaimVerdict.HOLDS and verdict is not ClaimVerdict.FAILS:
                verdict = ClaimVerdict.NOT_SENSITIVE
    if claim.constructed and verdict is ClaimVerdict.HOLDS:
        verdict = ClaimVerdict.BY_CONSTRUCTION
    if claim.confidence not in CONFIRMED and verdict is not ClaimVerdict.NOT_ATTEMPTED:
        return ClaimVerdict.UNCONFIRMED, f"{claim.confidence}; as written it {verdict.clause}: {numbers}"
    return verdict, numbers


def judge_conditions(
    claim: Claim, rows: Iterable[Mapping[str, Any]], on_pictures: Mapping[str, str] | None = None
) -> list[Judged]:
    """Each condition of a claim on measured numbers, then those of its control and its baseline; as `judge_claim`."""
    measured = _measured(rows)
    columns = {key.partition("/")[2] for key in measured.numbers}
    parts = (("", claim.conditions), ("positive control", claim.control), ("baseline", claim.baseline))
    return [
        _judge(condition, part, measured)
        for part, declared in parts
        for condition in _conditions(declared, columns, on_pictures or {})
    ]


def _judge(condition: Condition, part: str, measured: _Measured) -> Judged:
    right = condition.right
    ours = measured.numbers.get(condition.left)
    theirs = measured.numbers.get(right) if isinstance(right, str) else (right, right, right)
    if ours is None or theirs is None:
        return Judged(condition, part, ClaimVerdict.NOT_ATTEMPTED, ours, theirs)
    verdict = condition.judge(ours, theirs)
    seeds = [measured.seeds[key] for key in condition.cells() if key in measured.seeds]
    undecided = condition.difference(ours, theirs) if verdict is ClaimVerdict.WITHIN_NOISE else None
    return Judged(condition, part, verdict, ours, theirs, _over(min(seeds), undecided) if seeds else "")


def _over(seeds: int, undecided: Ends | None) -> str:
    """By how many training seeds a condition was judged; of an undecided difference from 0, how many would decide."""
    if seeds < 2:
        return "one training seed cannot say how many would decide" if undecided else "one training seed"
    if undecided is None:
        return f"{seeds} training seeds"
    low, value, high = undecided
    enough = seeds_to_decide(value, low, high, seeds, 0)
    return f"{enough} training seeds would decide" if enough else f"not decided by {MOST_SEEDS} training seeds"


def _conditions(
    declared: Sequence[Condition], measured: set[str], on_pictures: Mapping[str, str]
) -> Sequence[Condition]:
    """Conditions on the columns that were measured: all as they are, where no other can be judged."""
    if not measured & set(on_pictures.values()) or measured & set(on_pictures):
        return declared
    renamed = [condition.renamed(on_pictures) for condition in declared]
    return [condition for condition in renamed if condition] or declared


def _interval_text(interval: Ends) -> str:
    low, value, high = interval
    return f"{value:.4g}" if low == high else f"{value:.4g} [{low:.4g}, {high:.4g}]"
