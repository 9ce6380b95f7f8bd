"""The runs of a table side by side, by the parameters that are not the defaults."""

from pathlib import Path
from typing import Any

from mdrepro.core.errors import BadInput
from mdrepro.core.files import at_work
from mdrepro.core.reading import read_json
from mdrepro.papers import ledger
from mdrepro.papers.schema import Table, Tier
from mdrepro.reproduce.workflow import results
from mdrepro.reproduce.workflow.fingerprint import fingerprint
from mdrepro.reproduce.workflow.folders import ERROR, PARAMETERS, RESULT, begun, changed, failed
from mdrepro.reproduce.workflow.plan import reasons_to_run
from mdrepro.reproduce.workflow.verify import problems


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
