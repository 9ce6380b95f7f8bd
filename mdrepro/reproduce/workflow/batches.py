"""The runs of a table side by side: all that there are, and what a batch of them measured."""

import csv
import math
import statistics
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from mdrepro.core import plotting
from mdrepro.core.console import NONE, columns, paragraph
from mdrepro.core.errors import BadInput
from mdrepro.core.files import at_work, replacing_folder, write_json
from mdrepro.core.paths import relative, runs_of
from mdrepro.core.reading import read_json
from mdrepro.papers import ledger
from mdrepro.papers.schema import Table, Tier
from mdrepro.reproduce.formatting import number
from mdrepro.reproduce.workflow import results
from mdrepro.reproduce.workflow.fingerprint import fingerprint
from mdrepro.reproduce.workflow.folders import ERROR, PARAMETERS, RESULT, begun, changed, failed, key
from mdrepro.reproduce.workflow.parameters import value_text
from mdrepro.reproduce.workflow.plan import Job, reasons_to_run
from mdrepro.reproduce.workflow.verify import problems

CELL = ("row", "column", "unit", "value", "ci_low", "ci_high", "n", "verdict")
PANELS = 6
"""Columns of a table that a batch's figure shows at most."""


def listed(tier: Tier, table: str) -> list[dict[str, Any]]:
    """Every run of a table at a tier, that of the defaults first, then by when it was made; those without result last.

    Of each: ``run`` (its key), ``parameters`` (those that are not the tier's defaults), ``state`` ("up to date", "out
    of date", "failed", "running" or "damaged"), ``why`` (what has changed since, or the error), ``seconds`` and
    ``made`` (None where it has no result). Raises BadInput for an unknown table.
    """
    spec = ledger.find(table, planned=True)
    lines = [_line(spec, tier, folder) for folder in begun(tier, table)]
    return sorted(lines, key=lambda line: (bool(line["parameters"]), line["made"] is None, line["made"] or ""))


def _line(table: Table, tier: Tier, folder: Path) -> dict[str, Any]:
    origin: dict[str, Any] = {}
    values: dict[str, Any] = {}
    try:
        if (folder / RESULT).is_file():
            origin = results.read(folder / RESULT)["provenance"]
            values = origin["parameters"]
            if found := problems(folder / RESULT):
                raise BadInput(found[0])
            reasons, _ = reasons_to_run(table.id, tier, fingerprint(table, values))
            state, why = ("out of date", reasons[0]) if reasons else ("up to date", "")
        else:
            values = read_json(failed(folder) / PARAMETERS, dict[str, Any])
            error = read_json(failed(folder) / ERROR, dict[str, Any])
            state, why = "failed", str(error.get("message", "")).partition("\n")[0]
    except BadInput as error:
        state, why = "damaged", str(error)
    if at_work(folder):
        state, why = "running", ""
    line = {"run": folder.name, "parameters": changed(tier, table.id, values), "state": state, "why": why}
    return line | {"seconds": origin.get("seconds"), "made": origin.get("created")}


def summary(jobs: Sequence[Job], lost: Collection[Job]) -> str:
    """What several runs of one table measured, as text; ``lost`` are those of them that failed.

    Written below the table's runs in ``sweeps/<hash of the runs>/``: ``parameters.json`` (the runs), ``summary.csv``
    (a line for each measured cell of each run) and ``figure.png`` and ``figure.svg``, where something differs.
    """
    table, tier = ledger.find(jobs[0].table), jobs[0].tier
    first = jobs[0].parameters
    names = [name for name in first if any(job.parameters[name] != first[name] for job in jobs)]
    good = {job.folder.name: (job, results.read(job.folder / RESULT)) for job in jobs if job not in lost}
    lines = [
        {"run": run}
        | {name: job.parameters[name] for name in names}
        | {"seconds": result["provenance"]["seconds"], "made": result["provenance"]["created"]}
        | {name: row[name] for name in CELL}
        for run, (job, result) in good.items()
        for row in result["rows"]
        if row["value"] is not None
    ]
    final = runs_of(tier, table.id) / "sweeps" / key({"runs": sorted(job.folder.name for job in jobs)})
    with replacing_folder(final) as folder:
        write_json(folder / PARAMETERS, {job.folder.name: job.parameters for job in jobs})
        with open(folder / "summary.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["run", *names, "seconds", "made", *CELL], lineterminator="\n")
            writer.writeheader()
            writer.writerows(line | {name: value_text(line[name]) for name in names} for line in lines)
        drawn = _draw(table, names, lines, folder / "figure")
    head = ("run", *names, "state", "seconds")
    shown = [head]
    for job in jobs:
        seconds = NONE if job in lost else f"{good[job.folder.name][1]['provenance']['seconds']:.0f}"
        values = (value_text(job.parameters[name]) for name in names)
        shown.append((job.folder.name, *values, "failed" if job in lost else "ok", seconds))
    title = f"{table.id} ({tier}): {len(jobs)} runs by {', '.join(names)}" + (f", {len(lost)} failed" if lost else "")
    parts = [paragraph(title), columns(shown), *_claims([result for _, result in good.values()], table)]
    if spread := _spread(table, lines):
        parts.append(columns(spread))
    written = ["summary.csv", *(["figure.png"] if drawn else [])]
    return "\n".join([*parts, *(f"  {relative(final / name)}" for name in written)])


def _claims(measured: Sequence[results.Result], table: Table) -> list[str]:
    """In how many of the runs each claim has which verdict."""
    texts = []
    for claim in table.claims:
        found = Counter(one["verdict"] for result in measured for one in result["claims"] if one["id"] == claim.id)
        counts = ", ".join(f"{verdict} in {count}" for verdict, count in found.most_common())
        texts += [paragraph(f"claim {counts} of {len(measured)}: {claim.statement}", "  ")] if counts else []
    return texts


def _cells(table: Table, lines: Sequence[dict[str, Any]]) -> dict[tuple[str, str], list[float]]:
    """The values of each cell that several runs measured, where they are not all the same."""
    found: dict[tuple[str, str], list[float]] = {}
    for line in lines:
        found.setdefault((line["row"], line["column"]), []).append(line["value"])
    return {cell: values for cell, values in found.items() if table.declares(*cell) and len(set(values)) > 1}


def _spread(table: Table, lines: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A table of the cells that differ between runs, with its header; empty where none does."""
    head = ("row", "column", "runs", "mean", "standard deviation", "lowest", "highest", "unit")
    shown: list[tuple[str, ...]] = [head]
    for (row, column), values in _cells(table, lines).items():
        digits = table.columns[column].digits
        numbers = (statistics.mean(values), statistics.stdev(values), min(values), max(values))
        texts = (number(value, digits) for value in numbers)
        shown.append((row, column, str(len(values)), *texts, table.columns[column].unit))
    return shown if len(shown) > 1 else []


def _draw(table: Table, names: Sequence[str], lines: Sequence[dict[str, Any]], stem: Path) -> bool:
    """A panel for each column that differs between runs, a line for each of its rows; whether there is one."""
    import seaborn as sns
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    cells = list(_cells(table, lines))
    panels = list(dict.fromkeys(column for _, column in cells))[:PANELS]
    if not panels:
        return False
    runs, rows = list(dict.fromkeys(line["run"] for line in lines)), list(dict.fromkeys(row for row, _ in cells))
    colours = dict(zip(rows, sns.color_palette("deep" if len(rows) <= 10 else "husl", len(rows)), strict=True))
    scale = len(names) == 1 and all(type(line[names[0]]) in (int, float) for line in lines)
    high, wide = math.ceil(len(panels) / 2), min(len(panels), 2)
    with plotting.figure(high, wide, size=(4.6 * wide, 2.7 * high + 0.2 * len(rows))) as (figure, axes):
        for axis, column in zip(axes, panels, strict=False):
            for row in (row for row, other in cells if other == column):
                mine = [line for line in lines if (line["row"], line["column"]) == (row, column)]
                places = [line[names[0]] if scale else runs.index(line["run"]) + 1 for line in mine]
                points = sorted(zip(places, (line["value"] for line in mine), strict=True))
                axis.plot(*zip(*points, strict=True), "o-", ms=4, color=colours[row])
            spec = table.columns[column]
            plotting.title(axis, spec.title + ("" if spec.better == "neither" else f" ({spec.better} is better)"))
            axis.set_ylabel(spec.unit)
            axis.set_xlabel(names[0] if scale else f"run, in the order of {', '.join(names)}")
            if all(isinstance(place, int) for place in places):
                axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        keys = [Line2D([], [], marker="o", ms=4, color=colour) for colour in colours.values()]
        titles = [table.rows[row] for row in colours]
        figure.legend(keys, titles, loc="outside lower left", fontsize="small", frameon=False)
        plotting.save(figure, stem)
    return True
