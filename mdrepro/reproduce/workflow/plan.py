"""Which tables run and which checkpoints are trained, and why.

A fingerprint (code, parameters, inputs, recipes, the paper's cells) decides whether a run is still good; Snakemake
(`execute`) schedules what is not. Checkpoints that a due table's rows take (declared in ``mdrepro/papers``) and that
are neither trained here nor published are rules of the same workflow, before the table's.
"""

import json
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdrepro.core.files import sweep
from mdrepro.core.paths import relative, root
from mdrepro.papers import ledger
from mdrepro.papers.schema import Table, Tier
from mdrepro.reproduce.workflow import parameters, results
from mdrepro.reproduce.workflow.fingerprint import Fingerprint, changes, fingerprint, first_three
from mdrepro.reproduce.workflow.folders import ERROR, RESULT, changed, failed, run_folder
from mdrepro.reproduce.workflow.parameters import setting_text
from mdrepro.reproduce.workflow.verify import problems
from mdrepro.training.runs.scratch import from_scratch


def mark(folder: Path, name: str) -> str:
    """Snakemake's output for a job whose plan is in ``folder``: an empty file, and all that Snakemake may delete."""
    return relative(folder / "marks" / name)


def ended(folder: Path, name: str) -> Path:
    """Where a job called ``name`` writes the SHA-256 of the result that it put in place; its plan is in ``folder``."""
    return folder / f"{name}.ended"


@dataclass(frozen=True)
class Need:
    """What a job asks the scheduler for."""

    threads: int = 1
    memory_gb: float = 8
    hours: float = 48
    """A training that needs longer goes on with the same command."""


def _rule(name: str, after: Sequence[str], folder: Path, need: Need, program: str, *arguments: str) -> dict[str, Any]:
    """A Snakemake rule that runs a program of this package after the jobs ``after``."""
    resources = {"mem_mb": math.ceil(need.memory_gb * 1000), "runtime": math.ceil(need.hours * 60)}
    params = {"command": shlex.join([sys.executable, "-m", f"mdrepro.reproduce.workflow.{program}", *arguments])}
    inputs = [mark(folder, each) for each in after]
    rule = {"name": name, "inputs": inputs, "output": mark(folder, name), "threads": need.threads}
    return rule | {"resources": resources, "params": params}


@dataclass(frozen=True)
class Job:
    """One run of a table, why it is due (``reasons``), or when and from which commit the last good one was made."""

    table: str
    tier: Tier
    notebook: str
    parameters: dict[str, Any]
    fingerprint: Fingerprint
    need: Need
    reasons: tuple[str, ...]
    origin: str = ""
    changed: dict[str, Any] = field(default_factory=dict)
    """The parameters that are not the tier's defaults."""

    @property
    def folder(self) -> Path:
        """Where its run is, or will be."""
        return run_folder(self.tier, self.table, self.parameters)

    @property
    def name(self) -> str:
        """Its table's; with the key of its parameters where they are not the defaults."""
        return f"{self.table}-{self.folder.name}" if self.changed else self.table

    def explain(self) -> str:
        """Why it runs or is skipped, in one line."""
        name = self.name + (f" ({setting_text(self.changed)})" if self.changed else "")
        if self.reasons:
            return f"{name}: runs: {first_three(self.reasons)}"
        return f"{name}: skipped: up to date, {self.origin}"

    def as_dict(self) -> dict[str, Any]:
        """What the job's program reads (`mdrepro.reproduce.workflow.notebook`)."""
        fields = ("name", "table", "tier", "notebook", "parameters", "fingerprint")
        return {name: getattr(self, name) for name in fields} | {"from_scratch": from_scratch()}

    def rule(self, after: Sequence[str], file: Path) -> dict[str, Any]:
        """The Snakemake rule: it runs after the recipes ``after``, and reads the job from ``file``."""
        hashes = {kind: value for kind, value in self.fingerprint.items() if kind != "parameters"}
        params = {"parameters": json.dumps(self.parameters, sort_keys=True), "code": json.dumps(hashes, sort_keys=True)}
        job = _rule(self.name, after, file.parent, self.need, "notebook", relative(file))
        return job | {"params": params | job["params"]}


@dataclass(frozen=True)
class Checkpoint:
    """A recipe that has to be trained, and the parents to train first."""

    recipe: str
    tier: str
    parents: tuple[str, ...]

    def explain(self) -> str:
        """Why it is trained, in one line."""
        kind = "trained on this machine" if from_scratch() else "trained on this machine or published"
        return f"{self.recipe}: trains: it is not {kind}"

    def rule(self, folder: Path) -> dict[str, Any]:
        """The Snakemake rule: it runs after its parents; ``folder`` is that of the plan."""
        options = ["--from-scratch"] if from_scratch() else []
        return _rule(self.recipe, self.parents, folder, Need(), "training", self.recipe, *options)


def recipes(jobs: Sequence[Job]) -> list[str]:
    """The recipes that the jobs which have reasons to run rest on."""
    return list(dict.fromkeys(name for job in jobs if job.reasons for name in job.fingerprint["recipes"]))


def checkpoints(names: Sequence[str], *, locally: bool = False) -> list[Checkpoint]:
    """What has to be trained for these recipes, parents before children: as `dependencies.missing`, with its errors."""
    if not names:
        return []
    from mdrepro.training.recipes import registry
    from mdrepro.training.runs import dependencies

    found = []
    for name in (due := dependencies.missing(names, locally=locally)):
        row = registry.get(name)
        parents = tuple(sorted(set(row.parent_names.values()) & set(due)))
        found.append(Checkpoint(name, row.tier, parents))
    return found


def reasons_to_run(table: str, tier: Tier, now: Fingerprint) -> tuple[list[str], str]:
    """Why a table's run with the parameters of the fingerprint ``now`` has to run (empty where not), and its origin."""
    path = run_folder(tier, table, now["parameters"]) / RESULT
    if not path.is_file():
        unfinished = (failed(path.parent) / ERROR).is_file()
        return ["its last run did not finish" if unfinished else "it has no run yet"], ""
    if damage := problems(path):
        return [f"its run is damaged: {damage[0]}"], ""
    origin = results.read(path)["provenance"]
    commit = (origin["commit"] or "no commit")[:10] + (" with local changes" if origin["dirty"] else "")
    return changes(origin["fingerprint"], now), f"made {origin['created']} from {commit}"


def plan(
    names: Sequence[str],
    tier: Tier,
    settings: Sequence[str] = (),
    force: bool = False,
    every: bool = False,
    seeds: int | None = None,
    given: Sequence[Mapping[str, Any]] = (),
) -> list[Job]:
    """A job for each run of each table: those named, or all that run at ``tier``, those on request only with ``every``.

    ``settings``, ``given``: as of `parameters.batch`. ``seeds``: by how many training seeds each row is measured (None:
    as declared); where no table is named, of those whose notebooks take it. Raises BadInput: an unknown table, one that
    does not run at this tier, a setting that its notebook does not take, or a published result that was edited by hand.
    """
    tables = [ledger.find(name) for name in dict.fromkeys(names)] or [
        table for table in ledger.tables().values() if tier in table.tiers and (every or not table.by_name_only(tier))
    ]
    jobs = []
    for table in tables:
        assert table.notebook
        over = seeds is not None and (names or "seeds" in parameters.declared(root() / table.notebook))
        runs = parameters.batch(table, tier, [*settings, *([f"seeds={seeds}"] if over else [])], given)
        results.published_result(tier, table.id)  # an edited one is an error now, not after the run
        jobs += [_job(table, tier, values, force) for values in runs]
    return jobs


def _job(table: Table, tier: Tier, values: dict[str, Any], force: bool) -> Job:
    """A run of a table with these parameters."""
    now, folder = fingerprint(table, values), run_folder(tier, table.id, values)
    sweep(folder.parent, folder.name)  # a run that a kill left under another name comes back
    reasons, origin = reasons_to_run(table.id, tier, now)
    if from_scratch() and now["recipes"] and not reasons:
        last = results.read(folder / RESULT)
        if not last["provenance"].get("from_scratch"):
            reasons = ["--from-scratch was given, and its run may have taken published checkpoints"]
    reasons = ["--force was given", *reasons] if force else reasons
    assert table.notebook
    need, other = Need(table.threads, table.memory_gb, table.hours), changed(tier, table.id, values)
    return Job(table.id, tier, table.notebook, values, now, need, tuple(reasons), origin, other)
