"""Commands on the papers' tables, from ``list`` to ``doctor``: thin calls into the package."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mdrepro.cli.options import (
    Executor,
    FromScratch,
    Json,
    Profile,
    Snakemake,
    Table,
    Tier,
    TierOption,
    print_json,
    table_names,
)

Tables = Annotated[
    list[str] | None,
    typer.Argument(metavar="[TABLE]...", autocompletion=table_names, help="Tables; all of them when left out."),
]


def list_tables(
    as_json: Json = False,
    planned: Annotated[bool, typer.Option("--planned", help="Also tables that have no notebook yet.")] = False,
) -> None:
    """List the tables that notebooks reproduce."""
    from mdrepro.core.console import columns
    from mdrepro.papers import ledger

    rows: list[dict[str, Any]] = [
        {"table": table.id, "paper": ledger.paper_of(table).id}
        | {name: getattr(table, name) for name in ("notebook", "title", "published_as")}
        | {"tiers": list(table.tiers), "claims": [claim.id for claim in table.claims]}
        for table in ledger.tables(planned=planned).values()
    ]
    if as_json:
        print_json(rows)
        return
    lines = [("table", "tiers", "title")]
    lines += [(row["table"], ", ".join(row["tiers"]) or "planned", row["title"]) for row in rows]
    print(columns(lines, indent=""))


def show(
    table: Table,
    tier: TierOption = "quick",
    as_json: Json = False,
    name: Annotated[
        str | None,
        typer.Option("--run", metavar="RUN", help="A run as runs lists it, or latest; else that of the defaults."),
    ] = None,
) -> None:
    """Show one table: the paper's cells, our run with the default parameters and what we published."""
    from mdrepro.core.console import NONE, columns, paragraph
    from mdrepro.papers import ledger
    from mdrepro.reproduce import formatting
    from mdrepro.reproduce.workflow import folders, results

    spec, checked = ledger.find(table, planned=True), ledger.check_tier(tier)
    chosen = folders.named(checked, table, name) if name else None
    run, before = results.run_result(checked, table, chosen), results.published_result(checked, table)
    if as_json:
        print_json({"table": spec.model_dump(mode="json"), "run": run, "published": before})
        return
    print(spec.title)
    print(paragraph(f"{spec.published_as} of {ledger.paper_of(spec).title}", hanging=0))
    print(paragraph(spec.protocol, hanging=0) + "\n")
    if not run and any(folders.every(checked, table)):
        print(f"there are runs with other parameters: mdrepro runs {table}\n")
    if result := run or before:
        here = "this machine's run" if run else "published; no run here"
        if run and before and run["rows"] == before["rows"]:
            here, before = "this machine's run; what is published has the same numbers", None
        print(paragraph(here, hanging=0) + "\n")
        print(formatting.verdicts(spec, result, before if run else None, whole=True))
        return
    lines = [("row", "column", "paper", "confidence", "source")]
    for cell in spec.cells:
        value = cell.text or (NONE if cell.value is None else formatting.number(cell.value, 6))
        lines.append((cell.row, cell.column, value, cell.confidence, cell.source))
    print(columns(lines))
    print(
        f"\nno run at tier {tier}" + (f": mdrepro reproduce {table}" if spec.notebook else ": its notebook is planned")
    )


def list_runs(table: Table, tier: TierOption = "quick", as_json: Json = False) -> None:
    """List a table's runs on this machine: the parameters that are not the defaults, state, seconds, when made."""
    from mdrepro.core.console import NONE, columns
    from mdrepro.papers import ledger
    from mdrepro.reproduce.workflow import batches
    from mdrepro.reproduce.workflow.parameters import setting_text

    found = batches.listed(ledger.check_tier(tier), table)
    if as_json:
        print_json(found)
        return
    lines = [("run", "parameters", "state", "seconds", "made", "")]
    for each in found:
        seconds = NONE if each["seconds"] is None else f"{each['seconds']:.0f}"
        settings = setting_text(each["parameters"]) or "defaults"
        lines.append((each["run"], settings, each["state"], seconds, each["made"] or NONE, each["why"]))
    print(columns(lines, indent="") if found else f"no run at tier {tier}: mdrepro reproduce {table}")


def reproduce(
    tables: Tables = None,
    tier: TierOption = "quick",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A notebook parameter; repeatable. seed=0..4 and steps=100,200 ask for a run with each value.",
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Parameters from a YAML file; --set overrides them.")
    ] = None,
    sweep: Annotated[
        Path | None, typer.Option("--sweep", help="A YAML list of runs, each a mapping of parameters, added to -f's.")
    ] = None,
    cores: Annotated[
        int, typer.Option("--cores", min=1, help="Cores that Snakemake may use; with --executor, jobs at once.")
    ] = 2,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Say what would run, why and by which parameters; run nothing.")
    ] = False,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, help="By how many training seeds each row is measured.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Run even what is up to date.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Also the tables that run only on request.")] = False,
    from_scratch: FromScratch = False,
    report: Annotated[bool, typer.Option(help="Build the report afterwards.")] = True,
    executor: Executor = None,
    profile: Profile = None,
    snakemake: Snakemake = "",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show Snakemake's own output.")] = False,
) -> None:
    """Run the tables' notebooks where needed, and end with the table of verdicts."""
    from mdrepro.core import faults, paths
    from mdrepro.core.console import paragraph
    from mdrepro.papers import ledger
    from mdrepro.reproduce import formatting
    from mdrepro.reproduce.workflow import batches, execute, parameters, plan, results
    from mdrepro.training.runs import scratch

    paths.check_working_copy()
    if from_scratch:
        scratch.ignore_published()
    checked = ledger.check_tier(tier)
    if not tables:
        for spec in ledger.tables().values():
            if checked not in spec.tiers:
                print(paragraph(f"{spec.id}: skipped: does not run at tier {tier}: {spec.not_at.get(checked, '')}"))
            elif (why := spec.by_name_only(checked)) and not every:
                print(paragraph(f"{spec.id}: skipped: runs only by name or with --all: {why}"))
    base = parameters.from_file(file, several=False)[0] if file else {}
    given = [base | run for run in (parameters.from_file(sweep, several=True) if sweep else [{}])]
    jobs = plan.plan(tables or [], checked, settings or [], force, every, seeds, given)
    checkpoints = plan.checkpoints(plan.recipes(jobs))
    for each in checkpoints:
        print(paragraph(each.explain()), flush=True)
    for job in jobs:
        print(paragraph(job.explain()), flush=True)
        if dry_run:
            print(paragraph(f"parameters: {parameters.setting_text(job.parameters)}", "  "))
    extra = execute.snakemake_options(executor, profile, snakemake, cores)
    try:
        failed = execute.execute(jobs, checkpoints, cores=cores, dry_run=dry_run, verbose=verbose, extra=extra)
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        raise typer.Exit(130) from None
    if dry_run:
        due = sum(bool(job.reasons) for job in jobs)
        print(f"{due} of {len(jobs)} runs and {len(checkpoints)} trainings are due; nothing was started")
        raise typer.Exit(1 if failed else 0)
    for name in dict.fromkeys(job.table for job in jobs):
        mine = [job for job in jobs if job.table == name]
        if len(mine) > 1:
            print("\n" + batches.summary(mine, [job for job in mine if job in failed]))
        elif mine[0] not in failed and (result := results.run_result(checked, name, mine[0].folder)):
            print("\n" + formatting.verdicts(ledger.find(name), result, results.published_result(checked, name)))
    errors = [execute.failure(job) for job in failed]
    if report and len(failed) < len(jobs):
        build_report()
    for trouble in errors:
        print(f"\nerror: {trouble['message']}", file=sys.stderr)
        if cause := faults.in_text(trouble["message"]):
            print(f"{cause[0].upper()}{cause[1:]}.", file=sys.stderr)
    if errors:
        raise typer.Exit(2 if all(trouble["bad_input"] for trouble in errors) else 1)


def build_report(
    out: Annotated[
        Path | None, typer.Option("--out", help="A folder for the site, new or an older report's.", show_default=False)
    ] = None,
    tier: Annotated[Tier | None, typer.Option("--tier", help="Show this tier alone.")] = None,
) -> None:
    """Build the report, a static site, from local runs and published results."""
    from mdrepro.core.console import waiting
    from mdrepro.core.paths import check_working_copy, relative

    check_working_copy()
    from mdrepro.reproduce.report import build as report

    try:
        with waiting("report"):
            index = report.build(out, tier=tier)
        print(f"\nreport: {relative(index)}")
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


def publish(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME...", autocompletion=table_names, help="Tables with a run; with --checkpoints, recipes."
        ),
    ] = None,
    tier: TierOption = "quick",
    rejudge: Annotated[
        bool, typer.Option("--rejudge", help="Judge all published numbers by the papers' data as they stand now.")
    ] = False,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Publish trained recipes; NAME-seed1 is another training seed.")
    ] = False,
) -> None:
    """Take verified runs, made from a clean commit, into results/: tables, or checkpoints."""
    from mdrepro.core.errors import BadInput
    from mdrepro.core.paths import check_working_copy, relative
    from mdrepro.papers import ledger
    from mdrepro.reproduce.workflow import publish as publishing

    check_working_copy()
    checked = ledger.check_tier(tier)
    if rejudge == bool(names) or (rejudge and checkpoints):
        raise BadInput("expected either tables to publish or --rejudge, which judges all that is published")
    if checkpoints:
        from mdrepro.training.runs.publish import publish as publish_checkpoints

        written = publish_checkpoints(names or [])
    else:
        written = publishing.rejudge(checked) if rejudge else publishing.publish(names or [], checked)
    for path in written:
        print(relative(path))


def verify(
    tier: Annotated[Tier | None, typer.Option("--tier", help="All when left out.")] = None,
    as_json: Json = False,
) -> None:
    """Recompute every hash and verdict of published results and local runs."""
    from mdrepro.core.console import GREEN, styled
    from mdrepro.papers import ledger
    from mdrepro.reproduce.workflow.verify import verify as check

    checked = check(ledger.check_tier(tier) if tier else None)
    if as_json:
        print_json(checked)
    else:
        for name, entry in checked["tables"].items():
            parts = {kind: entry[kind] for kind in ("published", "run") if kind in entry}
            parts |= {f"run {key}": other for key, other in entry.get("other runs", {}).items()}
            for kind, part in parts.items():
                _print_check(name, kind, part)
        for problem in checked["problems"]:
            print(problem, file=sys.stderr)
        verdict = styled("all verified", GREEN) if checked["ok"] else styled("NOT verified")
        print(verdict if checked["tables"] else "nothing to verify")
    raise typer.Exit(0 if checked["ok"] else 1)


def _print_check(name: str, kind: str, entry: dict[str, Any]) -> None:
    from mdrepro.core.console import paragraph, styled

    counts = ", ".join(f"{number} {verdict}" for verdict, number in entry.get("verdicts", {}).items())
    state = "ok" if entry["ok"] else "FAILED"
    line = paragraph(f"{name} ({kind}): {state}" + (f": {counts}" if counts else ""))
    print(line.replace(f": {state}", f": {styled(state)}", 1))
    for problem in entry["problems"]:
        print(f"  {problem}", file=sys.stderr)
    for note in entry.get("notes", []):
        print(paragraph(f"note: {note}", "  "))


def doctor(as_json: Json = False) -> None:
    """Show what this machine has and lacks for each tier."""
    from mdrepro.core.console import paragraph, styled
    from mdrepro.reproduce.doctor import report as inspect

    report = inspect()
    if as_json:
        print_json(report)
        return
    for tier, entry in report["tiers"].items():
        print(f"{tier}: {styled('ready' if entry['ready'] else 'not ready')}")
        for item in entry["findings"]:
            mark = "yes" if item["found"] else "NO" if item["required"] else "no"
            remedy = "" if item["found"] else f" → {item['remedy']}"
            print(paragraph(f"{mark:3}  {item['name']}: {item['detail']}{remedy}", "  ", hanging=5, mark=mark))
