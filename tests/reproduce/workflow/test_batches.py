"""The runs of a table, listed with what became of them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mdrepro.core.files import HOST, write_json
from mdrepro.reproduce.workflow import batches, folders
from mdrepro.reproduce.workflow.notebook import failure_record
from tests.support.checkout import NOTEBOOK, TABLE, make_run

Run = Callable[..., tuple[int, str, str]]


def test_runs_are_listed_with_what_became_of_them(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, cli_run: Run
) -> None:
    assert cli_run("runs", TABLE) == (0, f"no run at tier quick: mdrepro reproduce {TABLE}\n", "")
    assert cli_run("runs", "nothing")[0] == 2
    other, default = make_run(monkeypatch, settings=("steps=5",)), make_run(monkeypatch)
    usual = folders.defaults("quick", TABLE)
    made = {steps: folders.run_folder("quick", TABLE, usual | {"steps": steps}) for steps in (7, 8)}
    for steps, folder in made.items():
        write_json(folders.failed(folder) / "error.json", failure_record("RuntimeError", "the toy broke\nhere"))
        write_json(folders.failed(folder) / "parameters.json", usual | {"steps": steps})
    made[8].with_name(f".{made[8].name}.{HOST}.{os.getpid()}.01234567").mkdir()
    found = {line["run"]: line for line in batches.listed("quick", TABLE)}
    assert next(iter(found)) == default.name
    assert {name: (line["parameters"], line["state"]) for name, line in found.items()} == {
        default.name: ({}, "up to date"),
        other.name: ({"steps": 5}, "up to date"),
        made[7].name: ({"steps": 7}, "failed"),
        made[8].name: ({"steps": 8}, "running"),
    }
    assert found[made[7].name]["why"] == "the toy broke"
    assert found[other.name]["made"]
    make_run(monkeypatch, settings=("steps=9",))
    (other / "result.csv").write_text("")
    (default / "result.json").write_text("{")
    (workspace / NOTEBOOK).write_text((workspace / NOTEBOOK).read_text().replace("toy broke", "toy fell"))
    make_run(monkeypatch, settings=("steps=6",))
    states = {line["parameters"].get("steps", 3): line["state"] for line in batches.listed("quick", TABLE)}
    assert states == {3: "damaged", 5: "damaged", 6: "up to date", 7: "failed", 8: "running", 9: "out of date"}
    code, out, _ = cli_run("runs", TABLE)
    assert code == 0
    assert f"{other.name}  steps=5" in out
