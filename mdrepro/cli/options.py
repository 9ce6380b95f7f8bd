"""Options and output that several commands share."""

import json
import os
from collections.abc import Callable, Iterable
from enum import StrEnum
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mdrepro.core.errors import BadInput

Tier = Literal["quick", "proxy", "paper"]
Device = Literal["auto", "cpu", "cuda"]
Sampler = Literal["ddim", "dpm++", "dpm", "euler", "renoise"]
Encoder = Literal[
    "tf-exact",
    "clean",
    "legacy-pytorch",
    "torchmetrics",
    "torchvision",
    "dinov2",
    "clip",
    "clip-clean",
    "clip-torch-fidelity",
    "open-clip",
    "hps",
    "shapes",
]
Clip = Literal["clip", "open-clip"]
Protocol = Literal["bk-sdm", "dmd2", "text2image-benchmark", "snapfusion", "gigagan"]
ClipScale = Literal["cosine", "hessel", "torchmetrics"]
FidPackage = Literal["clean-fid", "torch-fidelity", "torchmetrics"]
PairsPackage = Literal["scikit-image", "torchmetrics", "lpips"]
Host = Literal["host", "android", "apple"]
Accelerator = Literal["cpu", "gpu", "all", "ane"]
ReportKind = Literal["benchmark-model", "ai-hub", "mlperf-mobile", "xcode"]
Part = Literal["text-encoder", "unet", "decoder", "image", "other"]
TextFormat = Literal["latex", "markdown", "csv"]
PRECISIONS = {
    "litert": ("fp32", "fp16", "int8", "int8-dynamic"),
    "coreml": ("fp32", "fp16", "int8", "palette8"),
    "executorch": ("fp32", "int8-dynamic"),
}
"""By target. Choices are repeated here to refuse a wrong one before torch is imported; a test compares them."""
ALL_PRECISIONS = tuple(dict.fromkeys(chain(*PRECISIONS.values())))
IMAGE_METRICS = ["fid", "kid", "fd-infinity", "precision", "recall", "clip-score", "hps"]
PAIR_METRICS = ["psnr", "ssim", "ms-ssim", "lpips-alex", "lpips-vgg"]


class Component(StrEnum):
    """Networks that are exported; an enum, as typer takes no list of literals."""

    TEXT_ENCODER = "text-encoder"
    UNET = "unet"
    DECODER = "decoder"


Components = Annotated[list[Component] | None, typer.Option("--component", help="Repeatable; all by default.")]
Resolution = Annotated[int | None, typer.Option(help="Image side in pixels; the model's own by default.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
TierOption = Annotated[Tier, typer.Option("--tier", help="The size of the runs.")]
FromScratch = Annotated[
    bool, typer.Option("--from-scratch", help="Ignore published checkpoints: train what this machine has not trained.")
]
Executor = Annotated[str | None, typer.Option("--executor", help="Snakemake executor, for example slurm.")]
Profile = Annotated[str | None, typer.Option("--profile", help="Snakemake profile.")]
Snakemake = Annotated[str, typer.Option("--snakemake", help="Any other options for Snakemake, quoted.")]


def completion(*sources: str | Iterable[str]) -> Callable[[str], list[str]]:
    """Completion by names, or by the ``module:function`` of the package that gives them, imported when it is asked."""

    def names(source: str | Iterable[str]) -> Iterable[str]:
        if not isinstance(source, str):
            return source
        module, _, function = source.partition(":")
        found: Iterable[str] = getattr(import_module(f"mdrepro.{module}"), function)()
        return found

    def complete(incomplete: str) -> list[str]:
        return [name for name in chain(*map(names, sources)) if name.startswith(incomplete)]

    return complete


table_names = completion("papers.ledger:tables")
recipe_names = completion("training.recipes.registry:names")
network_names = completion("models.presets:names")
system_names = completion("models.systems:whole")
model_names = completion("models.systems:whole", "training.recipes.registry:names")
target_names = completion(PRECISIONS)
precision_names = completion(ALL_PRECISIONS)

Table = Annotated[str, typer.Argument(metavar="TABLE", autocompletion=table_names, help="A row of `mdrepro list`.")]


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
