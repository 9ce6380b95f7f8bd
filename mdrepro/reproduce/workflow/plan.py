"""Which tables run and why, and the Snakemake call that runs them.

A fingerprint (code, parameters, inputs, recipes, the paper's cells) decides whether a run is still good; Snakemake
schedules, locally or on a cluster, what is not. Both see the same facts: the fingerprint is the rule's ``params``.

Checkpoints that a due table names (its parameter ``recipes``) and that are neither trained here nor published are rules
of the same workflow, before the table's.
"""

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

from mdrepro.core.errors import BadInput
from mdrepro.core.files import write_json
from mdrepro.core.locks import hold
from mdrepro.core.paths import relative, root, run_dir, runs
from mdrepro.core.watchdog import lead
from mdrepro.papers import ledger
from mdrepro.papers.schema import Tier
from mdrepro.reproduce.workflow import results
from mdrepro.reproduce.workflow.fingerprint import RECIPES, Fingerprint, changes, fingerprint
from mdrepro.reproduce.workflow.notebook import failed_dir
from mdrepro.reproduce.workflow.parameters import resolve
from mdrepro.reproduce.workflow.verify import problems
from mdrepro.training.runs.scratch import from_scratch

NOTEBOOK = "notebook.ipynb"
PARTS = ("code", "inputs", "recipes", "papers")
"""Of a fingerprint, beside the parameters."""


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


@dataclass(frozen=True)
class Checkpoint:
    """A recipe that has to be trained for a table that runs.

    Args:
        recipe: its name.
        output: its record, relative to the root.
        parents: those of its parents that have to be trained first.
    """

    recipe: str
    output: str
    parents: tuple[str, ...]

    def explain(self) -> str:
        """Why it is trained, in one line."""
        kind = "trained on this machine" if from_scratch() else "trained on this machine or published"
        return f"{self.recipe}: trains: it is not {kind}"


def checkpoints(jobs: Sequence[Job]) -> list[Checkpoint]:
    """What has to be trained before these jobs, those that have reasons to run, each after its parents.

    Raises:
        BadInput: a table names an unknown recipe.
        NotAttempted: the data of one is not here.
    """
    named = dict.fromkeys(name for job in jobs if job.reasons for name in job.parameters.get(RECIPES, []))
    if not named:
        return []
    from mdrepro.training.recipes import registry
    from mdrepro.training.runs import parallel as training
    from mdrepro.training.runs import store as trained

    names = training.missing(list(named))
    rows = [registry.get(name) for name in names]
    return [
        Checkpoint(
            row.name, relative(trained.folder(row) / trained.RECORD), tuple(set(row.parents.values()) & set(names))
        )
        for row in rows
    ]


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


def plan(
    names: Sequence[str], tier: Tier, settings: Sequence[str] = (), force: bool = False, every: bool = False
) -> list[Job]:
    """A job for each table: those named, or all that run at ``tier``, those on request only with ``every``.

    Raises:
        BadInput: an unknown table, one that does not run at this tier, a setting that its notebook does not take, or
            a published result that was edited by hand.
    """
    chosen = [ledger.find(name) for name in dict.fromkeys(names)]
    runnable = [table for table in ledger.tables().values() if tier in table.tiers]
    chosen = chosen or [table for table in runnable if every or not table.by_name_only(tier)]
    jobs = []
    for table in chosen:
        values = resolve(table, tier, settings)
        now = fingerprint(table, values)
        results.published_result(tier, table.id)  # an edited one is an error now, not after the run
        reasons, made = _reasons(table.id, tier, now)
        if from_scratch() and now["recipes"] and not reasons and not _was_from_scratch(table.id, tier):
            reasons = ["--from-scratch was given, and its run may have taken published checkpoints"]
        reasons = ["--force was given", *reasons] if force else reasons
        assert table.notebook
        jobs.append(Job(table.id, tier, table.notebook, values, now, table.threads, tuple(reasons), made))
    return jobs


def _was_from_scratch(table: str, tier: Tier) -> bool:
    result = results.run_result(tier, table)
    return bool(result and result["provenance"].get("from_scratch"))


@contextmanager
def _alone() -> Iterator[None]:
    """Holds the lock on ``papermill_runs/``; it goes with the process, however that ends. Raises BadInput if held."""
    with hold(runs() / ".lock", refuse="another mdrepro reproduce is running here; wait for it or end it"):
        yield


def _write_plan(jobs: Sequence[Job], train: Sequence[Checkpoint], folder: Path) -> None:
    """Write ``plan.json``, the workflow's configuration, and one file a job into ``folder``."""
    for job in jobs:
        keys = ("table", "tier", "notebook", "parameters", "fingerprint")
        told = {key: getattr(job, key) for key in keys} | {"from_scratch": from_scratch()}
        write_json(folder / f"{job.table}.json", told)
    outputs = {each.recipe: each.output for each in train}
    described = [
        {
            "table": job.table,
            "inputs": [job.notebook, *(outputs[name] for name in _needs(job, train))],
            "output": job.output,
            "parameters": json.dumps(job.parameters, sort_keys=True),
            "code": json.dumps({key: job.fingerprint[key] for key in PARTS}, sort_keys=True),
            "threads": job.threads,
            "file": relative(folder / f"{job.table}.json"),
        }
        for job in jobs
    ]
    trained = [
        {
            "recipe": each.recipe,
            "inputs": [outputs[name] for name in each.parents],
            "output": each.output,
            "scratch": "--from-scratch" if from_scratch() else "",
        }
        for each in train
    ]
    write_json(folder / "plan.json", {"jobs": described, "checkpoints": trained})


def _needs(job: Job, train: Sequence[Checkpoint]) -> list[str]:
    """The checkpoints to train that a job rests on, directly or through others."""
    if not train or not job.parameters.get(RECIPES):
        return []
    from mdrepro.training.runs import parallel as training

    return training.missing(job.parameters[RECIPES])


def _command(folder: Path, jobs: Sequence[Job], cores: int, dry_run: bool, extra: Sequence[str]) -> list[str]:
    snakefile = Path(__file__).resolve().parents[3] / "workflow" / "Snakefile"
    targets = [job.output for job in jobs]
    return [
        *(sys.executable, "-m", "snakemake", *targets, "--forcerun", *targets, "--cores", str(cores)),
        *("--snakefile", str(snakefile), "--configfile", str(folder / "plan.json"), "--directory", str(root())),
        *("--nolock", "--rerun-incomplete", "--keep-going", *(["--dry-run"] if dry_run else []), *extra),
    ]


def execute(
    jobs: Sequence[Job],
    train: Sequence[Checkpoint] = (),
    *,
    cores: int,
    dry_run: bool = False,
    verbose: bool = False,
    extra: Sequence[str] = (),
) -> list[str]:
    """Run the jobs that have reasons to, and before them ``train``, through Snakemake; return the tables that failed.

    What notebooks and training say is passed on line by line; Snakemake's own goes to
    ``papermill_runs/<tier>/.plan/snakemake.log`` and, with ``verbose`` or ``dry_run``, to the terminal.

    Raises:
        BadInput: another run holds the lock, or Snakemake refused its command line.
    """
    due = [job for job in jobs if job.reasons]
    if not due:
        return []
    if dry_run:
        with tempfile.TemporaryDirectory(prefix="mdrepro-plan-") as scratch:
            _write_plan(due, train, Path(scratch))
            code, said = _snakemake(_command(Path(scratch), due, cores, True, extra), [], Path(scratch), True)
        if code:
            raise BadInput(f"Snakemake ended with code {code}:\n{said}")
        return []
    with _alone():
        folder = runs() / due[0].tier / ".plan"
        _write_plan(due, train, folder)
        for job in due:
            shutil.rmtree(failed_dir(job.tier, job.table), ignore_errors=True)
        names = [*(job.table for job in due), *(each.recipe for each in train)]
        code, said = _snakemake(_command(folder, due, cores, False, extra), names, folder, verbose)
    _tell_untrained(due, train, folder)
    failed = [job.table for job in due if _reasons(job.table, job.tier, job.fingerprint)[0]]
    if code and not any((failed_dir(due[0].tier, name) / "error.json").is_file() for name in failed):
        where = relative(folder / "snakemake.log")
        raise BadInput(f"Snakemake ended with code {code} before any notebook started (whole log: {where}):\n{said}")
    return failed


def _tell_untrained(due: Sequence[Job], train: Sequence[Checkpoint], folder: Path) -> None:
    """Write ``error.json`` for each table that was not begun because a checkpoint could not be trained."""
    missing = {each.recipe for each in train if not (root() / each.output).is_file()}
    for job in due if missing else ():
        lost = [name for name in _needs(job, train) if name in missing]
        if lost and not (failed_dir(job.tier, job.table) / "error.json").is_file():
            message = f"its checkpoint {lost[0]} was not trained; whole log: {relative(folder / 'snakemake.log')}"
            error = {"bad_input": False, "cell": None, "source": "", "error": "NotTrained", "message": message}
            write_json(failed_dir(job.tier, job.table) / "error.json", error | {"traceback": ""})


def _snakemake(command: list[str], names: Sequence[str], folder: Path, show: bool) -> tuple[int, str]:
    """Run Snakemake; pass on lines that begin with a name in brackets, with ``show`` all; its code and last lines."""
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
            if show or any(line.startswith(f"[{name}] ") for name in names):
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
    kept = f"\n    partial notebook: {relative(folder / NOTEBOOK)}" if (folder / NOTEBOOK).is_file() else ""
    return error | {"words": f"{table}: {cell}{error['error']}: {error['message']}{kept}"}


def _around(lines: list[str], failing: re.Match[str] | None, context: int = 5) -> str:
    """A cell's lines about the failing one, which is marked; its first lines where that is not known."""
    number = int(failing[1]) if failing else 0
    first = max(number - context, 1)
    shown = enumerate(lines[first - 1 : first - 1 + 2 * context], start=first)
    return "\n".join(f"    {'>' if index == number else ' '} {index:3} | {line}" for index, line in shown)
