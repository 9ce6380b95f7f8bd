"""Why tables run, and real runs through Snakemake and papermill of a toy notebook."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from mdrepro.core import watchdog
from mdrepro.core.errors import BadInput
from mdrepro.core.files import sha256, write_text
from mdrepro.core.locks import hold
from mdrepro.core.paths import runs
from mdrepro.papers import ledger
from mdrepro.reproduce.workflow import execute, plan, results
from mdrepro.reproduce.workflow.folders import default_run, defaults, every, link_latest, named, run_folder
from mdrepro.reproduce.workflow.folders import failed as failed_folder
from mdrepro.reproduce.workflow.publish import publish
from mdrepro.reproduce.workflow.verify import verify
from tests.support.checkout import NOTEBOOK, TABLE, Cli, make_run, row
from tests.support.killed import between_two_renames
from tests.support.waiting import wait_until


def test_a_fresh_clone_has_to_run_even_with_published_results(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(monkeypatch)
    publish([TABLE], "quick")
    default_run("quick", TABLE).rename(workspace / "gone")
    assert plan.plan([TABLE], "quick")[0].reasons == ("it has no run yet",)


def test_a_kill_between_two_renames_loses_no_run(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    between_two_renames(make_run(monkeypatch))
    assert plan.plan([TABLE], "quick")[0].reasons == ()


def test_each_reason_to_run_is_said(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(monkeypatch)
    done = plan.plan([TABLE], "quick")[0]
    assert done.reasons == ()
    assert "skipped: up to date, made 20" in done.explain()
    assert "(steps=4): runs: it has no run yet" in plan.plan([TABLE], "quick", ["steps=4"])[0].explain()
    assert "--force" in plan.plan([TABLE], "quick", force=True)[0].explain()
    (workspace / NOTEBOOK).write_text((workspace / NOTEBOOK).read_text().replace("toy broke", "toy fell"))
    assert f"code changed: {NOTEBOOK}" in plan.plan([TABLE], "quick")[0].explain()
    assert "code changed" not in done.explain()
    (folder / "result.csv").write_text("")
    assert "damaged" in plan.plan([TABLE], "quick")[0].explain()


def _with(**values: object) -> Path:
    """The folder of the toy's run with these parameters."""
    return run_folder("quick", TABLE, defaults("quick", TABLE) | values)


def test_exploring_leaves_the_run_of_the_defaults(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, cli_run: Callable[..., tuple[int, str, str]]
) -> None:
    """Runs of other parameters lie beside it, are not compared with what is published, and nothing runs again."""
    default = make_run(monkeypatch)
    publish([TABLE], "quick")
    before = {path: path.read_bytes() for path in default.rglob("*") if path.is_file()}
    other = make_run(monkeypatch, [row(400.0)], settings=("steps=5",))
    assert (other, other.parent) == (_with(steps=5), default.parent)
    assert {path: path.read_bytes() for path in default.rglob("*") if path.is_file()} == before
    (default.parent / "result.json").write_text("{")  # an older layout had one run of a table there
    (default.parent / "figures").mkdir()
    code, out, _ = cli_run("reproduce", TABLE, "--set", "steps=5", "--no-report")
    assert (code, "DIFFERS" in out) == (0, False)
    assert f"{TABLE}-{other.name} (steps=5): skipped: up to date" in out
    assert f"{TABLE} (quick, steps=5): " in out
    assert "other parameters, not compared with the published numbers" in out
    code, out, _ = cli_run("reproduce", TABLE, "--no-report")
    assert (code, "skipped: up to date" in out, "other parameters" in out) == (0, True, False)
    assert re.search(r"params +859\.5 ", shown := cli_run("show", TABLE)[1])
    assert "other parameters" not in shown
    assert re.search(r"params +400 ", named := cli_run("show", TABLE, "--run", other.name[:5])[1])
    assert "DIFFERS" not in named
    assert re.search(r"params +859\.5 ", cli_run("show", TABLE, "--run", default.name)[1])
    code, _, error = cli_run("show", TABLE, "--run", "z")
    assert (code, f"allowed: latest, {min(default.name, other.name)}" in error) == (2, True)
    assert results.run_result("quick", TABLE)["rows"] == results.read(default / "result.json")["rows"]
    assert verify("quick")["tables"][TABLE]["other runs"][other.name]["ok"]
    (other / "result.csv").write_text("")
    assert not verify("quick")["ok"]
    make_run(monkeypatch, [row(400.0)])
    assert "DIFFERS" in cli_run("show", TABLE)[1]


def test_the_run_of_other_parameters_is_the_latest(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = make_run(monkeypatch), make_run(monkeypatch, settings=("steps=5",))
    with pytest.raises(BadInput, match="no such run"):
        named("quick", TABLE, "latest")
    for folder in (first, second, first):
        link_latest(folder)
        assert named("quick", TABLE, "latest") == folder
    assert list(every("quick", TABLE)) == sorted([first, second])


def test_unknown_tables_are_refused_before_anything_runs(workspace: Path) -> None:
    with pytest.raises(BadInput, match=r"unknown table 'mobilediffusion-unet'.*allowed: .*vae-reconstruction"):
        plan.plan(["mobilediffusion-unet"], "quick")


@pytest.mark.parametrize("message", ["", "Snakemake failed"])
@pytest.mark.parametrize(("made", "witness", "good"), [(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 1)])
def test_a_forced_run_beside_an_older_good_one_is_judged_by_its_own_end(
    made: int, witness: int, good: int, message: str, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = plan.plan([TABLE], "quick", force=True)[0]
    make_run(monkeypatch)
    older = sha256(default_run("quick", TABLE) / "result.json")

    def call(*_: object, **__: object) -> tuple[bool, str]:
        result = (make_run(monkeypatch, [row(700.0)]) if made else default_run("quick", TABLE)) / "result.json"
        if witness:
            write_text(plan.ended(execute.log("quick").parent, TABLE), sha256(result) if made else older[::-1])
        return True, message

    monkeypatch.setattr(execute, "call", call)
    assert execute.execute([job], cores=1) == ([] if good else [job])


def test_snakemake_knows_of_nothing_but_its_marks(workspace: Path) -> None:
    (rule,) = json.loads(execute.write_plan(plan.plan([TABLE], "quick"), (), workspace / "plan").read_text())["rules"]
    assert (rule["inputs"], rule["output"]) == ([], f"plan/marks/{TABLE}")
    assert "update" not in re.sub("#.*", "", execute.SNAKEFILE.read_text())


def test_one_run_at_a_time(workspace: Path, cli: Cli) -> None:
    with hold(runs() / ".lock"):
        refused = cli("reproduce", TABLE)
    assert refused.returncode == 2
    assert refused.stderr == f"error: {execute.BUSY}\n"


def _rows() -> list[dict]:
    return results.read(default_run("quick", TABLE) / "result.json")["rows"]


def test_a_run_end_to_end_and_again(workspace: Path, cli: Cli, cli_run: Callable[..., tuple[int, str, str]]) -> None:
    os.utime(workspace / NOTEBOOK, (4e9, 4e9))  # a clock that was stepped back, or another machine's
    first = cli("reproduce", TABLE, "--no-report")
    assert first.returncode == 0, first.stderr
    assert f"{TABLE}: runs: it has no run yet" in first.stdout
    assert f"[{TABLE}] step 2" in first.stderr
    assert re.search(r"params +859\.5 +M ", first.stdout)
    folder = default_run("quick", TABLE)
    files = {"notebook.ipynb", "parameters.json", "result.json", "result.csv", "figures"}
    assert {path.name for path in folder.iterdir()} == files
    assert json.loads((folder / "parameters.json").read_text())["steps"] == 3
    assert os.readlink(folder.with_name("latest")) == folder.name
    assert str(workspace) not in (folder / "notebook.ipynb").read_text()
    made = (folder / "result.json").stat().st_mtime_ns
    code, out, _ = cli_run("reproduce", TABLE, "--no-report")
    assert code == 0
    assert "skipped: up to date" in out
    assert re.search(r"params +859\.5 +M ", out)
    assert (folder / "result.json").stat().st_mtime_ns == made
    assert cli_run("verify", "--tier", "quick")[0] == 0


@pytest.mark.slow
def test_a_failed_notebook_keeps_its_copy_and_the_older_run(workspace: Path, cli: Cli) -> None:
    assert cli("reproduce", TABLE, "--no-report").returncode == 0
    before = _rows()
    failed = cli("reproduce", TABLE, "--no-report", "--set", "fail=error")
    assert failed.returncode == 1
    assert "RuntimeError: the toy broke" in failed.stderr
    assert re.search(r"> +\d+ \|     raise RuntimeError", failed.stderr)
    assert "Traceback" not in failed.stderr
    partial = failed_folder(_with(fail="error"))
    assert (partial / "notebook.ipynb").is_file()
    assert not (partial / "result.json").exists()
    assert _rows() == before
    bad = cli("reproduce", TABLE, "--no-report", "--set", "fail=input")
    assert bad.returncode == 2
    assert "cat.png is not an image; allowed are png and jpg" in bad.stderr
    assert "Traceback" not in bad.stderr
    assert "skipped: up to date" in cli("reproduce", TABLE, "--no-report").stdout
    assert partial.is_dir(), "a run of other parameters is not this one"


@pytest.mark.slow
def test_a_killed_job_is_a_failure_and_no_bad_input(workspace: Path) -> None:
    process = _in_the_middle(workspace, steps=60)
    job = next(each for each in _ours(process.pid) if "mdrepro.reproduce.workflow.notebook" in each.cmdline())
    job.kill()
    output = process.stderr.read() if process.stderr else ""
    assert process.wait() == 1
    assert "exited without an error message" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_code_that_changes_during_a_run_makes_it_fail(workspace: Path) -> None:
    process = _in_the_middle(workspace, steps=20)
    before = (workspace / NOTEBOOK).read_text()
    (workspace / NOTEBOOK).write_text(before.replace("859.52", "700.0"))
    output = process.stderr.read() if process.stderr else ""
    assert process.wait() == 1
    assert f"changed while it ran, so the numbers belong to no one state: code changed: {NOTEBOOK}" in output
    assert not (_with(steps=20) / "result.json").exists()


def test_the_watchdog_knows_a_stepped_clock_from_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    leader = json.loads(watchdog.lead()[watchdog.LEADER])
    assert watchdog._alive(leader)
    assert watchdog._alive(leader | {"created": leader["created"] + 5})
    assert not watchdog._alive(leader | {"created": leader["created"] - 86400})
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is a zombie until it is waited for
    ended = {"pid": child.pid, "created": psutil.Process(child.pid).create_time()}
    assert not watchdog._alive(ended)
    child.wait()
    assert not watchdog._alive(ended)


@pytest.mark.slow
def test_a_dry_run_runs_nothing(workspace: Path, cli: Cli) -> None:
    dry = cli("reproduce", TABLE, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "it has no run yet" in dry.stdout
    assert "parameters: tier=quick, factor=1.0, steps=3, models=sd15" in dry.stdout
    assert dry.stderr == ""
    assert "mobilediffusion_unet_cost" in cli("reproduce", TABLE, "--dry-run", "--verbose").stderr
    assert not (workspace / "papermill_runs").exists()


@pytest.mark.slow
def test_snakemake_options_pass_through(workspace: Path, cli: Cli) -> None:
    wrong = cli("reproduce", TABLE, "--no-report", "--executor", "no-such-executor")
    assert wrong.returncode == 2
    assert "no-such-executor" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    assert cli("reproduce", TABLE, "--snakemake", "x='").returncode == 2
    slurm = cli("reproduce", TABLE, "--dry-run", "--executor", "slurm")
    assert slurm.returncode == 0, slurm.stderr
    profile = workspace / "profile"
    profile.mkdir()
    (profile / "config.yaml").write_text("printshellcmds: true\n")
    profiled = cli("reproduce", TABLE, "--dry-run", "--verbose", "--profile", str(profile))
    assert "mdrepro.reproduce.workflow.notebook" in profiled.stderr
    dry = cli("reproduce", TABLE, "--dry-run", "--verbose", "--snakemake", "--printshellcmds")
    assert "mdrepro.reproduce.workflow.notebook" in dry.stderr


def _in_the_middle(home: Path, steps: int) -> subprocess.Popen[str]:
    """A run that has come to its third step; its stderr can be read on."""
    command = [sys.executable, "-m", "mdrepro", "reproduce", TABLE, "--no-report", "--set", f"steps={steps}"]
    process = subprocess.Popen(command, cwd=home, env=os.environ, text=True, stderr=subprocess.PIPE)
    assert process.stderr
    while "step 2" not in (line := process.stderr.readline()):
        assert line, "the run ended early"
    return process


def _ours(pid: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["pid", "environ"]):
        leader = (process.info["environ"] or {}).get("MDREPRO_LEADER")
        if leader and json.loads(leader)["pid"] == pid and process.status() != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


@pytest.mark.slow
def test_kill_9_leaves_nothing_behind_and_the_same_command_finishes(workspace: Path, cli: Cli) -> None:
    """Killed in the middle of a cell, the run's children end too, and a second call makes the undisturbed numbers."""
    process = _in_the_middle(workspace, steps=20)
    children = _ours(process.pid)
    assert len(children) >= 3  # Snakemake, the job and the kernel
    process.send_signal(signal.SIGKILL)
    wait_until(lambda: not _ours(process.pid), seconds=60)  # the leader is still a zombie here
    process.wait()
    folder = _with(steps=20)
    assert not (folder / "result.json").exists()
    done = cli("reproduce", TABLE, "--no-report", "--set", "steps=20")
    assert done.returncode == 0, done.stderr
    left = [path.name for path in (workspace / "papermill_runs/quick").iterdir()]
    assert sorted(left) == [".plan", TABLE]
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, "latest"}
    disturbed = results.read(folder / "result.json")["rows"]
    assert cli("reproduce", TABLE, "--no-report", "--set", "steps=20", "--force").returncode == 0
    assert results.read(folder / "result.json")["rows"] == disturbed


def test_a_table_on_request_runs_by_name_or_with_all(workspace: Path) -> None:
    table, tables = ledger.find(TABLE), ledger.tables()
    on_request = table.model_copy(update={"on_request": "an hour"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "tables", lambda **_: {TABLE: on_request})
        patch.setattr(ledger, "find", lambda name, **_: on_request if name == TABLE else tables[name])
        assert plan.plan([], "quick") == []
        assert [job.table for job in plan.plan([], "quick", every=True)] == [TABLE]
        assert [job.table for job in plan.plan([TABLE], "quick")] == [TABLE]
