"""Result files: written whole or not at all, sealed by a hash, read back and checked. The only writer of results."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mdrepro.core.errors import BadInput
from mdrepro.core.files import digest, file_hashes, write_json
from mdrepro.core.paths import published, relative
from mdrepro.core.reading import checked, inside, read_json
from mdrepro.papers import ledger
from mdrepro.papers.schema import Table, Tier
from mdrepro.reproduce.workflow.folders import RESULT, changed, default_run

FORMAT = 1
FIELDS = ("row", "column", "value", "unit", "n", "seeds", "ci_low", "ci_high", "protocol", "paper_value", "verdict")
EXTRA = ("paper_confidence", "reason", "by_seed")
"""``seeds``: training seeds that a row was measured by, None where no network was trained for it; ``by_seed``: the
value of each. Results from before rows had several lack both."""
Result = dict[str, Any]


def judged(table: Table, tier: Tier, row: Mapping[str, Any]) -> dict[str, Any]:
    """A result row with the paper's figure and the verdict recomputed from its value and interval."""
    cell = table.cell(row["row"], row["column"])
    ci = None if row["ci_low"] is None else (row["ci_low"], row["ci_high"])
    return dict(row) | {
        "paper_value": cell.value if cell else None,
        "paper_confidence": cell.confidence if cell else None,
        "verdict": ledger.judge(table, tier, row["row"], row["column"], row["value"], ci).value,
    }


def judged_claims(table: Table, rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Every claim of the table with its verdict on ``rows`` and the numbers behind it."""
    rows = with_seeds(table, rows)
    judged = ((claim.id, *ledger.judge_claim(claim, rows, table.on_pictures)) for claim in table.claims)
    return [{"id": name, "verdict": verdict.value, "numbers": numbers} for name, verdict, numbers in judged]


def with_seeds(table: Table, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows; those of tables of quality that do not say on how many training seeds they rest: on one."""
    trained = {"seeds": 1} if any(run.networks for run in table.tiers.values()) else {}
    return [trained | row for row in rows]


def seal(result: Result) -> Result:
    """``result`` with ``sha256`` over all its other fields."""
    body = {key: value for key, value in result.items() if key != "sha256"}
    return body | {"sha256": digest(body)}


def write(path: Path, result: Result, folder: Path, names: Iterable[str]) -> Result:
    """Write a result with the hashes of its files in ``folder``, sealed; return it as written."""
    sealed = seal(result | {"files": file_hashes(folder, names)})
    write_json(path, sealed)
    return sealed


def of_seeds(rows: Iterable[Mapping[str, Any]]) -> bool:
    """Whether rows say by how many training seeds they were measured; results from before they could do not."""
    return any("seeds" in row for row in rows)


def fields(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The fields of each of a result's rows, in the order of its CSV."""
    lacking = () if of_seeds(rows) else ("seeds", "by_seed")
    return [name for name in (*FIELDS, *EXTRA) if name not in lacking]


def csv_text(rows: list[dict[str, Any]]) -> str:
    """The rows of a result as CSV, one line a cell; a missing value is an empty field, values by seed are one field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=fields(rows), lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(row | {"by_seed": " ".join(map(str, row.get("by_seed", ())))} for row in rows)
    return text.getvalue()


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write `csv_text`."""
    path.write_bytes(csv_text(rows).encode())


def read(path: Path) -> Result:
    """A result file as written. Raises BadInput: missing, not JSON, of another format, or edited afterwards.

    So does one whose files lie outside its folder.
    """
    if not path.exists():
        raise BadInput(f"{relative(path)}: no such result")
    try:
        result: Result = read_json(path, dict[str, Any])
    except BadInput as error:
        raise BadInput(f"{relative(path)}: not a readable result file ({error})") from None
    if result.get("format") != FORMAT:
        raise BadInput(f"{relative(path)}: not a result file of format {FORMAT}")
    if seal(result)["sha256"] != result.get("sha256"):
        raise BadInput(f"{relative(path)}: its hash does not match its content: it was edited after it was written")
    for name in checked(result.get("files"), dict[str, str], f"{relative(path)}, files"):
        inside(path.parent, name, relative(path))
    return result


def training_record(entry: Mapping[str, str]) -> str:
    """Where the record of a checkpoint of this machine is kept beside published results; ``entry``: its provenance."""
    return f"records/{Path(entry['path']).parent.name}-{entry['sha256'][:12]}.json"


def run_result(tier: Tier, table: str, folder: Path | None = None) -> Result | None:
    """The result of a local run, by default the one with the default parameters, or None where there is none."""
    path = (folder or default_run(tier, table)) / RESULT
    return read(path) if path.is_file() else None


def published_result(tier: str, table: str) -> Result | None:
    """The published result, or None where there is none."""
    path = published(tier) / f"{table}.json"
    return read(path) if path.is_file() else None


def comparable(result: Result, published: Result | None) -> Result | None:
    """The published result, or None where it was made with other parameters: their numbers are not compared."""
    if published is None:
        return None
    tier, table = ledger.check_tier(result["tier"]), result["table"]
    ours, theirs = (changed(tier, table, one["provenance"]["parameters"]) for one in (result, published))
    return published if ours == theirs else None


def agreement(table: Table, rows: list[dict[str, Any]], earlier: Result | None) -> dict[tuple[str, str], bool | None]:
    """For each cell of ``rows`` that an earlier result also holds: whether the two numbers agree."""
    before = {(row["row"], row["column"]): row["value"] for row in (earlier or {}).get("rows", [])}
    return {
        key: ledger.agrees(table.columns[row["column"]], row["value"], before[key])
        for row in rows
        if (key := (row["row"], row["column"])) in before
    }
