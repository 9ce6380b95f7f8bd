"""The workflow on a real Slurm of two nodes: side by side, failures, a node that goes down, clocks that differ."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from mdrepro.core.files import sha256
from mdrepro.reproduce.workflow import results
from mdrepro.reproduce.workflow.folders import default_run
from tests.support import real_slurm
from tests.support.checkout import NOTEBOOK, PARAMETERS, TABLE, WORK, Cli, make_run, notebook
from tests.support.real_slurm import Cluster
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.skipif(real_slurm.missing() != "", reason=real_slurm.missing())]

SLURM = ("--executor", "slurm", "--cores", "2", "--snakemake", "--slurm-init-seconds-before-status-checks 1")
OTHER, OTHERS_NOTEBOOK = "mobilediffusion-ablation-cost", "notebooks/mobilediffusion/ablation_cost.ipynb"
MEET = """\
import os
import time
from pathlib import Path
here = Path(os.environ["MDREPRO_ROOT"]) / "met"
here.mkdir(exist_ok=True)
(here / "{mine}").write_text(os.environ.get("SLURMD_NODENAME", "local"))
for _ in range(2400):
    if (here / "{other}").is_file():
        break
    time.sleep(0.1)
else:
    raise RuntimeError("the other table does not run beside this one")
"""
OTHERS_WORK = f"""\
from mdrepro.evaluation.rows import Row
from mdrepro.reproduce.workflow.record import record

record("{OTHER}", [Row("base", "params_change", -3.5 * steps, "toy")])
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with real_slurm.running(tmp_path_factory.mktemp("slurm") / "home") as running:
        yield running


def _rows(table: str) -> list[dict[str, Any]]:
    return results.read(default_run("quick", table) / "result.json")["rows"]


def _line(error: str) -> str:
    """The one line of an error."""
    assert "Traceback" not in error
    (line,) = [line for line in error.splitlines() if line.startswith("error: ")]
    return line


def test_two_tables_run_side_by_side_on_two_nodes_and_equal_local_ones(
    cluster: Cluster, workspace: Path, cli: Cli
) -> None:
    record = f'record("{TABLE}", rows)'
    nbformat.write(notebook(PARAMETERS, MEET.format(mine="one", other="two") + WORK, record), workspace / NOTEBOOK)
    other = notebook(
        PARAMETERS, MEET.format(mine="two", other="one") + OTHERS_WORK + "print(factor, models, photos, fail)"
    )
    nbformat.write(other, workspace / OTHERS_NOTEBOOK)
    met, found = workspace / "met", []
    for options in (SLURM, ("--cores", "2", "--force")):
        done = cli("reproduce", TABLE, OTHER, "--no-report", *options)
        assert done.returncode == 0, done.stderr
        found.append(({path.name: path.read_text() for path in met.iterdir()}, _rows(TABLE), _rows(OTHER)))
        for path in met.iterdir():
            path.unlink()
    there, here = found
    assert sorted(there[0].values()) == list(real_slurm.NODES)
    assert sorted(here[0].values()) == ["local", "local"]
    assert there[1:] == here[1:]


def test_a_notebook_that_fails_keeps_the_older_result(
    cluster: Cluster, workspace: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = sha256(make_run(monkeypatch) / "result.json")
    failed = cli("reproduce", TABLE, "--no-report", *SLURM, "--set", "fail=error")
    assert failed.returncode == 1, failed.stderr
    assert "RuntimeError: the toy broke" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert sha256(default_run("quick", TABLE) / "result.json") == older


def test_inputs_of_a_clock_two_seconds_ahead(cluster: Cluster, workspace: Path, cli: Cli) -> None:
    ahead = (workspace / NOTEBOOK).stat().st_mtime + 10**9  # of a file server whose clock no job reaches
    for path in (workspace / NOTEBOOK, workspace / "requirements.lock"):
        os.utime(path, (ahead, ahead))
    done = cli("reproduce", TABLE, "--no-report", *SLURM)
    assert done.returncode == 0, done.stderr
    assert len(_rows(TABLE)) > 1


def test_a_node_that_goes_down_is_one_line_and_the_older_result_stays(
    cluster: Cluster, workspace: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = sha256(make_run(monkeypatch) / "result.json")
    command = [
        sys.executable,
        "-m",
        "mdrepro",
        "reproduce",
        TABLE,
        "--no-report",
        *SLURM,
        "--force",
        "--set",
        "steps=100",
    ]
    process = subprocess.Popen(command, cwd=workspace, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    where = list[str]()

    def runs() -> bool:
        where[:] = cluster.states("squeue", "--states=RUNNING", "--format=%N")
        return bool(where)

    wait_until(runs, lambda: process.poll() is None)
    down = ["scontrol", "update", f"NodeName={where[0]}", "State=DOWN", "Reason=test"]
    subprocess.run(down, check=True)
    _, error = process.communicate(timeout=400)
    wait_until(cluster.idle)  # it answers again, and comes back
    assert process.returncode == 2, error
    assert "ended as NODE_FAIL" in _line(error)
    assert sha256(default_run("quick", TABLE) / "result.json") == older
    again = cli("reproduce", TABLE, "--no-report", *SLURM, "--force")
    assert again.returncode == 0, again.stderr
