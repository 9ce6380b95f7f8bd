"""Recipes trained side by side by the workflow: order, failures, output. The jobs only pretend to train."""

import inspect
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from mdrepro.core.errors import BadInput
from mdrepro.core.locks import hold
from mdrepro.core.paths import runs
from mdrepro.reproduce.workflow import execute, training
from mdrepro.training.recipes.recipe import Recipe
from mdrepro.training.runs import scratch, store
from tests.support import waiting
from tests.support.recipe_rows import put, put_in_package, tiny


@pytest.fixture
def rows(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Recipe]:
    monkeypatch.setenv(scratch.VARIABLE, "")
    few = ("t-reader", "t-vae", "t-lite", "t-text", "t-base", "t-1")
    return put([row for row in tiny() if row.name in few], monkeypatch)


def _pretend(home: Path, rows: dict[str, Recipe], failing: Sequence[str] = (), together: Sequence[str] = ()) -> Path:
    """Jobs that note when they begin and end; returns the file with their notes.

    Those in ``together`` go on only when all of them have begun.
    """
    files = {name: str(store.folder(row) / store.RECORD) for name, row in rows.items()}
    notes = home / "notes"
    put_in_package(
        home,
        replaced={
            "training/runs/commands.py": f"""
{inspect.getsource(waiting)}
from pathlib import Path
def train(name, settings):
    with open({str(notes)!r}, "a") as file:
        file.write(f"+{{name}}\\n")
    print("at work")
    together = {list(together)!r}
    if name in together:
        wait_until(lambda: {{"+" + each for each in together}} <= set(Path({str(notes)!r}).read_text().split()))
    if name not in {list(failing)!r}:
        Path({files!r}[name]).parent.mkdir(parents=True, exist_ok=True)
        Path({files!r}[name]).write_text('{{"files": {{}}}}')
    with open({str(notes)!r}, "a") as file:
        file.write(f"-{{name}}\\n")
    if name in {list(failing)!r}:
        raise FloatingPointError("the loss is not finite")
"""
        },
    )
    return notes


def test_jobs_run_side_by_side_and_none_before_its_parents(
    rows: dict[str, Recipe], workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = _pretend(workspace, rows, together=["t-vae", "t-text"])
    assert training.train(list(rows), cores=2) == {}
    events = notes.read_text().split()
    assert sorted(event[1:] for event in events) == sorted([*rows, *rows])
    at_once, most = set[str](), 0
    for event in events:
        name = event[1:]
        if event[0] == "-":
            at_once.remove(name)
            continue
        at_once.add(name)
        most = max(most, len(at_once))
        for parent in rows[name].parents.values():
            assert events.index(f"-{parent}") < events.index(event)
    assert most == 2
    output = capsys.readouterr().out
    assert output.startswith(f"{len(rows)} to train: t-reader, t-vae")
    assert set(re.findall(r"^\[(.*)\] at work$", output, re.MULTILINE)) == set(rows)


def test_children_of_what_failed_are_not_started(
    rows: dict[str, Recipe], workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = _pretend(workspace, rows, failing=["t-vae"])
    failed = training.train(["t-reader", "t-1", "t-lite"], cores=3)
    assert failed["t-vae"] == "failed; whole log: papermill_runs/quick/.plan/snakemake.log"
    assert failed["t-lite"] == failed["t-base"] == "not started: t-vae failed"
    assert failed["t-1"] == "not started: t-base failed"
    assert set(failed) == {"t-vae", "t-lite", "t-base", "t-1"}
    assert "[t-vae] error: the loss is not finite" in capsys.readouterr().out
    started = {line[1:] for line in notes.read_text().split()}
    assert started == {"t-reader", "t-vae", "t-text"}


def test_options_that_snakemake_refuses_and_another_run_are_bad_input(rows: dict[str, Recipe], workspace: Path) -> None:
    with pytest.raises(BadInput, match=r"(?s)Snakemake ended with code .*no-such"):
        training.train(["t-reader"], cores=1, extra=execute.snakemake_options("no-such", None, "", 1))
    with hold(runs() / ".lock"), pytest.raises(BadInput, match="another mdrepro reproduce or train is running"):
        training.train(["t-reader"], cores=1)
