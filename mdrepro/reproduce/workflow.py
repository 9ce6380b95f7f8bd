"""Which tables run and why, and the Snakemake call that runs them.

A fingerprint (code, parameters, inputs, the paper's cells) decides whether a run is still good; Snakemake schedules,
locally or on a cluster, what is not. Both see the same facts: the fingerprint is the rule's ``params``.
"""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdrepro.errors import BadInput
from mdrepro.papers import ledger
from mdrepro.papers.schema import Tier
from mdrepro.paths import relative, root, run_dir, runs
from mdrepro.reproduce import results
from mdrepro.reproduce.fingerprint import Fingerprint, changes, fingerprint
from mdrepro.reproduce.notebook import failed_dir
from mdrepro.reproduce.parameters import resolve
from mdrepro.reproduce.verify import problems
from mdrepro.watchdog import lead


@dataclass(frozen=True)
class Job:
    """One table's run: what it would be made of, and why it has to be made (``reasons`` is empty when it has not)."""

    table: str
    tier: Tier
    notebook: str
    parameters: dict[str, Any]
    fingerprint: Fingerprint
    threads: int
    reasons: tuple[str, ...]
    made: str = ""
    """When and from which commit the good run was made."""

    @property
    def output(self) -> str:
        """The result file, relative to the root."""
        return (run_dir(self.tier, self.table) / "result.json").relative_to(root()).as_posix()

    def explain(self) -> str:
        """Why it runs or is skipped, in one line."""
        if self.reasons:
            more = f" (and {len(self.reasons) - 3} more)" if len(self.reasons) > 3 else ""
            return f"{self.table}: runs: {'; '.join(self.reasons[:3])}{more}"
        return f"{self.table}: skipped: up to date, {self.made}"


def _reasons(table: str, tier: Tier, now: Fingerprint) -> tuple[list[str], str]:
    path = run_dir(tier, table) / "result.json"
    if not path.is_file():
        failed = (failed_dir(tier, table) / "error.json").is_file()
        return ["its last run did not finish" if failed else "it has no run yet"], ""
    if found := problems(path):
        return [f"its run is damaged: {found[0]}"], ""
    origin = results.read(path)["provenance"]
    commit = (origin["commit"] or "no commit")[:10] + (" with local changes" if origin["dirty"] else "")
    return changes(origin["fingerprint"], now), f"made {origin['created']} from {commit}"


def plan(names: Sequence[str], tier: Tier, settings: Sequence[str] = (), force: bool = False) -> list[Job]:
    """A job for each table: those named, or all that run at ``tier``.

    Raises:
        BadInput: an unknown table, one that does not run at this tier, a setting that its notebook does not take, or
            a published result that was edited by hand.
    """
    chosen = [ledger.find(name) for name in dict.fromkeys(names)]
    chosen = chosen or [table for table in ledger.tables().values() if tier in table.tiers]
    jobs = []
    for table in chosen:
        values = resolve(table, tier, settings)
        now = fingerprint(table, values)
        results.published_result(tier, table.id)  # an edited one is an error now, not after the run
        reasons, made = _reasons(table.id, tier, now)
        reasons = ["--force was given", *reasons] if force else reasons
        assert table.notebook
        jobs.append(Job(table.id, tier, table.notebook, values, now, table.threads, tuple(reasons), made))
    return jobs


@contextmanager
def _alone() -> Iterator[None]:
    """Holds the lock on ``papermill_runs/``; it goes with the process, however that ends. Raises BadInput if held."""
    runs().mkdir(exist_ok=True)
    with open(runs() / ".lock", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput("another mdrepro reproduce is running here; wait for it or end it") from None
        yield


def _write_plan(jobs: Sequence[Job], folder: Path) -> None:
    """Write ``plan.json``, the workflow's configuration, and one file a job into ``folder``."""
    for job in jobs:
        keys = ("table", "tier", "notebook", "parameters", "fingerprint")
        results.write_json(folder / f"{job.table}.json", {key: getattr(job, key) for key in keys})
    described = [
        {
            "table": job.table,
            "inputs": [job.notebook],
            "output": job.output,
            "parameters": json.dumps(job.parameters, sort_keys=True),
            "code": json.dumps({key: job.fingerprint[key] for key in ("code", "inputs", "papers")}, sort_keys=True),
            "threads": job.threads,
            "file": relative(folder / f"{job.table}.json"),
        }
        for job in jobs
    ]
    results.write_json(folder / "plan.json", {"jobs": described})


def _command(folder: Path, jobs: Sequence[Job], cores: int, dry_run: bool, extra: Sequence[str]) -> list[str]:
    snakefile = Path(__file__).with_name("Snakefile")
    targets = [job.output for job in jobs]
    return [
        *(sys.executable, "-m", "snakemake", *targets, "--forcerun", *targets, "--cores", str(cores)),
        *("--snakefile", str(snakefile), "--configfile", str(folder / "plan.json"), "--directory", str(root())),
        *("--nolock", "--rerun-incomplete", "--keep-going", *(["--dry-run"] if dry_run else []), *extra),
    ]


def execute(
    jobs: Sequence[Job], *, cores: int, dry_run: bool = False, verbose: bool = False, extra: Sequence[str] = ()
) -> list[str]:
    """Run the jobs that have reasons to, through Snakemake; return the tables that failed.

    Notebook output is passed on line by line; Snakemake's own goes to ``papermill_runs/<tier>/.plan/snakemake.log``
    and, with ``verbose`` or ``dry_run``, to the terminal.

    Raises:
        BadInput: another run holds the lock, or Snakemake refused its command line.
    """
    due = [job for job in jobs if job.reasons]
    if not due:
        return []
    if dry_run:
        with tempfile.TemporaryDirectory(prefix="mdrepro-plan-") as scratch:
            _write_plan(due, Path(scratch))
            code, said = _snakemake(_command(Path(scratch), due, cores, True, extra), due, Path(scratch), True)
        if code:
            raise BadInput(f"Snakemake ended with code {code}:\n{said}")
        return []
    with _alone():
        folder = runs() / due[0].tier / ".plan"
        _write_plan(due, folder)
        for job in due:
            shutil.rmtree(failed_dir(job.tier, job.table), ignore_errors=True)
        code, said = _snakemake(_command(folder, due, cores, False, extra), due, folder, verbose)
    failed = [job.table for job in due if _reasons(job.table, job.tier, job.fingerprint)[0]]
    if code and not any((failed_dir(due[0].tier, name) / "error.json").is_file() for name in failed):
        where = relative(folder / "snakemake.log")
        raise BadInput(f"Snakemake ended with code {code} before any notebook started (whole log: {where}):\n{said}")
    return failed


def _snakemake(command: list[str], due: Sequence[Job], folder: Path, show: bool) -> tuple[int, str]:
    """Run Snakemake; pass the notebooks' lines on, with ``show`` its own too; return its code and last lines."""
    process = subprocess.Popen(
        command,
        cwd=root(),
        env=os.environ | lead() | {"PYTHONUNBUFFERED": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    tail: list[str] = []
    with open(folder / "snakemake.log", "w", encoding="utf-8") as log:
        assert process.stdout
        for line in process.stdout:
            log.write(line)
            log.flush()
            if show or any(line.startswith(f"[{job.table}] ") for job in due):
                print(line, end="", file=sys.stderr, flush=True)
            tail = [*tail, line][-12:]
    return process.wait(), "".join(tail).rstrip()


def failure(tier: str, table: str) -> dict[str, Any]:
    """What is known of a failed run: the failing cell, the error and where the partial notebook is kept."""
    folder = failed_dir(tier, table)
    path = folder / "error.json"
    if not path.is_file():
        return {"bad_input": False, "words": f"{table}: did not start; see the workflow's log"}
    error = json.loads(path.read_text(encoding="utf-8"))
    if error["bad_input"]:
        return error | {"words": f"{table}: {error['message']}"}
    source = _around(error["source"].splitlines(), re.search(r"Cell In\[\d+\], line (\d+)", error["traceback"]))
    cell = f"cell [{error['cell']}] failed:\n{source}\n    " if error["cell"] is not None else ""
    kept = relative(folder / "notebook.ipynb")
    return error | {"words": f"{table}: {cell}{error['error']}: {error['message']}\n    partial notebook: {kept}"}


def _around(lines: list[str], failing: re.Match[str] | None, context: int = 5) -> str:
    """A cell's lines about the failing one, which is marked; its first lines where that is not known."""
    number = int(failing[1]) if failing else 0
    first = max(number - context, 1)
    shown = enumerate(lines[first - 1 : first - 1 + 2 * context], start=first)
    return "\n".join(f"    {'>' if index == number else ' '} {index:3} | {line}" for index, line in shown)
