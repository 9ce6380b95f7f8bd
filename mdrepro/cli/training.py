"""``mdrepro train`` and ``mdrepro generate``: thin calls into `mdrepro.training` and `mdrepro.sampling`."""

import json
import sys
from typing import Annotated

import typer

from mdrepro.cli.options import (
    Executor,
    FromScratch,
    Json,
    Profile,
    Sampler,
    Snakemake,
    TierOption,
    print_json,
    recipe_names,
)
from mdrepro.core.errors import BadInput


def train(
    recipes: Annotated[
        list[str] | None, typer.Argument(metavar="[RECIPE]...", autocompletion=recipe_names, help="Rows of --list.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.NAME=VALUE", help="A setting of the recipe; repeatable."),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on with a run that was stopped; --no-resume begins anew.")] = True,
    max_seconds: Annotated[
        float | None, typer.Option("--max-seconds", min=0, help="Stop after so long, with a checkpoint.")
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="By how many training seeds: NAME, NAME-seed1, NAME-seed2 ...")
    ] = 1,
    every: Annotated[bool, typer.Option("--all", help="All recipes of --tier that are missing.")] = False,
    tier: TierOption = "quick",
    jobs: Annotated[
        int, typer.Option("--jobs", min=1, help="Of several recipes or --all: how many run at once, one thread each.")
    ] = 2,
    executor: Executor = None,
    profile: Profile = None,
    snakemake: Snakemake = "",
    listing: Annotated[bool, typer.Option("--list", help="List the recipes; train nothing.")] = False,
    from_scratch: FromScratch = False,
    as_json: Json = False,
) -> None:
    """Train recipes, their parents first, or all that are missing; one also under accelerate launch and torchrun."""
    from mdrepro.core.paths import check_working_copy
    from mdrepro.core.watchdog import follow
    from mdrepro.training.recipes import registry
    from mdrepro.training.runs import commands, scratch

    follow()
    names = list(dict.fromkeys(recipes or []))
    if listing and seeds > 1:
        raise BadInput("--list shows all training seeds: leave --seeds out")
    if listing + every + bool(names) != 1:
        raise BadInput("name recipes, or give --all, or --list")
    if from_scratch:
        scratch.ignore_published()
    if listing:
        rows = commands.listed()
        print(json.dumps(rows, indent=1) if as_json else commands.table(rows))
        return
    for name in names:
        registry.get(name)
    check_working_copy()
    names = commands.by_seeds(registry.names(tier) if every else names, seeds, denoisers=every)
    try:
        if every or len(names) > 1 or executor or profile or snakemake:
            if settings or max_seconds is not None or not resume:
                raise BadInput("--set, --max-seconds and --no-resume take one recipe, trained here: leave them out")
            from mdrepro.reproduce.workflow import execute, training

            extra = execute.snakemake_options(executor, profile, snakemake, jobs)
            failed = training.train(names, cores=jobs, locally=not every, extra=extra)
            if as_json:
                print_json(commands.listed(names))
            for name, why in failed.items():
                print(f"error: {name}: {why}", file=sys.stderr)
            raise typer.Exit(1 if failed else 0)
        record = commands.train(names[0], settings or [], resume=resume, max_seconds=max_seconds)
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        raise typer.Exit(130) from None
    if as_json:
        print_json(record)


def generate(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT", autocompletion=recipe_names, help="A recipe, or a folder of a diffusers pipeline."
        ),
    ],
    prompts: Annotated[str, typer.Option("--prompts", help="A file with one prompt a line, or .jsonl with prompt.")],
    out: Annotated[str, typer.Option("--out", help="A folder for the images.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Steps; the checkpoint's own by default.")] = None,
    guidance: Annotated[float | None, typer.Option(help="w, 1 is none; the checkpoint's own by default.")] = None,
    sampler: Annotated[Sampler | None, typer.Option(help="The checkpoint's own by default.")] = None,
    decoder: Annotated[str | None, typer.Option(help="A recipe of another decoder for the same latents.")] = None,
    seed: int = 0,
    batch: Annotated[int, typer.Option(min=1, help="Images at once.")] = 8,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="Every N-th batch from the I-th on, from 0.")] = None,
    as_json: Json = False,
) -> None:
    """Make an image for each prompt; the same command goes on with a set that was interrupted."""
    from mdrepro.data.prompts import read
    from mdrepro.training.runs import commands

    texts, part = read(prompts), commands.shard(shard)
    pipeline = commands.pipeline(checkpoint, decoder)
    from mdrepro.sampling.generate import generate as make

    images = make(
        pipeline, texts, out, steps=steps, guidance=guidance, sampler=sampler, seed=seed, batch=batch, shard=part
    )
    if as_json:
        print(images.text(), end="")
        return
    print(f"{len(images.images)} of {images.settings['images']} images in {out}")
