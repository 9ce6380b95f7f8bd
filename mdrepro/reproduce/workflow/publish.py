"""Takes a verified run, made from a clean commit, into ``results/<tier>/``: what we published."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mdrepro.core.errors import BadInput
from mdrepro.core.files import replacing, replacing_tree
from mdrepro.core.locks import hold
from mdrepro.core.paths import published, publishing, relative, root, runs
from mdrepro.core.provenance import commit, dirty
from mdrepro.papers import ledger
from mdrepro.papers.schema import Tier
from mdrepro.reproduce.workflow import results
from mdrepro.reproduce.workflow.fingerprint import changes, fingerprint
from mdrepro.reproduce.workflow.folders import RESULT, default_run
from mdrepro.reproduce.workflow.parameters import resolve
from mdrepro.reproduce.workflow.verify import problems


def _check(name: str, tier: Tier) -> results.Result:
    """The run's result, if it may be published. Raises BadInput that says why it may not."""
    table = ledger.find(name)
    path = default_run(tier, name) / RESULT
    again = f"run: mdrepro reproduce {name} --tier {tier} --force"
    if not path.is_file():
        raise BadInput(f"{name} has no run with the default parameters at tier {tier}; {again}")
    if found := problems(path):
        raise BadInput(f"{name}: its run does not verify: {found[0]}")
    result = results.read(path)
    origin = result["provenance"]
    if origin["dirty"] or not origin["commit"]:
        changed = ", ".join(origin["changed_files"][:3]) or "no git commit"
        raise BadInput(f"{name}: its run was not made from a clean commit ({changed}); commit, then {again}")
    if since := changes(origin["fingerprint"], fingerprint(table, resolve(table, tier))):
        raise BadInput(f"{name}: its run is not of the code and default parameters as they stand ({since[0]}); {again}")
    return result


def publish(names: Sequence[str], tier: Tier) -> list[Path]:
    """Publish runs, all in one step, with the records of the trainings that they rest on; return the files written.

    Checkpoints in ``results/`` have their record beside their weights; those of ``papermill_runs/`` come as
    ``records/<recipe>-<key>-<hash>.json``, with or without their weights being published.

    Raises BadInput: a table is unknown or has no run, or a run does not verify, was made from a tree with local
    changes, or with other code or parameters than those that stand now.
    """
    checked = {name: _check(name, tier) for name in names}
    for path in published(tier).glob("*.json"):
        results.read(path)  # one that was edited is an error before anything is written
    written = list[str]()
    with _changing(tier) as folder:
        for name, result in checked.items():
            written += _publish(name, result, default_run(tier, name), folder)
    return [published(tier) / name for name in written]


@contextmanager
def _changing(tier: Tier) -> Iterator[Path]:
    """A copy of the tier's published files that takes their place in one step; one process at a time."""
    with hold(publishing()), replacing_tree(published(tier)) as folder:
        yield folder


def _publish(name: str, result: results.Result, run: Path, folder: Path) -> list[str]:
    """Put a run's files into ``folder`` and remove those of the result before; the names of what was written."""
    files = [file for file in result["files"] if file.startswith("figures/")]
    targets = {run / "result.csv": f"{name}.csv"}
    targets |= {run / file: f"figures/{name}-{Path(file).name}" for file in files}
    targets |= _training_records(result)
    before = {path.stem: set(results.read(path)["files"]) for path in folder.glob("*.json")}
    kept = {*targets.values(), *(file for other, named in before.items() if other != name for file in named)}
    for old in before.get(name, set()) - kept:
        (folder / old).unlink(missing_ok=True)
    for source, target in targets.items():
        with replacing(folder / target) as aside:
            shutil.copyfile(source, aside)
    origin = result["provenance"] | {"notebook_sha256": result["files"]["notebook.ipynb"]}
    results.write(folder / f"{name}.json", result | {"provenance": origin}, folder, targets.values())
    return [*targets.values(), f"{name}.json"]


def _training_records(result: results.Result) -> dict[Path, str]:
    """Records of trained runs of this machine that a result rests on, and where they are published."""
    entries = result["provenance"]["checkpoints"].values()
    records = ((root() / entry["path"], results.training_record(entry)) for entry in entries)
    return {file: name for file, name in records if file.is_relative_to(runs())}


def rejudge(tier: Tier) -> list[Path]:
    """Judge all published numbers again by the papers' data as they stand; return the files written.

    The numbers, and where they come from, stay as they are. A result whose verdicts are still the same is not touched.
    Raises BadInput where nothing is published, for local changes, a result that cannot be read, or one with a cell that
    its table no longer declares.
    """
    if not published(tier).is_dir():
        raise BadInput(f"{relative(published(tier))}: no folder with published results at tier {tier}")
    if changed := dirty():
        raise BadInput(f"verdicts are published of a clean commit, and {', '.join(changed[:3])} changed; commit first")
    judged: dict[str, results.Result] = {}
    for path in sorted(published(tier).glob("*.json")):
        result, table = results.read(path), ledger.find(path.stem)
        for row, column in ((one["row"], one["column"]) for one in result["rows"]):
            if not table.declares(row, column):
                raise BadInput(f"{table.id} declares no {row}/{column}, which was published; run and publish it again")
        rows = [results.judged(table, tier, row) for row in result["rows"]]
        claims = results.judged_claims(table, rows)
        if (rows, claims) != (result["rows"], result["claims"]):
            origin = result["provenance"] | {"judged_at": commit()}
            judged[table.id] = result | {"rows": rows, "claims": claims, "provenance": origin}
    if judged:
        with _changing(tier) as folder:
            for name, result in judged.items():
                with replacing(folder / f"{name}.csv") as aside:
                    results.write_csv(aside, result["rows"])
                results.write(folder / f"{name}.json", result, folder, result["files"])
    return [published(tier) / f"{name}{kind}" for name in judged for kind in (".csv", ".json")]
