"""Results and costs as text for a terminal, and claims' conditions as people read them, there and in the report."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mdrepro.core.console import MINUS, NONE, columns, paragraph
from mdrepro.papers import ledger
from mdrepro.papers.base import CONFIRMED
from mdrepro.papers.claims import ClaimVerdict, Condition, Ends
from mdrepro.papers.ledger import Judged
from mdrepro.papers.schema import Table, Verdict
from mdrepro.reproduce.workflow import results
from mdrepro.reproduce.workflow.folders import changed
from mdrepro.reproduce.workflow.parameters import setting_text

if TYPE_CHECKING:
    from mdrepro.metrics.cost.measure import Details
    from mdrepro.metrics.cost.quantities import Cost
    from mdrepro.metrics.cost.systems import SystemCost


TITLE, ROW = 80, 60  # characters of a column's and a row's title; what is longer ends with "…"
NO_BREAK = "\xa0"
LARGER = {"ms": "s", "MB": "GB"}
"""The unit in which thousands of another are read."""
OF_A_CELL = {"<": "less", "<=": "no more", ">": "more", ">=": "no less"}
OF_A_NUMBER = {"<": "below", "<=": "at most", ">": "above", ">=": "at least"}


def number(value: float, digits: int) -> str:
    """``value`` with ``digits`` significant digits, never fewer than its whole part; counts without decimals."""
    if value == int(value) and abs(value) < 1e15:
        form = ",.0f"
    else:
        form = f",.{decimals(value, digits)}f" if -6 <= _size(value) < 15 else f".{digits - 1}e"
    return f"{value:{form}}".replace("-", MINUS)


def decimals(value: float, digits: int) -> int:
    """How many decimals ``digits`` significant digits of ``value`` take."""
    return max(0, digits - 1 - _size(value))


def _size(value: float) -> int:
    return math.floor(math.log10(abs(value))) if value else 0


def ours(table: Table, row: Mapping[str, Any]) -> str:
    """Our number with its interval and unit, or a dash."""
    return " ".join(filter(None, measured_cell(table, row)))


def measured_cell(table: Table, row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Our number, its interval and its unit; a dash where it was not measured."""
    if row["value"] is None:
        return NONE, "", ""
    digits = table.columns[row["column"]].digits
    ends = "" if row["ci_low"] is None else f"[{number(row['ci_low'], digits)}, {number(row['ci_high'], digits)}]"
    return number(row["value"], digits), ends, row["unit"]


def paper(table: Table, row: Mapping[str, Any]) -> str:
    """The paper's figure, with its confidence where that is not a reading, and another source's where they conflict."""
    if row["paper_value"] is None:
        return NONE
    cell = table.cell(row["row"], row["column"])
    doubt = "" if row["paper_confidence"] in CONFIRMED else row["paper_confidence"]
    more = "".join(f" ({text})" for text in (doubt, cell.conflict if cell else "") if text)
    return f"{row['paper_value']:g}{more}".replace("-", MINUS)


def verdicts(table: Table, result: results.Result, published: results.Result | None, *, whole: bool = False) -> str:
    """What a result says of a table: its claims, measured cells beside the paper's and the published, and what is left.

    Cells for which the paper gives no figure are counted only, unless ``whole``. Numbers published with other
    parameters are left out.
    """
    rows, other = result["rows"], published is not None and results.comparable(result, published) is None
    published = None if other else published
    agreement = results.agreement(table, rows, published)
    before = {(row["row"], row["column"]): row["value"] for row in (published or {}).get("rows", [])}
    shown = [row for row in rows if row["value"] is not None and (whole or row["paper_value"] is not None)]
    lines = [("row", "column", "ours", "95 % interval", "unit", "paper", "verdict", "published", "")]
    for row in shown:
        key = (row["row"], row["column"])
        agrees, digits = agreement.get(key), table.columns[row["column"]].digits
        beside = ("", "") if agrees is None else (number(before[key], digits), "agrees" if agrees else "DIFFERS")
        lines.append((*key, *measured_cell(table, row), paper(table, row), row["verdict"], *beside))
    counts = Counter(row["verdict"] for row in rows)
    summary = ", ".join(f"{counts[name]} {name}" for name in Verdict if counts[name])
    settings = setting_text(changed(result["tier"], table.id, result["provenance"]["parameters"]))
    title = ", ".join(filter(None, [result["tier"], settings]))
    parts = [paragraph(f"{table.id} ({title}): {summary}"), columns(lines)]
    if other:
        parts.append(paragraph("other parameters, not compared with the published numbers", "  "))
    if hidden := [row for row in rows if row["value"] is not None and row not in shown]:
        good = sum(agreement.get((row["row"], row["column"])) is True for row in hidden)
        agreeing = f", {good} agree with the published" if published else ""
        parts.append(f"  and {len(hidden)} without a paper figure{agreeing}: mdrepro show {table.id}")
    parts[1:1] = _claims(table, result)
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row["reason"]:
            printed = paper(table, row) if whole else NONE
            cell = f"{row['row']}/{row['column']}" + (f" (paper: {printed})" if printed != NONE else "")
            reasons.setdefault(row["reason"], []).append(cell)
    if reasons:
        parts.append("")
    for reason, cells in reasons.items():
        parts.append(paragraph(f"not attempted: {reason}", "  ", mark="not attempted"))
        parts.append(paragraph(_some(cells, len(cells) if whole else 6), "      ", hanging=0))
    return "\n".join(parts)


def _claims(table: Table, result: results.Result) -> list[str]:
    """Each claim with its verdict, and below it what its conditions compare; an empty line at the end."""
    known, rows = {claim.id: claim for claim in table.claims}, results.with_seeds(table, result["rows"])
    parts = []
    for one in result["claims"]:
        claim, verdict = known.get(one["id"]), one["verdict"]
        doubt, statement = doubts(verdict, one["numbers"]), claim.statement if claim else one["id"]
        title = f"claim {verdict}" + (f" ({doubt})" if doubt else "")
        parts.append(paragraph(f"{title}: {statement}", "  ", mark=verdict))
        for judged in ledger.judge_conditions(claim, rows, table.on_pictures) if claim else ():
            compared = inequality(table, judged)
            unbroken = compared._replace(numbers=compared.numbers.replace(" ", NO_BREAK))
            parts.append(paragraph(str(unbroken), "      ").replace(NO_BREAK, " "))
    return [*parts, ""] if parts else []


def doubts(verdict: str, numbers: str) -> str:
    """Why a claim is unconfirmed and what would be said of it as written, from its recorded words; "" of others."""
    return numbers.partition(": ")[0] if verdict == ClaimVerdict.UNCONFIRMED else ""


def _some(cells: Sequence[str], most: int) -> str:
    """The first names of some, and how many more there are."""
    return ", ".join(cells[:most]) + (f" and {len(cells) - most} more" if len(cells) > most else "")


def costs(measured: "Sequence[Cost]") -> str:
    """Size and cost of networks, one per line."""
    lines: list[tuple[str, ...]] = [("model", "params M", "GMAC", "GMAC without attention", "GFLOP", "px")]
    for each in measured:
        giga = [f"{value / 1e9:,.1f}" for value in (each.macs, each.macs_without_attention, each.flops)]
        lines.append((each.model, f"{each.params / 1e6:,.2f}", *giga, str(each.resolution)))
    return columns(lines, indent="")


def cost_details(measured: "Sequence[Details]") -> str:
    """Blocks, peak activation memory and each counter's count, one network per line."""
    counters = list(dict.fromkeys(name for each in measured for name in each.counters))
    head = ("model", "ResNets", "self-att.", "cross-att.", "attention %", "peak MB fp32", "fp16", "fp16 unfused")
    lines: list[tuple[str, ...]] = [(*head, *(f"GMAC {name}" for name in counters))]
    for each in measured:
        blocks = (each.blocks.resnets, each.blocks.self_attention, each.blocks.cross_attention)
        peaks = (each.peak_activations[kind] for kind in ("float32", "float16", "float16_unfused"))
        counts = (f"{each.counters[name] / 1e9:.3f}" if name in each.counters else NONE for name in counters)
        memory = (f"{peak / 1e6:.0f}" for peak in peaks)
        lines.append((each.cost.model, *map(str, blocks), f"{100 * each.cost.attention_share:.1f}", *memory, *counts))
    return columns(lines, indent="")


def system_cost(measured: "SystemCost") -> str:
    """The cost of one image by a system: a line for each part and one for the sum."""
    plan = measured.schedule
    guidance = "2 guidance branches" if plan.branches == 2 else "no guidance"
    steps = f"{plan.steps} step" + ("s" if plan.steps != 1 else "")
    lines: list[tuple[str, ...]] = [("part", "params M", "GMAC a run", "runs", "GMAC")]
    for part, runs in zip(measured.parts, measured.runs, strict=True):
        total = f"{runs * part.macs / 1e9:,.1f}"
        lines.append((part.model, f"{part.params / 1e6:,.2f}", f"{part.macs / 1e9:,.1f}", str(runs), total))
    lines.append(("together", f"{measured.params / 1e6:,.2f}", "", "", f"{measured.macs / 1e9:,.1f}"))
    image = f"one image of {measured.parts[-1].resolution} px"
    return paragraph(f"{measured.system}: {steps}, {guidance}, {image} ({plan.source})") + f"\n{columns(lines)}"


class Inequality(NamedTuple):
    """One condition with its numbers: what is compared, the two sides and what is asked of them, and the rest.

    ``intervals`` are those of 95 %; "" where both sides are exact. ``missing``: what was not measured; there are no
    numbers then.
    """

    what: str
    numbers: str
    intervals: str
    seeds: str
    missing: str
    verdict: ClaimVerdict
    part: str

    def __str__(self) -> str:
        part = f"{self.part}: " if self.part else ""
        more = "; ".join(filter(None, (self.intervals, self.seeds)))
        return f"{part}{self.what}: {self.numbers or self.missing}" + (f" ({more})" if more else "")


def inequality(table: Table, judged: Judged) -> Inequality:
    """A judged condition of one of the table's claims, in words."""
    condition, left, right = judged.condition, judged.left, judged.right
    what = subject(table, condition)
    if left is None or right is None:
        cells = (key.partition("/") for key in judged.missing)
        names = ", ".join(f"{_column(table, column)} of {_row(table, row)}" for row, _, column in cells)
        return Inequality(what, "", "", "", f"not measured: {names}", judged.verdict, judged.part)
    unit = unit_of(table, condition.left)
    exact = isinstance(condition.right, float)
    size = min(abs(left[1]), abs(condition.margin + right[1] * condition.factor) if exact else abs(right[1]))
    scale = 1000 if unit in LARGER and size >= 1000 else 1
    unit = LARGER[unit] if scale > 1 else unit
    ours, theirs = ([side / scale for side in ends] for ends in (left, right))
    digits = _digits(condition, left, right, scale)
    asked = demand(condition, unit, scale)
    sides = [_of_unit(ours[1], digits, unit)] + ([] if exact else [_of_unit(theirs[1], digits, unit)])
    ends = [_interval(side, digits) for side in ((ours,) if exact else (ours, theirs))]
    known = " against ".join(end or "exact" for end in ends) if any(ends) else ""
    intervals = f"95 %: {known}" if known else ""
    numbers = " against ".join(sides) + f", {asked}"
    return Inequality(what, numbers, intervals, judged.seeds, "", judged.verdict, judged.part)


def unit_of(table: Table, cell: str) -> str:
    """The unit of a cell's column, by the cell's key."""
    column = table.columns.get(cell.partition("/")[2])
    return column.unit if column else ""


def subject(table: Table, condition: Condition) -> str:
    """What a condition compares, by the titles of its cells' columns and rows."""
    row, _, column = condition.left.partition("/")
    if not isinstance(condition.right, str):
        return f"{_column(table, column)}, {_row(table, row)}"
    other, _, second = condition.right.partition("/")
    if second == column:
        return f"{_column(table, column)}, {_row(table, row)} against {_row(table, other)}"
    return f"{_column(table, column)}, {_row(table, row)}, against {_column(table, second)}, {_row(table, other)}"


def demand(condition: Condition, unit: str, scale: float = 1) -> str:
    """What a condition asks of its left side: "at least 8 times", "at most 47.8 % of it", "below 2 s"."""
    factor, margin = condition.factor, condition.margin / scale
    if not isinstance(condition.right, str):
        bound = condition.right * factor / scale + margin
        return f"{OF_A_NUMBER[condition.op]} {_plain(bound)} {unit}".strip()
    if factor == 1 and not margin:
        return OF_A_CELL[condition.op]
    times = f"{_plain(factor)} times" if abs(factor) >= 1 else f"{_plain(100 * factor)} % of it"
    times = "it" if factor == 1 else times
    sign = "" if not margin else f" {'+' if margin > 0 else MINUS} {f'{_plain(abs(margin))} {unit}'.strip()}"
    return f"{OF_A_NUMBER[condition.op]} {times}{sign}"


def _digits(condition: Condition, left: Ends, right: Ends, scale: float) -> int:
    """The fewest significant digits, three or more, at which rounded numbers decide the condition as exact ones do.

    Beside a bound they have as many decimals as it.
    """

    def rounded_verdict(digits: int | None) -> ClaimVerdict:
        points = [side[1] / scale for side in (left, right)]
        if digits is not None:
            points = [round(point, decimals(point, digits)) for point in points]
        sides = [(point * scale,) * 3 for point in points]
        return condition.judge(sides[0], right if isinstance(condition.right, float) else sides[1])

    exact, least = rounded_verdict(None), 0
    if isinstance(condition.right, float):
        least = len(_plain(right[1] * condition.factor / scale + condition.margin / scale).partition(".")[2])
    enough = (n for n in range(3, 8) if rounded_verdict(n) is exact and decimals(left[1] / scale, n) >= least)
    return next(enough, 8)


def _of_unit(value: float, digits: int, unit: str) -> str:
    return f"{number(value, digits)} {unit}".strip()


def _interval(side: list[float], digits: int) -> str:
    low, _, high = side
    return "" if low == high else f"[{number(low, digits)}, {number(high, digits)}]"


def _plain(value: float) -> str:
    return f"{value:.6g}".replace("-", MINUS)


def _column(table: Table, name: str) -> str:
    return _cut(table.columns[name].title if name in table.columns else name, TITLE)


def _row(table: Table, name: str) -> str:
    return _cut(table.rows.get(name, name), ROW)


def row_titles(table: Table) -> dict[str, str]:
    """The rows' titles for figures and sentences, by row: without what stands in brackets or after a colon."""
    return {row: _row(table, row) for row in table.rows}


def _cut(text: str, most: int) -> str:
    """A title up to its first bracket or colon where it is long, and never longer than ``most``."""
    for end in (" (", ": "):
        if len(text) > most:
            text = text.partition(end)[0]
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
