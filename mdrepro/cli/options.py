"""Options and output that several commands share."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from mdrepro.core.errors import BadInput

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


def check_out(out: Path | None) -> None:
    """Before the work: whether a file can be written to ``--out``; its folders may be missing.

    Raises BadInput for a folder, or one that takes no files.
    """
    if out is None:
        return
    if out.is_dir():
        raise BadInput(f"--out {out}: expected a file, not a folder")
    there = next(folder for folder in out.absolute().parents if folder.exists() or folder.is_symlink())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = "takes no files" if there.is_dir() else "is no folder"
        raise BadInput(f"--out {out}: {there} {reason}")
