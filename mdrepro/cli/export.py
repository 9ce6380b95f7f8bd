"""``mdrepro export``: a thin call into `mdrepro.export`."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer


def export(
    model: Annotated[
        str, typer.Argument(help="mobilediffusion, mobilediffusion-lite, snapfusion, sd15, a recipe, or a folder.")
    ],
    out: Annotated[Path, typer.Option("--out", help="A folder for the files.")],
    component: Annotated[
        list[str] | None, typer.Option("--component", help="text-encoder, unet, decoder; repeatable; all by default.")
    ] = None,
    target: Annotated[str, typer.Option("--target", help="litert or coreml.")] = "litert",
    precision: Annotated[
        list[str] | None,
        typer.Option(
            "--precision",
            help="Of weights: fp32 (by default), fp16, int8, int8-dynamic (LiteRT), palette8 (Core ML); repeatable.",
        ),
    ] = None,
    resolution: Annotated[int | None, typer.Option(help="Image side in pixels; the model's own by default.")] = None,
    branches: Annotated[
        int | None, typer.Option(help="Batch of the UNet: 2 for guidance, 1 without; the model's own by default.")
    ] = None,
    decoder: Annotated[str | None, typer.Option(help="A recipe of another decoder for the same latents.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the exported network while it is compared.")] = None,
    plain: Annotated[
        bool,
        typer.Option("--plain", help="Leave LiteRT's layers to the converter, to see what writing them again saves."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Write networks as files for phones, each held to torch first."""
    from mdrepro.export import verbs
    from mdrepro.export.parity import GateMissed

    try:
        done = verbs.export(
            model,
            out,
            target=target,
            wanted=component or (),
            precisions=precision or ("fp32",),
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
        print(json.dumps(done, indent=1, ensure_ascii=False))
    else:
        print(words(done))


def words(done: dict[str, Any]) -> str:
    """What was written, for people."""
    from mdrepro.core.console import columns

    lines = [("file", "MB", "operations", "PSNR dB", "s", "GB of memory")]
    for entry in done["files"]:
        psnr = entry["parity"].get("psnr_db")
        lines.append(
            (
                entry["file"],
                f"{entry['bytes'] / 1e6:.1f}",
                str(sum(entry["operations"].values())),
                "–" if psnr is None else f"{psnr:.1f}",
                f"{sum(entry['seconds'].values()):.0f}",
                f"{entry['peak_memory_gb']:.1f}",
            )
        )
    said = [columns(lines, indent="")]
    for entry in done.get("bundles", []):
        said.append(
            f"{entry['file']}: the image of {entry['prompt']!r} is {entry['image']['psnr_db']:.1f} dB from torch's"
        )
    reasons = {entry["parity"]["reason"] for entry in done["files"] if "reason" in entry["parity"]}
    return "\n".join([*said, *sorted(reasons)])
