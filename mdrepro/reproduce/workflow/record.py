"""``record``: the last call of every notebook. Turns measured rows into a sealed, judged, traceable result."""

import html
import json
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mdrepro.core import plotting
from mdrepro.core.files import replacing_folder
from mdrepro.core.paths import root, runs
from mdrepro.core.provenance import Input, provenance, state
from mdrepro.evaluation.rows import Row
from mdrepro.papers import ledger
from mdrepro.papers.schema import Table, Tier
from mdrepro.reproduce.formatting import ours, paper
from mdrepro.reproduce.workflow import results
from mdrepro.reproduce.workflow.fingerprint import fingerprint
from mdrepro.reproduce.workflow.parameters import declared

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

RUN = "MDREPRO_RUN"
"""Environment variable in which the batch runner hands a kernel its folder, table, parameters and fingerprint."""


def job() -> dict[str, Any]:
    """The run of the batch that this process belongs to, as its job set it; empty in a notebook run by hand."""
    found: dict[str, Any] = json.loads(os.environ.get(RUN, "{}"))
    return found


class RowMaker(Protocol):
    """What made a table's rows: `mdrepro.evaluation.experiment.Experiment`, by its interface alone, so that tables
    without networks do not rest on the code that trains them."""

    table: str
    tier: Tier

    def credits(self, measured: Collection[str], parameters: Mapping[str, Any]) -> tuple[Any, dict[str, Path]]:
        """How each measured row was made, and the records of the runs that made it. Raises BadInput."""


@dataclass(frozen=True, repr=False)
class Recorded:
    """What was recorded; shows itself as the table of verdicts."""

    folder: Path
    result: results.Result

    def __repr__(self) -> str:
        return f"{self.result['table']}: {len(self.result['rows'])} cells recorded at tier {self.result['tier']}"

    def _repr_html_(self) -> str:
        table = ledger.find(self.result["table"])
        header = "".join(f"<th>{name}</th>" for name in ("row", "column", "ours", "seeds", "paper", "verdict"))
        lines = []
        for row in self.result["rows"]:
            seeds = str(row["seeds"] or "")
            cells = (row["row"], row["column"], ours(table, row), seeds, paper(table, row), row["verdict"])
            lines.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
        claims = "".join(
            "<li><b>{}</b>: {} ({})</li>".format(*(html.escape(claim[key]) for key in ("verdict", "id", "numbers")))
            for claim in self.result["claims"]
        )
        return f"<table><thead><tr>{header}</tr></thead><tbody>{''.join(lines)}</tbody></table><ul>{claims}</ul>"


def _from_notebook(table: Table) -> dict[str, Any]:
    """The parameters' values in the running notebook. Raises ValueError outside one."""
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    assert table.notebook
    names = declared(root() / table.notebook)
    if shell is None or not set(names) <= set(shell.user_ns):
        raise ValueError("record was called outside the table's notebook: pass parameters={...}")
    return {name: parameter.check(shell.user_ns[name]) for name, parameter in names.items()}


def complete(table: Table, rows: Sequence[Row]) -> list[Row]:
    """``rows``, and a "not attempted" one for every cell of the paper that they leave out, in the table's order.

    Raises ValueError: a row or column that the table does not declare, or a cell given twice.
    """
    keys = [(row.row, row.column) for row in rows]
    for row, column in keys:
        if not table.declares(row, column):
            raise ValueError(f"{table.id} declares no cell {row}/{column}")
        if keys.count((row, column)) > 1:
            raise ValueError(f"{row}/{column} is given twice")
    left_out = [(cell.row, cell.column) for cell in table.cells if (cell.row, cell.column) not in keys]
    missing = [Row.absent(*key, table.needed(*key) or "this notebook does not measure it") for key in left_out]
    order = {name: index for index, name in enumerate([*table.rows, *table.columns])}
    return sorted([*rows, *missing], key=lambda row: (order[row.row], order[row.column]))


def _with_unit(table: Table, row: Row) -> dict[str, Any]:
    seeds = {"seeds": len(row.by_seed) or None, "by_seed": list(row.by_seed)}
    return asdict(row) | seeds | {"unit": table.columns[row.column].unit}


def frame(table: str, rows: Sequence[Row]) -> "DataFrame":
    """What was measured, to look at before it is recorded: row, column, value, interval, unit and training seeds."""
    import pandas as pd

    spec = ledger.find(table)
    lines = [_with_unit(spec, row) for row in rows if row.value is not None]
    return pd.DataFrame(lines, columns=["row", "column", "value", "ci_low", "ci_high", "unit", "seeds"])


def record(
    table: str,
    rows: Sequence[Row],
    *,
    figures: Mapping[str, "Figure"] | None = None,
    inputs: Sequence[Input] = (),
    checkpoints: Mapping[str, Path] | None = None,
    experiment: "RowMaker | None" = None,
    parameters: Mapping[str, Any] | None = None,
) -> Recorded:
    """Judge ``rows`` against the paper and write ``result.json``, ``result.csv`` and ``figures/`` (PNG and SVG).

    In a batch run the files go to the run's folder; in JupyterLab to ``papermill_runs/interactive/<table>/``.

    Args:
        table: the table's name in ``mdrepro/papers``.
        rows: what was measured; cells of the paper left out are added as "not attempted".
        figures: matplotlib figures by file name without ending.
        inputs: name and path of each file that the numbers rest on (see ``provenance.Input``).
        checkpoints: trained weights that the run made or took, by name; not of tables that declare networks.
        experiment: of those: what made their rows, from which the checkpoints are taken.
        parameters: the notebook's parameters; None reads them from the running notebook.

    Raises ValueError for rows outside the table's declaration, a number that is not finite, or a row with a number that
    the network declared for it did not make.
    """
    spec = ledger.find(table)
    run = job()
    if run and run["table"] != table:
        raise ValueError(f"this run is of table {run['table']}, not {table}")
    if run and run["prefix"] != sys.prefix:
        raise RuntimeError(f"the kernel runs in {sys.prefix}, not in mdrepro's environment {run['prefix']}")
    values = dict(run["parameters"] if run else _from_notebook(spec) if parameters is None else parameters)
    tier = ledger.check_tier(values["tier"])
    networks, made = _credits(spec, tier, values, rows, experiment, checkpoints)
    judged = [results.judged(spec, tier, _with_unit(spec, row)) for row in complete(spec, rows)]
    result: results.Result = {
        "format": results.FORMAT,
        "table": table,
        "tier": tier,
        "rows": [{name: row[name] for name in (*results.FIELDS, *results.EXTRA)} for row in judged],
        "claims": results.judged_claims(spec, judged),
        "provenance": (run["state"] if run else state())
        | provenance(values, inputs, made)
        | networks
        | {"fingerprint": run["fingerprint"] if run else fingerprint(spec, values)},
    }
    final = Path(run["folder"]) if run else runs() / "interactive" / table
    with nullcontext(final) if run else replacing_folder(final) as folder:
        results.write_csv(folder / "result.csv", result["rows"])
        (folder / "figures").mkdir(exist_ok=True)
        files = ["result.csv"]
        for name, figure in (figures or {}).items():
            files += [f"figures/{path.name}" for path in plotting.save(figure, folder / "figures" / name)]
        written = results.write(folder / "result.json", result, folder, files)
    if not run:
        print(f"recorded in {final.relative_to(root())}", file=sys.stderr)
    return Recorded(final, written)


def _credits(
    table: Table,
    tier: Tier,
    values: Mapping[str, Any],
    rows: Sequence[Row],
    experiment: "RowMaker | None",
    checkpoints: Mapping[str, Path] | None,
) -> tuple[dict[str, Any], Mapping[str, Path]]:
    """What made the rows, for the provenance, and the records of the runs whose checkpoints they rest on."""
    if not table.networks(tier):
        if experiment is not None:
            raise ValueError(f"{table.id} declares no networks at tier {tier}: give no experiment")
        return {}, checkpoints or {}
    if experiment is None or checkpoints is not None:
        raise ValueError(f"{table.id} takes its checkpoints from what made its rows: give experiment=, no checkpoints")
    if (experiment.table, experiment.tier) != (table.id, tier):
        raise ValueError(f"the experiment is of {experiment.table} at tier {experiment.tier}, not {table.id} at {tier}")
    networks, files = experiment.credits({row.row for row in rows if row.value is not None}, values)
    return {"networks": networks}, files
