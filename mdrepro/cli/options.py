"""Options and output that several commands share."""

import json
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
TierOption = Annotated[str, typer.Option("--tier", help="quick, proxy or paper.")]
FromScratch = Annotated[
    bool, typer.Option("--from-scratch", help="Ignore published checkpoints: train what this machine has not trained.")
]


def print_json(value: Any) -> None:
    """Print a JSON document for programs."""
    print(json.dumps(value, indent=1, ensure_ascii=False))
