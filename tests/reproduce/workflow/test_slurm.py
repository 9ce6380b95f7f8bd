"""The workflow on a cluster: what Slurm is asked for, how its answers are read, what a failed job leaves."""

import os
from pathlib import Path

import pytest

from mdrepro.core.errors import BadInput
from mdrepro.core.files import sha256
from mdrepro.reproduce.workflow import plan, slurm
from mdrepro.reproduce.workflow.folders import default_run
from tests.support import fake_slurm
from tests.support.checkout import TABLE, Cli, make_run

SOON = ("--executor", "slurm", "--snakemake", "--slurm-init-seconds-before-status-checks 1")


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({}, [slurm.STATUS, "squeue"]),
        ({"AccountingStorageType": "accounting_storage/none"}, [slurm.STATUS, "squeue"]),
        ({"AccountingStorageType": "accounting_storage/slurmdbd"}, []),
        ({"AccountingStorageType": "accounting_storage/slurmdbd", "MinJobAge": "2 sec"}, []),
    ],
)
def test_states_of_jobs_come_from_where_slurm_keeps_them(
    config: dict[str, str], wanted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(fake_slurm.install(tmp_path / "slurm", **config)), prepend=os.pathsep)
    assert slurm.options([]) == wanted
    assert slurm.options([f"{slurm.STATUS}=sacct"]) == slurm.options([slurm.STATUS, "sacct"]) == []
    if "MinJobAge" not in config:
        which = slurm.shutil.which  # this machine may have sacct, too
        monkeypatch.setattr(slurm.shutil, "which", lambda program: None if program == "sacct" else which(program))
        assert slurm.options([]) == [slurm.STATUS, "squeue"]


def test_a_cluster_that_cannot_say_how_a_job_ended_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInput, match="sbatch is not on PATH"):
        slurm.options([])
    home = fake_slurm.install(tmp_path / "slurm", MinJobAge="30 sec")
    monkeypatch.setenv("PATH", f"{home}{os.pathsep}/usr/bin{os.pathsep}/bin")
    with pytest.raises(BadInput, match=r"forgets jobs 30 s after their end \(MinJobAge\): expected at least 200 s"):
        slurm.options([])
    assert slurm.options([slurm.STATUS, "sacct"]) == []
    (home / "scontrol").write_text("#!/bin/sh\necho slurm_load_ctl_conf error: Unable to contact >&2; exit 1\n")
    with pytest.raises(BadInput, match="controller does not answer: slurm_load_ctl_conf error: Unable to contact"):
        slurm.options([])


def test_what_slurm_said_is_one_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "Job 0 failed: SLURM sbatch failed. The error message was 'sbatch: error: Batch job submission failed:\n"
        "Requested node configuration is not available'.\n    sbatch call:\n        sbatch --parsable\n"
    )
    assert slurm.complaint(log) == (
        "Slurm did not take a job: sbatch: error: Batch job submission failed: "
        "Requested node configuration is not available"
    )
    log.write_text("message: SLURM-job '7' failed, SLURM status is: 'TIMEOUT'. Detailed\n" * 2)
    assert slurm.complaint(log) == "Slurm: its job 7 ended as TIMEOUT"
    log.write_text("SLURM-job '8' failed due to a node failure, SLURM status is: 'NODE_FAIL'. Failed nodes will be\n")
    assert slurm.complaint(log) == "Slurm: its job 8 ended as NODE_FAIL"
    log.write_text("all is well\n")
    assert slurm.complaint(log) == ""


def test_a_rule_asks_for_what_its_table_declares(workspace: Path) -> None:
    job = plan.plan([TABLE], "quick")[0]
    rule = job.rule((), workspace / "plan" / f"{TABLE}.json")
    assert (job.need.memory_gb, job.need.hours) == (8, 12)
    assert (rule["threads"], rule["resources"]) == (1, {"mem_mb": 8000, "runtime": 720})
    training = plan.Checkpoint("t-vae", "quick", ()).rule(workspace / "plan")
    assert training["resources"] == {"mem_mb": 8000, "runtime": 48 * 60}


@pytest.mark.slow
def test_a_cluster_without_accounts(workspace: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A job that fails beside an older good result, one that Slurm refuses, and one that ends well."""
    home = fake_slurm.install(tmp_path / "slurm")
    monkeypatch.setenv("PATH", str(home), prepend=os.pathsep)
    older = sha256(make_run(monkeypatch) / "result.json")
    failed = cli("reproduce", TABLE, "--no-report", *SOON, "--set", "fail=error")
    assert failed.returncode == 1, failed.stderr
    assert "RuntimeError: the toy broke" in failed.stderr
    assert not {"Traceback", "WorkflowError", "sbatch"} & set(failed.stderr.replace(":", " ").split())
    assert sha256(default_run("quick", TABLE) / "result.json") == older
    done = cli("reproduce", TABLE, "--no-report", *SOON, "--force")
    assert done.returncode == 0, done.stderr
    assert sha256(default_run("quick", TABLE) / "result.json") != older
    assert "--mem 8000" in (home / "asked").read_text()
    assert " -t 720 " in (home / "asked").read_text()
    (home / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: Invalid qos' >&2; exit 1\n")
    refused = cli("reproduce", TABLE, "--no-report", *SOON, "--force")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: Slurm did not take a job: sbatch: error: Invalid qos (whole log: ")
    assert refused.stderr.count("\n") == 1
