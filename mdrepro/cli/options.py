"""Options and output that several commands share."""

import json
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
TierOption = Annotated[str, typer.Option("--tier", help="quick, proxy or paper.")]
FromScratch = Annotated[
    bool, typer.Option("--from-scratch", help="Ignore published checkpoints: train what this machine has not trained.")
]
Executor = Annotated[str | None, typer.Option("--executor", help="Snakemake executor, for example slurm.")]
Profile = Annotated[str | None, typer.Option("--profile", help="Snakemake profile.")]
Snakemake = Annotated[str, typer.Option("--snakemake", help="Any other options for Snakemake, quoted.")]


def print_json(value: Any) -> None:
    """Print a JSON document for programs."""
    print(json.dumps(value, indent=1, ensure_ascii=False))
