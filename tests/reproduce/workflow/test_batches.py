"""Batches: which runs settings ask for, what is run again, what is written of them, and a sweep that is killed."""

import csv
import itertools
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mdrepro.core.errors import BadInput
from mdrepro.core.files import HOST, write_json, write_text
from mdrepro.core.paths import runs_of
from mdrepro.papers import ledger
from mdrepro.reproduce.workflow import batches, execute, folders, plan
from mdrepro.reproduce.workflow.notebook import failure_record
from mdrepro.reproduce.workflow.parameters import MOST, batch, from_file
from tests.support.checkout import NOTEBOOK, TABLE, Cli, make_run, row
from tests.support.waiting import wait_until

Run = Callable[..., tuple[int, str, str]]


def asked(*settings: str, given: Any = (), names: tuple[str, ...] = ("steps", "factor")) -> list[tuple[Any, ...]]:
    """The parameters called ``names`` of each run that is asked for."""
    return [tuple(one[name] for name in names) for one in batch(ledger.find(TABLE), "quick", settings, given)]


def test_settings_ask_for_one_run_or_several(workspace: Path) -> None:
    assert asked() == asked("steps=3") == asked("steps=3,3") == [(3, 1.0)]
    assert asked("steps=1..4") == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0)]
    assert asked("steps=7..7,1..2") == [(7, 1.0), (1, 1.0), (2, 1.0)]
    assert asked("steps=100,20", "factor=0.5,2") == list(itertools.product((100, 20), (0.5, 2.0)))
    assert asked("models=sd15,sd21", names=("models",)) == [(["sd15", "sd21"],)]
    assert asked("fail=no,input", names=("fail",)) == [("no",), ("input",)]
    (workspace / "a,b").mkdir()
    places = f"photos={workspace / 'a,b'}", f"photos=packages,{workspace}"
    assert asked(places[0], names=("photos",)) == [(str(workspace / "a,b"),)]
    assert asked(places[1], names=("photos",)) == [("packages",), (str(workspace),)]


def test_files_ask_for_runs_and_settings_override_them(workspace: Path) -> None:
    file = workspace / "runs.yaml"
    runs = [{"steps": 5, "factor": [1, 2]}, {"steps": "8..9"}, {"models": [["sd15"], ["sd21"]]}]
    file.write_text(yaml.safe_dump(runs))
    given = from_file(file, several=True)
    assert asked(given=given) == [(5, 1.0), (5, 2.0), (8, 1.0), (9, 1.0), (3, 1.0), (3, 1.0)]
    assert asked("steps=4", given=given) == [(4, 1.0), (4, 2.0), (4, 1.0)], "each run once"
    file.write_text("factor: 3\nmodels: [sd15, sd21]\n")
    for several in (True, False):
        assert asked(given=from_file(file, several=several), names=("factor", "models")) == [(3.0, ["sd15", "sd21"])]


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("steps=4..1", "rising"),
        ("steps=0..4", r"int in \[1, 100\]"),
        ("steps=1..999999999999", r"int in \[1, 100\]"),
        ("steps=1,many", "'many'"),
        ("steps=,", "int in"),
        ("factor=1..3", "float in"),
        ("steps=1..100,1..100,1..100,1..100,1..100,1..100,1..100,1..100,1..100,1..100,1", f"at most {MOST}"),
    ],
)
def test_a_bad_batch_says_what_is_expected(workspace: Path, setting: str, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        asked(setting)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("steps: [4, x]", "parameter steps = 'x'"),
        ("steps: true", "parameter steps = True"),
        ("stpes: 4", "did you mean steps"),
        ("tier: proxy", "--tier"),
        ("- steps: 4", "a mapping"),
        ("[]", "a mapping"),
        ("4", "a mapping"),
        ("a: [", "runs.yaml"),
    ],
)
def test_a_bad_file_is_one_message(workspace: Path, cli_run: Run, text: str, says: str) -> None:
    file = workspace / "runs.yaml"
    file.write_text(text)
    code, out, error = cli_run("reproduce", TABLE, "-f", file)
    assert (code, out) == (2, "")
    assert says in error
    assert cli_run("reproduce", TABLE, "--sweep", workspace / "gone.yaml")[0] == 2
    assert not (workspace / "papermill_runs").exists()


def _stub(monkeypatch: pytest.MonkeyPatch, ran: list[int], *, killed_at: int | None = None) -> None:
    """In place of Snakemake: each job's run made at once, with twice its steps as its number, until a kill."""

    def call(_: object, jobs: list[plan.Job], **__: object) -> tuple[bool, str]:
        for job in jobs:
            steps = job.parameters["steps"]
            if len(ran) == killed_at:
                raise KeyboardInterrupt
            ran.append(steps)
            result = make_run(monkeypatch, [row(2.0 * steps)], settings=(f"steps={steps}",)) / "result.json"
            write_text(plan.ended(execute.log("quick").parent, job.name), execute.sha256(result))
        return True, ""

    monkeypatch.setattr(execute, "call", call)


def test_a_sweep_that_was_killed_runs_what_is_missing(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, cli_run: Run
) -> None:
    command = ("reproduce", TABLE, "--no-report", "--set", "steps=1..5")
    ran: list[int] = []
    _stub(monkeypatch, ran, killed_at=2)
    assert cli_run(*command)[0] == 130
    assert ran == [1, 2]
    _stub(monkeypatch, ran)
    code, out, _ = cli_run(*command)
    assert (code, ran) == (0, [1, 2, 3, 4, 5])
    assert out.count("skipped: up to date") == 2
    assert f"{TABLE} (quick): 5 runs by steps" in out
    assert cli_run("reproduce", TABLE, "--no-report", "--set", "steps=4..6")[0] == 0
    assert ran == [1, 2, 3, 4, 5, 6]
    assert cli_run("reproduce", TABLE, "--no-report")[0] == 0
    assert ran == [1, 2, 3, 4, 5, 6], "the defaults are three steps"
    assert len(list((runs_of("quick", TABLE) / "sweeps").iterdir())) == 2


def test_the_summary_of_a_batch(workspace: Path, monkeypatch: pytest.MonkeyPatch, cli_run: Run) -> None:
    _stub(monkeypatch, [])
    code, out, _ = cli_run("reproduce", TABLE, "--no-report", "--set", "steps=1,10,5")
    (folder,) = (runs_of("quick", TABLE) / "sweeps").iterdir()
    assert code == 0
    assert {path.name for path in folder.iterdir()} == {"figure.png", "figure.svg", "parameters.json", "summary.csv"}
    assert f"papermill_runs/quick/{TABLE}/sweeps/{folder.name}/summary.csv" in out
    with open(folder / "summary.csv", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [(line["steps"], line["row"], line["column"], line["value"]) for line in lines] == [
        (str(steps), "sd15", "params", str(2.0 * steps)) for steps in (1, 10, 5)
    ]
    keys = [folders.key(one) for one in batch(ledger.find(TABLE), "quick", ["steps=1,10,5"])]
    assert [line["run"] for line in lines] == keys
    values = [2.0, 20.0, 10.0]
    wanted = (statistics.mean(values), statistics.stdev(values), 2, 20)
    (spread,) = (line.split() for line in out.splitlines() if line.startswith("  sd15  params"))
    assert [float(text) for text in spread[3:7]] == pytest.approx(wanted, rel=1e-3)


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


def _sweep(home: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mdrepro", "reproduce", TABLE, "--no-report", "--set", "steps=2..6"]
    return subprocess.Popen([*command, "--cores", "1"], cwd=home, env=os.environ, text=True, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_kill_9_in_a_sweep_keeps_what_had_ended_and_a_second_sweep_is_refused(workspace: Path, cli: Cli) -> None:
    first = _sweep(workspace)
    wait_until(lambda: len(list(folders.every("quick", TABLE))) >= 2, seconds=200)
    second = cli("reproduce", TABLE, "--no-report", "--set", "steps=30..31")
    assert (second.returncode, second.stderr) == (2, f"error: {execute.BUSY}\n")
    first.kill()
    first.wait()
    made = {folder: (folder / "result.json").stat().st_mtime_ns for folder in folders.every("quick", TABLE)}
    assert 2 <= len(made) < 5
    again = cli("reproduce", TABLE, "--no-report", "--set", "steps=2..6")
    assert again.returncode == 0, again.stderr
    assert len(list(folders.every("quick", TABLE))) == 5
    assert all((folder / "result.json").stat().st_mtime_ns == time for folder, time in made.items())
    assert again.stdout.count("skipped: up to date") >= len(made)
