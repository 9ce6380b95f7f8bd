"""The Snakemake call that runs tables' notebooks and trains checkpoints, locally or on a cluster.

Lines of jobs (``[name] ...``) are passed on; all of Snakemake's output goes to ``papermill_runs/<tier>/.plan/``.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TextIO

from mdrepro.core.console import quiet, spoken, waiting
from mdrepro.core.errors import BadInput
from mdrepro.core.files import sha256, write_json
from mdrepro.core.locks import hold
from mdrepro.core.paths import relative, root, runs, shipped
from mdrepro.core.watchdog import lead
from mdrepro.reproduce.workflow import slurm
from mdrepro.reproduce.workflow.folders import ERROR, NOTEBOOK, PARAMETERS, RESULT
from mdrepro.reproduce.workflow.folders import failed as failed_folder
from mdrepro.reproduce.workflow.notebook import failure_record
from mdrepro.reproduce.workflow.plan import Checkpoint, Job, ended, mark, reasons_to_run

LOG = "snakemake.log"
SNAKEFILE = shipped("workflow/Snakefile")
TIMING = {
    "mdrepro/latency/host.py",
    "mdrepro/metrics/cost/block_latency.py",
    "mdrepro/reproduce/tables/decoder.py",
}
"""Modules that time something: beside them nothing is printed by a thread."""
BUSY = "another mdrepro reproduce or train is running in this checkout; wait for it or end it"


def snakemake_options(executor: str | None, profile: str | None, more: str, cores: int) -> list[str]:
    """Options for Snakemake from those of the command line. Raises BadInput where ``more`` is not quoted properly."""
    try:
        options = shlex.split(more)
    except ValueError as error:
        raise BadInput(f"--snakemake {more}: {error}") from None
    executed = ["--executor", executor, "--jobs", str(cores)] if executor else []
    return [*executed, *(["--profile", profile] if profile else []), *options]


def execute(
    jobs: Sequence[Job],
    train: Sequence[Checkpoint] = (),
    *,
    cores: int,
    dry_run: bool = False,
    verbose: bool = False,
    extra: Sequence[str] = (),
) -> list[Job]:
    """Run the jobs that have reasons to, and before them ``train``; return those that failed.

    ``jobs``, ``train``: what `plan.plan` and `plan.checkpoints` returned. ``cores``, ``extra``: for Snakemake: how
    many, and further options. ``dry_run``: Snakemake checks the plan, and nothing runs. ``verbose``: print its output
    too. Raises BadInput: another run holds the lock, or Snakemake refused its command line.
    """
    due = [job for job in jobs if job.reasons]
    if not due:
        return []
    started, message = call(train, due, cores=cores, dry_run=dry_run, show=verbose, extra=extra)
    failed = list[Job]()
    if not dry_run:
        _record_untrained(due, train)
        failed = [job for job in due if not _ended_well(job)]
    explained = any((failed_folder(job.folder) / ERROR).is_file() for job in failed)
    if message and (dry_run or not started) and not explained:
        raise BadInput(message)
    return failed


def _ended_well(job: Job) -> bool:
    """Whether the run of this call ended, and its result is what is there now and good: an older one does not count."""
    witness, result = ended(log(job.tier).parent, job.name), job.folder / RESULT
    if not (witness.is_file() and result.is_file() and witness.read_text() == sha256(result)):
        return False
    return not reasons_to_run(job.table, job.tier, job.fingerprint)[0]


def timed(jobs: Sequence[Job]) -> bool:
    """Whether a job rests on code that times something."""
    return any(TIMING & job.fingerprint["code"].keys() for job in jobs)


def log(tier: str) -> Path:
    """Snakemake's whole output of the last call."""
    return runs() / tier / ".plan" / LOG


def call(
    train: Sequence[Checkpoint],
    jobs: Sequence[Job] = (),
    *,
    cores: int,
    dry_run: bool = False,
    show: bool = False,
    extra: Sequence[str] = (),
    stream: TextIO | None = None,
) -> tuple[bool, str]:
    """Write the plan and have Snakemake carry it out, alone in this checkout; raises BadInput where that is not so.

    ``train``, ``jobs``: what to train and which tables to run; not both empty. ``stream``: where lines of jobs are
    written, or all lines with ``show``; standard error by default.

    Returns whether any job has written a line, and a message with Snakemake's last lines (empty if all went well).
    """
    names = [*(job.name for job in jobs), *(each.recipe for each in train)]
    tier = jobs[0].tier if jobs else train[0].tier
    scratch = tempfile.TemporaryDirectory(prefix="mdrepro-plan-") if dry_run else None
    slurm_here = [*extra[:2]] == ["--executor", "slurm"] and not dry_run
    if slurm_here:
        extra = [*extra, *slurm.options(extra)]
    with scratch or hold(runs() / ".lock", refuse=BUSY):
        folder = Path(scratch.name) if scratch else log(tier).parent
        for job in () if dry_run else jobs:
            shutil.rmtree(failed_folder(job.folder), ignore_errors=True)
            ended(folder, job.name).unlink(missing_ok=True)
        shutil.rmtree(folder / "marks", ignore_errors=True)
        plan = write_plan(jobs, train, folder)
        targets = [mark(folder, name) for name in names]
        command = [
            *(sys.executable, "-m", "snakemake", *targets, "--forcerun", *targets, "--nolock", "--rerun-incomplete"),
            *("--keep-going", "--snakefile", str(SNAKEFILE), "--configfile", str(plan), "--directory", str(root())),
            *("--cores", str(cores), *(["--dry-run"] if dry_run else []), *extra),
        ]
        with nullcontext() if timed(jobs) else waiting("reproduce" if jobs else "train"):
            code, started, tail = _run(command, names, folder / LOG, show, stream or sys.stderr)
    where = "" if dry_run else f" (whole log: {relative(folder / LOG)})"
    if code and slurm_here and (why := slurm.complaint(folder / LOG)):
        return started, f"{why}{where}"
    return started, f"Snakemake ended with code {code}{where}:\n{tail}" if code else ""


def _run(command: Sequence[str], names: Sequence[str], file: Path, show: bool, stream: TextIO) -> tuple[int, bool, str]:
    """Run a command; pass on the lines of the jobs ``names``, or all; its code, whether a job wrote, its last lines."""
    started, tail = False, deque[str](maxlen=12)
    of_job = re.compile(rf"\[({'|'.join(map(re.escape, names))})\] ")  # perhaps behind a part of another line
    with open(file, "w", encoding="utf-8", buffering=1) as log_file:  # before: a full disk starts nothing
        process = subprocess.Popen(
            command,
            cwd=root(),
            env=os.environ | lead() | {"PYTHONUNBUFFERED": "1"},
            text=True,
            errors="replace",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout
        for line in process.stdout:
            log_file.write(line)
            found = of_job.search(line)
            started |= found is not None
            if show or (found and not quiet()):
                print(line[found.start() if found and not show else 0 :], end="", file=stream, flush=True)
                spoken()
            tail.append(line)
    return process.wait(), started, "".join(tail).rstrip()


def write_plan(jobs: Sequence[Job], train: Sequence[Checkpoint], folder: Path) -> Path:
    """Write ``plan.json``, the workflow's configuration, and one file per job into ``folder``."""
    rules = []
    for job in jobs:
        file = folder / f"{job.name}.json"
        write_json(file, job.as_dict())
        rules.append(job.rule(_needs(job, train), file))
    rules += [each.rule(folder) for each in train]
    write_json(folder / "plan.json", {"rules": rules})
    return folder / "plan.json"


def _needs(job: Job, train: Sequence[Checkpoint]) -> list[str]:
    """The checkpoints to train that a job rests on, directly or through others."""
    if not train or not job.fingerprint["recipes"]:
        return []
    from mdrepro.training.runs.dependencies import missing

    return missing(list(job.fingerprint["recipes"]))


def _record_untrained(due: Sequence[Job], train: Sequence[Checkpoint]) -> None:
    """Write ``error.json`` for each table that was not started because a checkpoint could not be trained."""
    for job in due:
        missing = _needs(job, train)
        if missing and not (path := failed_folder(job.folder) / ERROR).is_file():
            message = f"its checkpoint {missing[0]} was not trained; whole log: {relative(log(job.tier))}"
            write_json(path, failure_record("NotTrained", message))
            write_json(path.with_name(PARAMETERS), job.parameters)


def failure(job: Job) -> dict[str, Any]:
    """What is known of a failed run: ``bad_input``, and ``message`` with the failing cell, the error and the copy."""
    folder, name = failed_folder(job.folder), job.name
    if not (folder / ERROR).is_file():
        return {"bad_input": False, "message": f"{name}: did not run to its end; whole log: {relative(log(job.tier))}"}
    error = json.loads((folder / ERROR).read_text(encoding="utf-8"))
    if error["bad_input"]:
        return error | {"message": f"{name}: {error['message']}"}
    source = _excerpt(error["source"], re.search(r"Cell In\[\d+\], line (\d+)", error["traceback"]))
    cell = f"cell [{error['cell']}] failed:\n{source}\n    " if error["cell"] is not None else ""
    kept = f"\n    partial notebook: {relative(folder / NOTEBOOK)}" if (folder / NOTEBOOK).is_file() else ""
    return error | {"message": f"{name}: {cell}{error['error']}: {error['message']}{kept}"}


def _excerpt(source: str, failing: re.Match[str] | None, context: int = 5) -> str:
    """A cell's lines around the failing one, which is marked; its first lines where that is not known."""
    number = int(failing[1]) if failing else 0
    lines = list(enumerate(source.splitlines(), start=1))[max(number - context - 1, 0) :][: 2 * context]
    return "\n".join(f"    {'>' if index == number else ' '} {index:3} | {line}" for index, line in lines)
