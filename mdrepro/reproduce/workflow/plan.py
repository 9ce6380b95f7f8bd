"""Which tables run and which checkpoints are trained, and why.

A fingerprint (code, parameters, inputs, recipes, the paper's cells) decides whether a run is still good; Snakemake
(`execute`) schedules what is not. Both see the same facts: the fingerprint is among the rule's ``params``. Checkpoints
that a due table's rows take (declared in ``mdrepro/papers``) and that are neither trained here nor published are rules
of the same workflow, before the table's.
"""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mdrepro.core.paths import relative, root, run_dir
from mdrepro.papers import ledger
from mdrepro.papers.schema import Tier
from mdrepro.reproduce.workflow import results
from mdrepro.reproduce.workflow.fingerprint import Fingerprint, changes, fingerprint
from mdrepro.reproduce.workflow.notebook import failed_dir
from mdrepro.reproduce.workflow.parameters import resolve
from mdrepro.reproduce.workflow.verify import problems
from mdrepro.training.runs.scratch import from_scratch

MODULES = "mdrepro.reproduce.workflow"
"""Where the programs that the rules run are."""


@dataclass(frozen=True)
class Job:
    """One table's run.

    Args:
        table, tier, notebook, parameters, threads: what is run, and how.
        fingerprint: of what the run would rest on.
        reasons: why it has to run; empty where it is up to date.
        origin: when, and from which commit, the last good run was made.
    """

    table: str
    tier: Tier
    notebook: str
    parameters: dict[str, Any]
    fingerprint: Fingerprint
    threads: int
    reasons: tuple[str, ...]
    origin: str = ""

    @property
    def output(self) -> str:
        """The result file, relative to the root."""
        return (run_dir(self.tier, self.table) / "result.json").relative_to(root()).as_posix()

    def explain(self) -> str:
        """Why it runs or is skipped, in one line."""
        if self.reasons:
            more = f" (and {len(self.reasons) - 3} more)" if len(self.reasons) > 3 else ""
            return f"{self.table}: runs: {'; '.join(self.reasons[:3])}{more}"
        return f"{self.table}: skipped: up to date, {self.origin}"

    def as_dict(self) -> dict[str, Any]:
        """What the job's program reads (`mdrepro.reproduce.workflow.notebook`)."""
        row = asdict(self) | {"from_scratch": from_scratch()}
        return {name: value for name, value in row.items() if name not in ("threads", "reasons", "origin")}

    def rule(self, inputs: Sequence[str], file: Path) -> dict[str, Any]:
        """The Snakemake rule: it needs the notebook and ``inputs``, and reads the job from ``file``."""
        hashes = {kind: value for kind, value in self.fingerprint.items() if kind != "parameters"}
        params = {"parameters": json.dumps(self.parameters, sort_keys=True), "code": json.dumps(hashes, sort_keys=True)}
        return {
            "name": self.table,
            "inputs": [self.notebook, *inputs],
            "output": self.output,
            "threads": self.threads,
            "params": params | {"command": shlex.join([sys.executable, "-m", f"{MODULES}.notebook", relative(file)])},
        }


@dataclass(frozen=True)
class Checkpoint:
    """A recipe that has to be trained.

    Args:
        recipe, tier: which.
        output: its record, relative to the root.
        parents: those of its parents that have to be trained first.
    """

    recipe: str
    tier: str
    output: str
    parents: tuple[str, ...]

    def explain(self) -> str:
        """Why it is trained, in one line."""
        kind = "trained on this machine" if from_scratch() else "trained on this machine or published"
        return f"{self.recipe}: trains: it is not {kind}"

    def rule(self, inputs: Sequence[str]) -> dict[str, Any]:
        """The Snakemake rule: it needs ``inputs``, its parents' records."""
        command = [sys.executable, "-m", f"{MODULES}.training", self.recipe]
        return {
            "name": self.recipe,
            "inputs": list(inputs),
            "output": self.output,
            "threads": 1,
            "params": {"command": shlex.join([*command, *(["--from-scratch"] if from_scratch() else [])])},
        }


def recipes(jobs: Sequence[Job]) -> list[str]:
    """The recipes that the jobs which have reasons to run rest on."""
    return list(dict.fromkeys(name for job in jobs if job.reasons for name in job.fingerprint["recipes"]))


def checkpoints(names: Sequence[str], *, locally: bool = False) -> list[Checkpoint]:
    """What has to be trained for these recipes, parents before children.

    Args:
        names: recipes.
        locally: train ``names`` themselves unless this machine has trained them, published or not.

    Raises:
        BadInput: an unknown name.
        NotAttempted: the data of one is not on this machine.
    """
    if not names:
        return []
    from mdrepro.training.recipes import registry
    from mdrepro.training.runs import dependencies, store

    due = dependencies.missing(names, locally=locally)
    rows = [registry.get(name) for name in due]
    return [
        Checkpoint(
            row.name,
            row.tier,
            relative(store.folder(row) / store.RECORD),
            tuple(sorted(set(row.parent_names.values()) & set(due))),
        )
        for row in rows
    ]


def reasons_to_run(table: str, tier: Tier, now: Fingerprint) -> tuple[list[str], str]:
    """Why a table's last run is not good for the fingerprint ``now`` (empty where it is), and the run's origin."""
    path = run_dir(tier, table) / "result.json"
    if not path.is_file():
        failed = (failed_dir(tier, table) / "error.json").is_file()
        return ["its last run did not finish" if failed else "it has no run yet"], ""
    if damage := problems(path):
        return [f"its run is damaged: {damage[0]}"], ""
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
    tables = [ledger.find(name) for name in dict.fromkeys(names)] or [
        table for table in ledger.tables().values() if tier in table.tiers and (every or not table.by_name_only(tier))
    ]
    jobs = []
    for table in tables:
        values = resolve(table, tier, settings)
        now = fingerprint(table, values)
        results.published_result(tier, table.id)  # an edited one is an error now, not after the run
        reasons, origin = reasons_to_run(table.id, tier, now)
        if from_scratch() and now["recipes"] and not reasons and not _was_from_scratch(table.id, tier):
            reasons = ["--from-scratch was given, and its run may have taken published checkpoints"]
        reasons = ["--force was given", *reasons] if force else reasons
        assert table.notebook
        jobs.append(Job(table.id, tier, table.notebook, values, now, table.threads, tuple(reasons), origin))
    return jobs


def _was_from_scratch(table: str, tier: Tier) -> bool:
    result = results.run_result(tier, table)
    return bool(result and result["provenance"].get("from_scratch"))
