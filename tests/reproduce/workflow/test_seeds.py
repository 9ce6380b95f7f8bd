"""Tables over several training seeds: what is trained for them, what a result's parameters and records say."""

import json
import subprocess
from pathlib import Path
from typing import Any

import nbformat
import pytest

from mdrepro.core.errors import BadInput
from mdrepro.core.files import file_hashes, sha256, write_json
from mdrepro.core.paths import published, runs
from mdrepro.papers import ledger
from mdrepro.papers.schema import PUBLISHED, DeclaredSetup, Table, TierRun
from mdrepro.reproduce import doctor
from mdrepro.reproduce.workflow import execute, plan, publish, results, verify
from mdrepro.reproduce.workflow.fingerprint import changes, fingerprint
from mdrepro.reproduce.workflow.folders import default_run
from mdrepro.reproduce.workflow.parameters import resolve
from mdrepro.training.recipes.recipe import Recipe
from mdrepro.training.runs import scratch, store
from tests.support.checkout import NOTEBOOK, PARAMETERS, TABLE, WORK, make_run, notebook
from tests.support.recipe_rows import put, tiny

SEEDS = "seeds: int = 1  # in [1, 9]: training seeds of each row\n"
OTHER = "mobilediffusion-steps"
ROW: dict[str, Any] = {"steps": 2, "sampler": "ddim", "guidance": 2.0}


def declared(seeds: int = 3, **rows: DeclaredSetup) -> TierRun:
    """The toy's row ``sd15`` is measured by t-1, over several training seeds, and read by t-reader."""
    one = {"sd15": DeclaredSetup(recipe="t-1", **ROW)} | rows
    return TierRun(networks=one, scorers=("t-reader",), seeds=seeds)


@pytest.fixture
def toy(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Table:
    """The toy table alone, over three seeds; its notebook takes the parameter ``seeds``."""
    monkeypatch.setenv(scratch.VARIABLE, "")
    put(tiny(), monkeypatch)
    nbformat.write(notebook(PARAMETERS + SEEDS, WORK, "print(seeds)"), workspace / NOTEBOOK)
    _commit(workspace)
    table = ledger.find(TABLE)
    table = table.model_copy(update={"tiers": table.tiers | {"quick": declared()}})
    monkeypatch.setattr(ledger, "tables", lambda *, planned=False: {TABLE: table})
    return table


def _commit(home: Path) -> None:
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "commit", "-qam", "seeds"], cwd=home, check=True)


def _trained(row: Recipe | str, place: Path | None = None) -> Path:
    """The record of a run that only seems to be finished."""
    recipe = row if isinstance(row, Recipe) else store.registry.get(row)
    folder = place or store.folder(recipe)
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"w")
    files = {"weights": sha256(folder / "weights")}
    write_json(folder / store.RECORD, {"recipe": recipe.name, "key": store.key(recipe), "files": files, "bytes": 1})
    return folder / store.RECORD


def test_rows_are_measured_by_all_seeds_and_other_networks_are_one() -> None:
    rows = {
        "two": DeclaredSetup(recipe="t-8", seeds=2, decoder="t-lite", **ROW),
        "given": DeclaredSetup(recipe=PUBLISHED, **ROW),
    }
    table = declared(**rows)
    assert table.recipes(1) == ("t-reader", "t-1", "t-8", "t-lite")
    every = ("t-reader", "t-1", "t-1-seed1", "t-1-seed2", "t-8", "t-8-seed1", "t-lite")
    assert table.recipes() == table.recipes(3) == every
    assert rows["two"].denoisers(9) == ("t-8", "t-8-seed1")
    assert rows["given"].denoisers(9) == (PUBLISHED,)


def test_what_is_missing_of_all_seeds_is_trained_once(toy: Table, workspace: Path) -> None:
    (job,) = plan.plan([TABLE], "quick")
    assert job.parameters["seeds"] == 3
    due = plan.checkpoints(plan.recipes([job]))
    denoisers = [f"{name}{seed}" for seed in ("", "-seed1", "-seed2") for name in ("t-base", "t-1")]
    assert [each.recipe for each in due] == ["t-reader", "t-vae", "t-text", *denoisers]
    parents = {each.recipe: each.parents for each in due}
    assert parents["t-1-seed2"] == ("t-base-seed2", "t-text", "t-vae")
    rules = json.loads(execute.write_plan([job], due, workspace / "plan").read_text())["rules"]
    assert rules[0]["inputs"] == [f"plan/marks/{each.recipe}" for each in due]
    for name in ("t-base", "t-1", "t-base-seed1"):
        _trained(name)
    assert {each.recipe for each in plan.checkpoints(plan.recipes([job]))} == {each.recipe for each in due} - {
        *("t-base", "t-1", "t-base-seed1")
    }
    (alone,) = plan.plan([TABLE], "quick", seeds=1)
    assert [each.recipe for each in plan.checkpoints(plan.recipes([alone]))] == ["t-reader", "t-vae", "t-text"]


def test_another_number_of_seeds_is_another_run(toy: Table, workspace: Path) -> None:
    three, one = (fingerprint(toy, resolve(toy, "quick", given)) for given in ((), ("seeds=1",)))
    assert changes(three, one) == [
        "parameter seeds: 3 → 1",
        "recipes gone: t-1-seed1",
        "recipes gone: t-1-seed2",
    ]
    assert plan.plan([], "quick", seeds=2)[0].parameters["seeds"] == 2
    with pytest.raises(BadInput, match=r"seeds = 10: expected int in \[1, 9\]"):
        plan.plan([], "quick", seeds=10)
    nbformat.write(notebook(PARAMETERS, WORK), workspace / NOTEBOOK)
    with pytest.raises(BadInput, match="tier quick sets unknown parameters: seeds"):
        plan.plan([], "quick")


def test_seeds_are_of_tables_that_take_them(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = ledger.find(TABLE)
    monkeypatch.setattr(ledger, "tables", lambda *, planned=False: {TABLE: table})
    assert "seeds" not in plan.plan([], "quick", seeds=2)[0].parameters
    with pytest.raises(BadInput, match=f"unknown parameter of {TABLE} 'seeds'"):
        plan.plan([TABLE], "quick", seeds=2)


def test_verify_asks_for_the_checkpoints_of_all_seeds(toy: Table) -> None:
    names = toy.recipes("quick")
    setup = {"recipe": "t-1", "keys": dict.fromkeys(names, "0123456789ab")}
    origin: dict[str, Any] = {"networks": {"sd15": setup}, "parameters": {"seeds": 3}}
    origin["checkpoints"] = {name: {"path": f"papermill_runs/{name}-0123456789ab/training.json"} for name in names}
    result = {"rows": [{"row": "sd15", "value": 1.0}], "provenance": origin}
    assert list(verify._networks(result, toy, "quick")) == []
    del origin["checkpoints"]["t-1-seed2"]
    lost = ["row sd15 rests on t-1-seed2, whose checkpoint is not recorded"]
    assert list(verify._networks(result, toy, "quick")) == lost
    origin["parameters"] = {}  # made before tables had training seeds
    assert list(verify._networks(result, toy, "quick")) == []


def _with_checkpoints(records: dict[str, Path]) -> None:
    """The toy's run rests on these."""
    place = default_run("quick", TABLE) / "result.json"
    result = results.read(place)
    entries = {name: {"path": str(p.relative_to(runs().parent)), "sha256": sha256(p)} for name, p in records.items()}
    origin = result["provenance"] | {"checkpoints": entries}
    write_json(place, results.seal(result | {"provenance": origin}))


def test_records_of_trainings_are_published_with_a_table(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of this machine's runs; a record goes when no published table names it any more."""
    monkeypatch.setenv(scratch.VARIABLE, "")
    put(tiny(), monkeypatch)
    home = published("quick")
    names = ("t-1", "t-1-seed1")
    records = {name: _trained(name) for name in names}
    ours = _trained("t-reader", home / "checkpoints/t-reader")
    make_run(monkeypatch)
    _with_checkpoints(records | {"t-reader": ours})
    publish.publish([TABLE], "quick")
    kept = {name: home / f"records/{p.parent.name}-{sha256(p)[:12]}.json" for name, p in records.items()}
    assert set((home / "records").iterdir()) == set(kept.values())
    assert all(kept[name].read_bytes() == records[name].read_bytes() for name in names)
    assert verify.verify("quick")["ok"]
    whole = kept["t-1"].read_text()
    kept["t-1"].write_text(whole + " ")
    assert "was changed after" in verify.problems(home / f"{TABLE}.json")[0]
    kept["t-1"].write_text(whole)
    other = results.read(home / f"{TABLE}.json") | {"table": OTHER}
    file = kept["t-1"].relative_to(home).as_posix()
    write_json(home / f"{OTHER}.json", results.seal(other | {"files": file_hashes(home, [file])}))
    make_run(monkeypatch)
    publish.publish([TABLE], "quick")
    assert set((home / "records").iterdir()) == {kept["t-1"]}, f"{OTHER} rests on it"


def test_doctor_names_the_seeds_that_are_missing(toy: Table, workspace: Path) -> None:
    for name in ("t-reader", "t-1-seed1"):
        _trained(name)
    (found,) = (finding for finding in doctor.findings() if finding.name == "checkpoints")
    assert not found.found
    assert found.detail.startswith("2 of 4 ")
    assert found.remedy.endswith(": t-1, t-1-seed2"), "t-1-seed1 is not t-1"
    _trained("t-1", published("quick") / "checkpoints/t-1")
    _trained("t-1-seed2")
    assert next(finding for finding in doctor.findings() if finding.name == "checkpoints").found
