"""``mdrepro export``: a thin call into `mdrepro.export`."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mdrepro.cli import options
from mdrepro.cli.options import (
    Components,
    Json,
    Resolution,
    model_names,
    precision_names,
    print_json,
    target_names,
)
from mdrepro.core.errors import check


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            autocompletion=model_names,
            help="mobilediffusion, mobilediffusion-lite, snapfusion, sd15, a recipe, or a folder.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="A folder for the files.")],
    component: Components = None,
    target: Annotated[
        str,
        typer.Option(
            "--target",
            metavar=f"<{'|'.join(options.PRECISIONS)}>",
            autocompletion=target_names,
            help="The files' format.",
        ),
    ] = "litert",
    precision: Annotated[
        list[str] | None,
        typer.Option(
            "--precision",
            metavar=f"<{'|'.join(options.ALL_PRECISIONS)}>",
            autocompletion=precision_names,
            help="Of weights, fp32 by default; palette8 is of Core ML alone, int8-dynamic not of it; repeatable.",
        ),
    ] = None,
    resolution: Resolution = None,
    branches: Annotated[
        int | None, typer.Option(help="Batch of the UNet: 2 for guidance, 1 without; the model's own by default.")
    ] = None,
    decoder: Annotated[str | None, typer.Option(help="A recipe of another decoder for the same latents.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the exported network while it is compared.")] = None,
    plain: Annotated[
        bool,
        typer.Option("--plain", help="Leave LiteRT's layers to the converter, to see what writing them again saves."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Write networks as files for phones, each checked against PyTorch first."""
    kinds = precision or ["fp32"]
    check("target", target, options.PRECISIONS)
    for kind in kinds:
        check(f"precision of {target}", kind, options.PRECISIONS[target])
    check_model(model)
    from mdrepro.export import commands
    from mdrepro.export.parity import GateMissed

    try:
        report = commands.export(
            model,
            out,
            target=target,
            wanted=[each.value for each in component or ()],
            precisions=kinds,
            resolution=resolution,
            branches=branches,
            decoder=decoder,
            threads=threads,
            plain=plain,
        )
    except GateMissed as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    if as_json:
        print_json(report)
    else:
        _print(report)


def check_model(model: str) -> None:
    """Raises BadInput for what is no system, recipe or folder, before torch is imported to find out."""
    from mdrepro.models import systems
    from mdrepro.training.recipes import registry

    if not (model in systems.whole() or registry.find(model) or Path(model).is_dir()):
        raise registry.unknown_model(model)


def _print(report: dict[str, Any]) -> None:
    from mdrepro.core.console import columns

    lines = [("file", "MB", "operations", "PSNR dB", "s", "GB of memory")]
    lines += [
        (
            entry["file"],
            f"{entry['bytes'] / 1e6:.1f}",
            str(sum(entry["operations"].values())),
            f"{entry['parity']['psnr_db']:.1f}",
            f"{sum(entry['seconds'].values()):.0f}",
            f"{entry['peak_memory_gb']:.1f}",
        )
        for entry in report["files"]
    ]
    print(columns(lines, indent=""))
    for entry in report.get("bundles", []):
        psnr = entry["image"]["psnr_db"]
        print(f"{entry['file']}: the image of {entry['prompt']!r} is {psnr:.1f} dB from PyTorch's")
