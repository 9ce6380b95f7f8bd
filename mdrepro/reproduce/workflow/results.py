"""Result files: written whole or not at all, sealed by a hash, read back and checked. The only writer of results."""

import csv
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mdrepro.core.errors import BadInput
from mdrepro.core.paths import published, relative, run_dir, sha256
from mdrepro.papers import ledger
from mdrepro.papers.schema import Table, Tier
from mdrepro.reproduce.workflow.fingerprint import digest

FORMAT = 1
FIELDS = ("row", "column", "value", "unit", "n", "ci_low", "ci_high", "protocol", "paper_value", "verdict")
EXTRA = ("paper_confidence", "reason")
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
    claims = []
    for claim in table.claims:
        verdict, numbers = ledger.judge_claim(claim, rows, table.on_pictures)
        claims.append({"id": claim.id, "verdict": verdict.value, "numbers": numbers})
    return claims


def seal(result: Result) -> Result:
    """``result`` with ``sha256`` over all its other fields."""
    body = {key: value for key, value in result.items() if key != "sha256"}
    return body | {"sha256": digest(body)}


def write_json(path: Path, value: Any) -> None:
    """Write JSON beside ``path`` and rename it into place. Raises ValueError for NaN or infinite numbers."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Write text beside ``path`` and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
        file.write(text)
    os.chmod(name, 0o644)
    os.replace(name, path)


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """The rows of a result as CSV, one line a cell; a missing value is an empty field."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=[*FIELDS, *EXTRA], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


@contextmanager
def aside(final: Path) -> Iterator[Path]:
    """A new folder beside ``final`` that takes its place when the block ends well, and disappears otherwise.

    An older ``final`` stays untouched until then.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    for left in final.parent.glob(f".{final.name}.*"):
        if (process := left.name.removeprefix(f".{final.name}.").split(".")[0]).isdigit() and not _running(
            int(process)
        ):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}.{os.getpid()}."))
    folder.chmod(0o755)
    try:
        yield folder
        swap(folder, final)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def swap(folder: Path, final: Path) -> None:
    """Move ``folder`` to ``final``, replacing what is there; of two processes doing so at once, the later one wins."""
    for attempt in range(100):
        old = folder.with_name(f"{folder.name}.old{attempt}")
        with suppress(FileNotFoundError):
            os.replace(final, old)
        try:
            os.replace(folder, final)
            return
        except OSError:
            if not final.exists() or attempt == 99:
                raise
        finally:
            shutil.rmtree(old, ignore_errors=True)


def read(path: Path) -> Result:
    """A result file as written.

    Raises:
        BadInput: it is missing, not JSON, of another format, or was edited after it was written; the message names it.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{relative(path)}: no such result") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{relative(path)}: not a readable result file ({error})") from None
    if not isinstance(result, dict) or result.get("format") != FORMAT:
        raise BadInput(f"{relative(path)}: not a result file of format {FORMAT}")
    if seal(result)["sha256"] != result.get("sha256"):
        raise BadInput(f"{relative(path)}: its hash does not match its content: it was edited after it was written")
    return result


def run_result(tier: str, table: str) -> Result | None:
    """The local run's result, or None where there is none."""
    path = run_dir(tier, table) / "result.json"
    return read(path) if path.is_file() else None


def published_result(tier: str, table: str) -> Result | None:
    """The published result, or None where there is none."""
    path = published(tier) / f"{table}.json"
    return read(path) if path.is_file() else None


def file_hashes(folder: Path, names: list[str]) -> dict[str, str]:
    """SHA-256 of files in ``folder``, by their names relative to it."""
    return {name: sha256(folder / name) for name in sorted(names)}


def agreement(table: Table, rows: list[dict[str, Any]], earlier: Result | None) -> dict[tuple[str, str], bool | None]:
    """For each cell of ``rows`` that an earlier result also holds: whether the two numbers agree."""
    before = {(row["row"], row["column"]): row["value"] for row in (earlier or {}).get("rows", [])}
    return {
        key: ledger.agrees(table.columns[row["column"]], row["value"], before[key])
        for row in rows
        if (key := (row["row"], row["column"])) in before
    }
