"""The ``mdrepro`` command. Every verb is a thin call into the package; heavy packages are imported where used."""

import io
import json
import shlex
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from mdrepro.cli import evaluate, export, latency
from mdrepro.core.errors import BadInput, NotAttempted

app = typer.Typer(
    name="mdrepro",
    help="MobileDiffusion and SnapFusion, reproduced: every table beside the papers' own numbers.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(evaluate.app, name="evaluate")
app.command("export")(export.export)
app.command("latency")(latency.latency)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
TierOption = Annotated[str, typer.Option("--tier", help="quick, proxy or paper.")]
FromScratch = Annotated[
    bool, typer.Option("--from-scratch", help="Ignore published checkpoints: train what this machine has not trained.")
]
Tables = Annotated[list[str] | None, typer.Argument(metavar="[TABLE]...", help="Tables; all of them when left out.")]


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))


@app.command("list")
def list_tables(
    as_json: Json = False,
    planned: Annotated[bool, typer.Option("--planned", help="Also tables that have no notebook yet.")] = False,
) -> None:
    """List the tables that notebooks reproduce."""
    from mdrepro.core.console import columns
    from mdrepro.papers import ledger

    found = ledger.tables(planned=planned)
    rows: list[dict[str, Any]] = [
        {
            "table": table.id,
            "paper": ledger.paper_of(table).id,
            "notebook": table.notebook,
            "title": table.title,
            "published_as": table.published_as,
            "tiers": list(table.tiers),
            "claims": [claim.id for claim in table.claims],
        }
        for table in found.values()
    ]
    if as_json:
        _print_json(rows)
        return
    lines = [("table", "tiers", "title")]
    lines += [(row["table"], ", ".join(row["tiers"]) or "planned", row["title"]) for row in rows]
    print(columns(lines, indent=""))


@app.command()
def show(table: str, tier: TierOption = "quick", as_json: Json = False) -> None:
    """Show one table: the paper's cells, our latest run and what we published."""
    from mdrepro.core.console import columns
    from mdrepro.papers import ledger
    from mdrepro.reproduce import formatting
    from mdrepro.reproduce.workflow import results

    spec, checked = ledger.find(table, planned=True), ledger.check_tier(tier)
    run, before = results.run_result(checked, table), results.published_result(checked, table)
    if as_json:
        _print_json({"table": spec.model_dump(mode="json"), "run": run, "published": before})
        return
    print(f"{spec.title}\n{spec.published_as} of {ledger.paper_of(spec).title}\n{spec.protocol}\n")
    if run or before:
        print(formatting.verdicts(spec, run or before or {}, before, whole=True))
        print("\n" + ("the numbers are this machine's run" if run else "no run here: these are the published numbers"))
        return
    lines = [("row", "column", "paper", "confidence", "source")]
    for cell in spec.cells:
        value = cell.text or ("–" if cell.value is None else formatting.number(cell.value, 6))
        lines.append((cell.row, cell.column, value, cell.confidence, cell.source))
    print(columns(lines))
    print(
        f"\nno run at tier {tier}" + (f": mdrepro reproduce {table}" if spec.notebook else ": its notebook is planned")
    )


@app.command()
def reproduce(
    tables: Tables = None,
    tier: TierOption = "quick",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A notebook parameter; repeatable.")
    ] = None,
    cores: Annotated[
        int, typer.Option("--cores", min=1, help="Cores that Snakemake may use; with --executor, jobs at once.")
    ] = 2,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Say what would run and why; run nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Run even what is up to date.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Also the tables that run only on request.")] = False,
    from_scratch: FromScratch = False,
    report: Annotated[bool, typer.Option(help="Build the report afterwards.")] = True,
    executor: Annotated[str | None, typer.Option("--executor", help="Snakemake executor, for example slurm.")] = None,
    profile: Annotated[str | None, typer.Option("--profile", help="Snakemake profile.")] = None,
    snakemake: Annotated[str, typer.Option("--snakemake", help="Any other options for Snakemake, quoted.")] = "",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show Snakemake's own output.")] = False,
) -> None:
    """Run the tables' notebooks where needed, and end with the table of verdicts."""
    from mdrepro.papers import ledger
    from mdrepro.reproduce import formatting
    from mdrepro.reproduce.workflow import plan, results
    from mdrepro.training.runs import scratch

    if from_scratch:
        scratch.ignore_published()
    checked = ledger.check_tier(tier)
    if not tables:
        for spec in ledger.tables().values():
            if checked not in spec.tiers:
                print(f"{spec.id}: skipped: does not run at tier {tier}: {spec.not_at.get(checked, '')}")
            elif (why := spec.by_name_only(checked)) and not every:
                print(f"{spec.id}: skipped: runs only by name or with --all: {why}")
    jobs = plan.plan(tables or [], checked, settings or [], force, every)
    checkpoints = plan.checkpoints(jobs)
    for line in [each.explain() for each in checkpoints] + [job.explain() for job in jobs]:
        print(line, flush=True)
    extra = [
        *(["--executor", executor, "--jobs", str(cores)] if executor else []),
        *(["--profile", profile] if profile else []),
    ]
    try:
        extra += shlex.split(snakemake)
    except ValueError as error:
        raise BadInput(f"--snakemake {snakemake}: {error}") from None
    try:
        failed = plan.execute(jobs, checkpoints, cores=cores, dry_run=dry_run, verbose=verbose, extra=extra)
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        raise typer.Exit(130) from None
    if dry_run:
        raise typer.Exit(1 if failed else 0)
    for job in jobs:
        if job.table not in failed and (result := results.run_result(tier, job.table)):
            print("\n" + formatting.verdicts(ledger.find(job.table), result, results.published_result(tier, job.table)))
    errors = [plan.failure(tier, name) for name in failed]
    if report and len(failed) < len(jobs):
        _report()
    for trouble in errors:
        print(f"\nerror: {trouble['words']}", file=sys.stderr)
    if errors:
        raise typer.Exit(2 if all(trouble["bad_input"] for trouble in errors) else 1)


def _report() -> None:
    from mdrepro.core.paths import relative
    from mdrepro.reproduce.report import build as report

    try:
        print(f"\nreport: {relative(report.build())}")
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


@app.command("report")
def build_report() -> None:
    """Build the report, a static site, from local runs and published results."""
    _report()


@app.command()
def publish(tables: list[str], tier: TierOption = "quick") -> None:
    """Take verified runs, made from a clean commit, into results/."""
    from mdrepro.core.paths import relative
    from mdrepro.papers import ledger
    from mdrepro.reproduce.workflow import publish as publishing

    checked = ledger.check_tier(tier)
    for path in publishing.publish(tables, checked):
        print(relative(path))


@app.command()
def verify(
    tier: Annotated[str | None, typer.Option("--tier", help="quick, proxy or paper; all when left out.")] = None,
    as_json: Json = False,
) -> None:
    """Recompute every hash and verdict of published results and local runs."""
    from mdrepro.papers import ledger
    from mdrepro.reproduce.workflow.verify import verify as check

    found = check(ledger.check_tier(tier) if tier else None)
    if as_json:
        _print_json(found)
    else:
        for name, entry in found["tables"].items():
            for kind in ("published", "run"):
                if kind in entry:
                    _print_check(name, kind, entry[kind])
        print("nothing to verify" if not found["tables"] else "all verified" if found["ok"] else "NOT verified")
    raise typer.Exit(0 if found["ok"] else 1)


def _print_check(name: str, kind: str, entry: dict[str, Any]) -> None:
    counts = ", ".join(f"{number} {verdict}" for verdict, number in entry.get("verdicts", {}).items())
    print(f"{name} ({kind}): {'ok: ' + counts if entry['ok'] else 'FAILED'}")
    for words in entry["problems"]:
        print(f"  {words}", file=sys.stderr)
    for words in entry.get("notes", []):
        print(f"  note: {words}")


@app.command()
def cost(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]...", help="Published networks, by preset name.")
    ] = None,
    systems: Annotated[
        list[str] | None,
        typer.Option("--system", metavar="SYSTEM", help="A whole system in place of networks; repeatable."),
    ] = None,
    resolution: Annotated[int | None, typer.Option(help="Image side in pixels; the preset's own by default.")] = None,
    details: Annotated[
        bool, typer.Option("--details", help="Also every counter's count, blocks and peak activation memory (slower).")
    ] = False,
    as_json: Json = False,
) -> None:
    """Parameters, MACs and FLOPs of full-size networks, or of one image by a whole system."""
    from mdrepro.models import presets
    from mdrepro.models import systems as known
    from mdrepro.reproduce import formatting

    if bool(models) == bool(systems):
        allowed = f"networks ({', '.join(presets.names())}) or --system with one of {', '.join(known.SYSTEMS)}"
        raise BadInput(f"name either {allowed}")
    if systems:
        if resolution is not None or details:
            raise BadInput("--resolution and --details are of networks, not of systems: leave them out")
        _system_costs(systems, as_json)
        return
    from mdrepro.metrics.cost import measure as costs

    checked = [presets.get(model).name for model in models or []]
    if details:
        every = [costs.details(model, resolution) for model in checked]
        found = [each.as_dict() for each in every]
        words = formatting.costs([each.cost for each in every]) + "\n\n" + formatting.cost_details(every)
    else:
        counted = [costs.calculate(model, resolution) for model in checked]
        found = [each.as_dict() for each in counted]
        words = formatting.costs(counted)
    if as_json:
        _print_json(found[0] if len(found) == 1 else found)
    else:
        print(words)


def _system_costs(names: list[str], as_json: bool) -> None:
    from mdrepro.metrics.cost.systems import measure_system
    from mdrepro.reproduce import formatting

    every = [measure_system(name) for name in names]
    if as_json:
        _print_json([each.as_dict() for schedules in every for each in schedules])
        return
    print("\n\n".join(formatting.system_cost(each) for schedules in every for each in schedules))


@app.command()
def train(
    recipe: Annotated[str | None, typer.Argument(metavar="[RECIPE]", help="A row of --list.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.NAME=VALUE", help="A setting of the recipe; repeatable."),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on with a run that was stopped; --no-resume begins anew.")] = True,
    max_seconds: Annotated[
        float | None, typer.Option("--max-seconds", min=0, help="Stop after so long, with a checkpoint.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All recipes of --tier that are missing.")] = False,
    tier: TierOption = "quick",
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="With --all: runs side by side, one thread each.")] = 2,
    listing: Annotated[bool, typer.Option("--list", help="List the recipes; train nothing.")] = False,
    from_scratch: FromScratch = False,
    as_json: Json = False,
) -> None:
    """Train a recipe, its parents first, or all that are missing; also under accelerate launch and torchrun."""
    from mdrepro.core.watchdog import follow
    from mdrepro.training.runs import commands, scratch

    follow()
    if listing + every + (recipe is not None) != 1:
        raise BadInput("name a recipe, or give --all, or --list")
    if from_scratch:
        scratch.ignore_published()
    if listing:
        rows = commands.listed()
        print(json.dumps(rows, indent=1) if as_json else commands.table(rows))
        return
    if every:
        if settings or max_seconds is not None or not resume:
            raise BadInput("--set, --max-seconds and --no-resume are of one recipe, not of --all: leave them out")
        failed = commands.train_all(tier, jobs)
        for name, why in failed.items():
            print(f"error: {name} {why}", file=sys.stderr)
        raise typer.Exit(1 if failed else 0)
    assert recipe is not None
    try:
        record = commands.train(recipe, settings or [], resume=resume, max_seconds=max_seconds)
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        raise typer.Exit(130) from None
    if as_json:
        _print_json(record)


@app.command()
def generate(
    checkpoint: Annotated[str, typer.Argument(help="A recipe, or a folder of a diffusers pipeline.")],
    prompts: Annotated[str, typer.Option("--prompts", help="A file with one prompt a line, or .jsonl with prompt.")],
    out: Annotated[str, typer.Option("--out", help="A folder for the images.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Steps; the checkpoint's own by default.")] = None,
    guidance: Annotated[float | None, typer.Option(help="w, 1 is none; the checkpoint's own by default.")] = None,
    sampler: Annotated[
        str | None, typer.Option(help="ddim, dpm, dpm++, euler, renoise; the checkpoint's by default.")
    ] = None,
    decoder: Annotated[str | None, typer.Option(help="A recipe of another decoder for the same latents.")] = None,
    seed: int = 0,
    batch: Annotated[int, typer.Option(min=1, help="Images at once.")] = 8,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="Every N-th batch from the I-th on, from 0.")] = None,
    as_json: Json = False,
) -> None:
    """Make an image for each prompt; the same command goes on with a set that was interrupted."""
    from mdrepro.data.prompts import read
    from mdrepro.training.runs import commands

    lines, place = read(prompts), commands.shard(shard)
    pipeline = commands.pipeline(checkpoint, decoder)
    from mdrepro.sampling.generate import generate as make

    made = make(
        pipeline, lines, out, steps=steps, guidance=guidance, sampler=sampler, seed=seed, batch=batch, shard=place
    )
    if as_json:
        print(made.text(), end="")
        return
    print(f"{len(made.images)} of {made.settings['images']} images in {out}")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what this machine has and lacks for each tier."""
    from mdrepro.reproduce.doctor import report

    found = report()
    if as_json:
        _print_json(found)
        return
    for tier, entry in found["tiers"].items():
        print(f"{tier}: {'ready' if entry['ready'] else 'not ready'}")
        for item in entry["findings"]:
            mark = "yes" if item["found"] else "NO " if item["required"] else "no "
            print(f"  {mark}  {item['name']}: {item['detail']}" + ("" if item["found"] else f" → {item['remedy']}"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: bad input ends with one message and exit code 2, never with a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        app(args=list(arguments) if arguments is not None else None)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except NotAttempted as error:
        print(f"not attempted: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
