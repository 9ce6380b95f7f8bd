"""Recomputes every hash and verdict of published results and local runs."""

import datetime
import math
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from mdrepro.core.errors import BadInput
from mdrepro.core.files import sha256
from mdrepro.core.paths import published, relative, root, runs
from mdrepro.core.provenance import locate
from mdrepro.evaluation.rows import Row
from mdrepro.papers import ledger
from mdrepro.papers.schema import TIERS, Table, Tier, network_name
from mdrepro.reproduce.workflow import results
from mdrepro.reproduce.workflow.fingerprint import changes, fingerprint, first_three
from mdrepro.reproduce.workflow.folders import RESULT, default_run, every, run_folder

SECTIONS = {"format", "table", "tier", "rows", "claims", "provenance", "files", "sha256"}
ORIGIN = {
    *("commit", "dirty", "changed_files", "created", "seconds", "parameters", "seed", "hardware", "platform", "python"),
    *("versions", "lock_sha256", "inputs", "checkpoints", "fingerprint"),
}


def problems(path: Path) -> list[str]:
    """What is wrong with one result file and the files it names; each line names the file. Empty when all is well."""
    try:
        result = results.read(path)
        table, tier = ledger.find(result["table"]), ledger.check_tier(result["tier"])
        run = run_folder(tier, table.id, result["provenance"]["parameters"])
        if path not in (run / RESULT, published(tier) / f"{table.id}.json"):
            return [f"{relative(path)}: is a result of {table.id} at tier {tier} and does not belong here"]
        own = chain(
            _cells(result, table),
            _named_files(path, result),
            _origin(path, result),
            _checkpoints(path, result),
            _judgements(result, table, tier),
            _networks(result, table, tier),
        )
        return [*_changed_files(path, result), *(f"{relative(path)}: {problem}" for problem in own)]
    except BadInput as error:
        return [str(error)]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return [f"{relative(path)}: a field is missing or of the wrong type ({error})"]


def _changed_files(path: Path, result: results.Result) -> Iterator[str]:
    for name, expected in result["files"].items():
        file = path.parent / name
        if not file.is_file():
            yield f"{relative(file)}: is gone; {relative(path)} names it"
        elif sha256(file) != expected:
            yield f"{relative(file)}: was changed after {relative(path)} was written"


def _cells(result: results.Result, table: Table) -> Iterator[str]:
    """Rows that `record` would not have written: a field, a value, a unit, a cell too many or too few."""
    if strange := result.keys() ^ SECTIONS:
        yield f"its sections are not {', '.join(sorted(SECTIONS))}: {', '.join(sorted(strange))}"
    fields, order = set(results.fields(result["rows"])), [*table.rows, *table.columns]
    keys = [(row["row"], row["column"]) for row in result["rows"]]
    for key, row in zip(keys, result["rows"], strict=True):
        name = "/".join(key)
        if strange := row.keys() ^ fields:
            yield f"{name}: a field is missing or unknown: {', '.join(sorted(strange))}"
            continue
        if not table.declares(*key):
            yield f"{name}: {table.id} declares no such cell"
            continue
        numbers = [row[field] for field in ("value", "ci_low", "ci_high") if row[field] is not None]
        numbers += row.get("by_seed", [])
        if any(isinstance(number, bool) or not math.isfinite(number) for number in numbers):
            yield f"{name}: a value is no finite number"
        if row["n"] is not None and (type(row["n"]) is not int or row["n"] < 1):
            yield f"{name}: n is {row['n']!r}: it must be a positive integer or nothing"
        if row["unit"] != table.columns[key[1]].unit:
            yield f"{name}: its unit is {row['unit']!r}: expected {table.columns[key[1]].unit!r}"
        if row.get("seeds") != (len(row.get("by_seed", ())) or None):
            yield f"{name}: it is of {row['seeds']} training seeds and has the values of {len(row['by_seed'])}"
        if row["value"] is not None and not row["protocol"]:
            yield f"{name}: nothing says how it was measured"
        try:
            Row(*key, row["value"], row["protocol"], ci_low=row["ci_low"], ci_high=row["ci_high"], reason=row["reason"])
        except ValueError as error:
            yield str(error)
    yield from (f"{row}/{column}: is given {n} times" for (row, column), n in Counter(keys).items() if n > 1)
    for cell in table.cells:
        if (cell.row, cell.column) not in keys:
            yield f"the paper's cell {cell.row}/{cell.column} is missing"
    if all(table.declares(*key) for key in keys) and keys != sorted(keys, key=lambda key: [*map(order.index, key)]):
        yield "its rows are not in the table's order"


def _named_files(path: Path, result: results.Result) -> Iterator[str]:
    """Files that have to be there and are not named, and a CSV that is not the rows."""
    run, names = path.is_relative_to(runs()), set(result["files"])
    table = "result.csv" if run else f"{result['table']}.csv"
    needed = {table, "notebook.ipynb"} if run else {table}
    needed |= {str(Path(name).with_suffix(kind)) for name in names if "figures/" in name for kind in (".png", ".svg")}
    if run:
        needed |= {f"figures/{file.name}" for file in (path.parent / "figures").glob("[!.]*")}
    yield from (f"it does not name its file {name}" for name in sorted(needed - names))
    if (path.parent / table).is_file():
        text = (path.parent / table).read_text(encoding="utf-8")
        if text != results.csv_text(result["rows"]):
            yield f"{table} does not have the same rows"


def _origin(path: Path, result: results.Result) -> Iterator[str]:
    origin, table = result["provenance"], ledger.find(result["table"])
    if missing := ORIGIN - origin.keys():
        yield f"its provenance lacks {', '.join(sorted(missing))}"
        return
    parameters, basis = origin["parameters"], origin["fingerprint"]
    if parameters != basis["parameters"] or parameters["tier"] != result["tier"]:
        yield "its parameters are not those of its fingerprint and tier"
    if origin["seed"] != parameters.get("seed"):
        yield f"its seed is {origin['seed']}, and its parameters say {parameters.get('seed')}"
    if table.notebook not in basis["code"] or table.id not in basis["papers"]:
        yield "its fingerprint is not of this table and its notebook"
    if lost := basis["recipes"].keys() - origin["checkpoints"].keys():
        yield f"it rests on {', '.join(sorted(lost))}, whose checkpoints are not recorded"
    datetime.datetime.fromisoformat(origin["created"])
    if bool(origin["dirty"]) != bool(origin["changed_files"]):
        yield "whether it was made with local changes is not clear"
    hashes = [each["sha256"] for each in origin["checkpoints"].values()] + [*origin["inputs"].values()]
    if not path.is_relative_to(runs()):
        if origin["dirty"] or not re.fullmatch("[0-9a-f]{40}", origin["commit"] or ""):
            yield "it was published and is of no clean commit"
        hashes.append(origin["notebook_sha256"])
    if not all(re.fullmatch("[0-9a-f]{64}", each) for each in hashes):
        yield "what it rests on is not named by a SHA-256"
    if not (origin["hardware"] and origin["versions"] and origin["platform"] and origin["python"]):
        yield "it does not say on what machine it was made"
    for name, expected in origin["inputs"].items():
        input_file = locate(name)
        if input_file is None:
            yield f"its input {name} is gone"
        elif sha256(input_file) != expected:
            yield f"its input {name} is not the one that was measured"


def _checkpoints(path: Path, result: results.Result) -> Iterator[str]:
    """Records of trained runs that are gone or changed; of this machine's, a published result keeps copies."""
    run = path.is_relative_to(runs())
    if not (run or results.of_seeds(result["rows"])):
        return  # older results lack the copies
    for name, entry in result["provenance"]["checkpoints"].items():
        file = root() / entry["path"]
        if not run and file.is_relative_to(runs()):
            kept = results.training_record(entry)
            if result["files"].get(kept) != entry["sha256"]:
                yield f"the record of its checkpoint {name}, {kept}, is not among its files"
        elif not file.is_file() or sha256(file) != entry["sha256"]:
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
    if table.networks(tier) and "networks" not in origin and results.of_seeds(result["rows"]):
        yield "it does not say which network made each row"
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
    result = {} if found else results.read(path)
    try:
        remarks = [] if found else notes(result)
    except BadInput as error:  # its notebook cannot be read
        found = [str(error)]
    entry: dict[str, Any] = {"file": relative(path), "ok": not found, "problems": found}
    if found:
        return entry
    for name, judged in (("verdicts", result["rows"]), ("claims", result["claims"])):
        entry[name] = dict(sorted(Counter(one["verdict"] for one in judged).items()))
    return entry | {"notes": remarks}


def _files(tier: Tier) -> Iterator[tuple[str, str, Path]]:
    """(table, "published", "run" or the key of a run with other parameters, path) of every result at ``tier``."""
    yield from ((path.stem, "published", path) for path in sorted(published(tier).glob("*.json")))
    for folder in every(tier):
        table = folder.parent.name
        default = False
        with suppress(BadInput):  # its notebook cannot be read
            default = folder == default_run(tier, table)
        yield table, "run" if default else folder.name, folder / RESULT


def verify(tier: Tier | None = None) -> dict[str, Any]:
    """Check every published result and local run at ``tier`` (all tiers when None).

    Returns ``{"ok", "tables": {table: {"tier", "verdicts", "claims", "published": {...}, "run": {...},
    "other runs": {key: {...}}}}, "problems"}``, each part where there is one: "run" has the default parameters;
    the table's own counts are the published result's where there is one, else the run's; the problems are those of
    trained runs, and files in ``results/`` that no result names.
    """
    from mdrepro.reproduce.workflow import verify_weights

    tables: dict[str, dict[str, Any]] = {}
    ok, others = True, list[str]()
    for each in [tier] if tier else TIERS:
        for name, kind, path in _files(each):
            entry = _one(path)
            ok = ok and entry["ok"]
            key = name if tier else f"{each}/{name}"
            counts = {name: entry.get(name, {}) for name in ("verdicts", "claims")}
            found = tables.setdefault(key, {"tier": each} | counts)
            if kind in ("published", "run"):
                found[kind] = entry
            else:
                found.setdefault("other runs", {})[kind] = entry
        others += [*verify_weights.problems(each), *_unnamed(each)]
    return {"ok": ok and not others, "tables": tables, "problems": others}


def _unnamed(tier: Tier) -> Iterator[str]:
    """Published files, checkpoints aside, that no published result names."""
    home, named = published(tier), set[str]()
    for file in home.glob("*.json"):
        with suppress(BadInput, KeyError, TypeError):
            named |= {file.name, *results.read(file)["files"]}
    for file in sorted(file for file in home.rglob("[!.]*") if file.is_file()):
        name = file.relative_to(home).as_posix()
        if not name.startswith("checkpoints/") and name not in named:
            yield f"{relative(file)}: no result names it"
