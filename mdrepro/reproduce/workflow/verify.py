"""Recomputes every hash and verdict of published results and local runs."""

from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from mdrepro.core.errors import BadInput
from mdrepro.core.files import sha256
from mdrepro.core.paths import published, relative, root, run_dir, runs
from mdrepro.core.provenance import locate
from mdrepro.papers import ledger
from mdrepro.papers.schema import TIERS, Table, Tier, network_name
from mdrepro.reproduce.workflow import results
from mdrepro.reproduce.workflow.fingerprint import changes, fingerprint, first_three


def problems(path: Path) -> list[str]:
    """What is wrong with one result file and the files it names; each line names the file. Empty when all is well."""
    try:
        result = results.read(path)
        table, tier = ledger.find(result["table"]), ledger.check_tier(result["tier"])
        place = run_dir(tier, table.id) / "result.json", published(tier) / f"{table.id}.json"
        if path not in place:
            return [f"{relative(path)}: is a result of {table.id} at tier {tier} and does not belong here"]
        own = chain(_origin(path, result), _judgements(result, table, tier), _networks(result, table, tier))
        return [*_changed_files(path, result), *(f"{relative(path)}: {problem}" for problem in own)]
    except BadInput as error:
        return [str(error)]
    except (KeyError, TypeError, AttributeError) as error:
        return [f"{relative(path)}: a field is missing or of the wrong type ({error})"]


def _changed_files(path: Path, result: results.Result) -> Iterator[str]:
    for name, expected in result["files"].items():
        file = path.parent / name
        if not file.is_file():
            yield f"{relative(file)}: is gone; {relative(path)} names it"
        elif sha256(file) != expected:
            yield f"{relative(file)}: was changed after {relative(path)} was written"


def _origin(path: Path, result: results.Result) -> Iterator[str]:
    origin = result["provenance"]
    for name, expected in origin["inputs"].items():
        input_file = locate(name)
        if input_file is None:
            yield f"its input {name} is gone"
        elif sha256(input_file) != expected:
            yield f"its input {name} is not the one that was measured"
    for name, entry in origin["checkpoints"].items() if path.is_relative_to(runs()) else ():
        file = root() / entry["path"]
        if not file.is_file() or sha256(file) != entry["sha256"]:
            yield f"its checkpoint {name} ({entry['path']}) is gone or changed"


def _judgements(result: results.Result, table: Table, tier: Tier) -> Iterator[str]:
    if not table.notebook or not (root() / table.notebook).is_file():
        yield f"its notebook {table.notebook} is gone"
    for row in result["rows"]:
        now = results.judged(table, tier, row)
        for field in ("paper_value", "paper_confidence", "verdict"):
            if now[field] != row[field]:
                yield f"{row['row']}/{row['column']}: {field} is {row[field]!r}, recomputed {now[field]!r}"
    if results.judged_claims(table, result["rows"]) != result["claims"]:
        yield "a claim's verdict is not the recomputed one"


def _networks(result: results.Result, table: Table, tier: Tier) -> Iterator[str]:
    """Rows with a number that the network declared for them did not make, by what was recorded of it."""
    origin = result["provenance"]
    measured = {row["row"] for row in result["rows"] if row["value"] is not None}
    seeds = origin["parameters"].get("seeds", 1)
    for row, declared in table.networks(tier).items() if "networks" in origin else ():  # older results lack it
        if row not in measured:
            continue
        made = origin["networks"].get(row)
        by = made and network_name(made["recipe"], made.get("decoder"), made.get("removed", ""))
        if by != declared.network:
            yield f"row {row} was made by {by or 'nothing that is recorded'}: expected {declared.network}"
            continue
        for recipe in declared.replicas(seeds):
            folder = Path(origin["checkpoints"].get(recipe, {}).get("path", "")).parent.name
            if folder not in (recipe, f"{recipe}-{made['keys'].get(recipe)}"):
                yield f"row {row} rests on {recipe}, whose checkpoint is not recorded"


def notes(result: results.Result) -> list[str]:
    """What a reader should know and is no fault: local changes, and code or parameters that have changed since."""
    table = ledger.find(result["table"])
    origin = result["provenance"]
    found = ["made with local changes that are in no commit"] if origin["dirty"] else []
    if "networks" not in origin and table.networks(ledger.check_tier(result["tier"])):
        found.append("made before results recorded which network made each row: only that its checkpoints were loaded")
    if "judged_at" in origin:
        found.append(f"measured at {str(origin['commit'])[:10]}, its verdicts given anew at {origin['judged_at'][:10]}")
    since = changes(origin["fingerprint"], fingerprint(table, origin["parameters"]))
    return [*found, f"since then: {first_three(since)}"] if since else found


def _one(path: Path) -> dict[str, Any]:
    found = problems(path)
    entry: dict[str, Any] = {"file": relative(path), "ok": not found, "problems": found}
    if found:
        return entry
    result = results.read(path)
    for name, judged in (("verdicts", result["rows"]), ("claims", result["claims"])):
        entry[name] = dict(sorted(Counter(one["verdict"] for one in judged).items()))
    return entry | {"notes": notes(result)}


def _files(tier: Tier) -> Iterator[tuple[str, str, Path]]:
    """(table, "published" or "run", path) of every result at ``tier``."""
    yield from ((path.stem, "published", path) for path in sorted(published(tier).glob("*.json")))
    yield from ((path.parent.name, "run", path) for path in sorted((runs() / tier).glob("[!.]*/result.json")))


def verify(tier: Tier | None = None) -> dict[str, Any]:
    """Check every published result and local run at ``tier`` (all tiers when None).

    Returns ``{"ok", "tables": {table: {"tier", "verdicts", "claims", "published": {...}, "run": {...}}}}``; the table's
    own counts are the published result's where there is one, else the run's.
    """
    tables: dict[str, dict[str, Any]] = {}
    ok = True
    for each in [tier] if tier else TIERS:
        for name, kind, path in _files(each):
            entry = _one(path)
            ok = ok and entry["ok"]
            key = name if tier else f"{each}/{name}"
            counts = {name: entry.get(name, {}) for name in ("verdicts", "claims")}
            tables.setdefault(key, {"tier": each} | counts)[kind] = entry
    return {"ok": ok, "tables": tables}
