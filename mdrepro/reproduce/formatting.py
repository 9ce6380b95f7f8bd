"""Results and costs as text for a terminal."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mdrepro.core.console import MINUS, NONE, columns, minus, paragraph
from mdrepro.papers.base import CONFIRMED
from mdrepro.papers.schema import Table, Verdict
from mdrepro.reproduce.workflow import results

if TYPE_CHECKING:
    from mdrepro.metrics.cost.measure import Details
    from mdrepro.metrics.cost.quantities import Cost
    from mdrepro.metrics.cost.systems import SystemCost


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
    return " ".join(filter(None, _measured(table, row)))


def _measured(table: Table, row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Value, interval and unit."""
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
    return f"{row['paper_value']:g}{more}"


def verdicts(table: Table, result: results.Result, published: results.Result | None, *, whole: bool = False) -> str:
    """The table of verdicts: the paper's cells beside ours and the published ones, then the claims.

    Cells for which the paper gives no figure are counted only, unless ``whole``.
    """
    rows = result["rows"]
    agreement = results.agreement(table, rows, published)
    before = {(row["row"], row["column"]): row["value"] for row in (published or {}).get("rows", [])}
    shown = [row for row in rows if whole or row["paper_value"] is not None]
    lines = [("row", "column", "ours", "95 % interval", "unit", "paper", "verdict", "published", "")]
    for row in shown:
        key = (row["row"], row["column"])
        agrees, digits = agreement.get(key), table.columns[row["column"]].digits
        beside = ("", "") if agrees is None else (number(before[key], digits), "agrees" if agrees else "DIFFERS")
        lines.append((*key, *_measured(table, row), paper(table, row), row["verdict"], *beside))
    counts = Counter(row["verdict"] for row in rows)
    summary = ", ".join(f"{counts[name]} {name}" for name in Verdict if counts[name])
    parts = [paragraph(f"{table.id} ({result['tier']}): {summary}"), columns(lines)]
    if hidden := [row for row in rows if row not in shown]:
        good = sum(agreement.get((row["row"], row["column"])) is True for row in hidden)
        agreeing = f", {good} agree with the published" if published else ""
        parts.append(f"  and {len(hidden)} without a paper figure{agreeing}: mdrepro show {table.id}")
    statements = {claim.id: claim.statement for claim in table.claims}
    for claim in result["claims"]:
        verdict = claim["verdict"]
        parts.append(paragraph(f"claim {verdict}: {statements.get(claim['id'], claim['id'])}", "  ", mark=verdict))
        parts.append(paragraph(minus(claim["numbers"]), "      "))
    reasons = dict.fromkeys(row["reason"] for row in rows if row["reason"])
    parts += [paragraph(f"not attempted: {reason}", "  ", mark="not attempted") for reason in reasons]
    return "\n".join(parts)


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
