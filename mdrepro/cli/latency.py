"""``mdrepro latency``: how long networks take, here or on a phone. Thin calls into `mdrepro.latency`."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdrepro.core.errors import BadInput, unknown

if TYPE_CHECKING:
    from mdrepro.latency.about import About
    from mdrepro.latency.records import Record

PLACES = ("host", "android", "apple")


def latency(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="Networks (.tflite), or a report with --import.")
    ] = None,
    where: Annotated[str, typer.Option("--on", help="host, android or apple.")] = "host",
    accelerator: Annotated[
        str | None, typer.Option("--accelerator", help="On Android: cpu, gpu; on Apple: all, cpu, gpu, ane.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; 1 here, 4 on a phone.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="At least so many runs, after the warm-up.")] = 10,
    tool: Annotated[Path | None, typer.Option(help="On Android: benchmark_model for the phone.")] = None,
    serial: Annotated[str | None, typer.Option(help="The phone, where several are attached.")] = None,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", metavar="DIR", help="Pack the networks for a machine with a phone.")
    ] = None,
    collect: Annotated[
        Path | None, typer.Option("--collect", metavar="DIR", help="Read what a bundle brought back.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--import", help="benchmark-model, ai-hub, mlperf-mobile or xcode: the report's kind.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The network, if file or report does not say; those of `mdrepro export` do.")
    ] = None,
    component: Annotated[str | None, typer.Option(help="text-encoder, unet, decoder, image, other; likewise.")] = None,
    device: Annotated[str | None, typer.Option(help="With --import: the device, if the report does not say.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the records there, as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Latency of networks on this host or an Android phone; a bundle for a phone elsewhere; others' reports."""
    from mdrepro.latency import about, records

    named = list(files or [])
    if sum(value is not None for value in (bundle, collect, kind)) > 1:
        raise BadInput("--bundle, --collect and --import are three things: give one")
    said = partial(about.of, model=model, component=component)
    if bundle is not None:
        from mdrepro.latency import bundle as packing

        print(f"{packing.make(named, bundle, said)}: on a machine with a phone: sh run.sh BENCHMARK_MODEL")
        return
    state: list[dict[str, float]] = []
    failed: dict[str, str] = {}
    if collect is not None:
        if model or component:
            raise BadInput("--model and --component are said when a bundle is packed: leave them out with --collect")
        from mdrepro.latency import bundle as packing

        found, failed = packing.collect(collect)
    elif not named:
        raise BadInput("name a network (.tflite), or give --collect DIR")
    elif kind is not None:
        from mdrepro.latency import imports

        known: dict[str, Any] = {"model": model, "component": component}
        known["device"] = {"name": device} if device else None
        found = [one for file in named for one in imports.read(kind, file, known)]
    elif where == "android":
        found = _on_android(named, said, accelerator or "cpu", threads, runs, tool, serial)
    elif where == "apple":
        from mdrepro.latency import apple

        found = [apple.measure(file, accelerator or "all", said=said(file), runs=runs) for file in named]
    elif where == "host":
        found, state = _on_host(named, said, threads or 1, runs)
    else:
        raise unknown("place", where, PLACES)
    if out is not None:
        records.save(out, found)
    if as_json:
        told = [one.model_dump(mode="json", exclude_defaults=True) for one in found]
        print(json.dumps({"records": told, "host": state, "failed": failed}, indent=1, ensure_ascii=False))
    else:
        _print(found, state)
        for name, why in failed.items():
            print(f"no result: {name}: {why}")
    if failed:
        raise typer.Exit(1)


def _on_android(
    files: list[Path],
    said: "Callable[[Path], About]",
    accelerator: str,
    threads: int | None,
    runs: int,
    tool: Path | None,
    serial: str | None,
) -> "list[Record]":
    from mdrepro.latency import adb, android

    attached = adb.phone(serial)
    if tool is None:
        raise BadInput("--tool is needed: benchmark_model for the phone")
    return [
        android.measure(file, tool, attached, accelerator, threads or 4, said=said(file), runs=runs) for file in files
    ]


def _on_host(
    files: list[Path], said: "Callable[[Path], About]", threads: int, runs: int
) -> "tuple[list[Record], list[dict[str, float]]]":
    from mdrepro.latency import host

    pairs = [host.measure(file, threads, said=said(file), runs=runs) for file in files]
    return [record for record, _ in pairs], [state for _, state in pairs]


def _print(found: "list[Record]", state: list[dict[str, float]]) -> None:
    """Measured and imported ones in tables of their own."""
    from mdrepro.core.console import columns
    from mdrepro.latency import records

    for origin, rows in records.split(found).items():
        if not rows:
            continue
        lines = [("model", "component", "ms", "90 %", "runs", "memory (MB)", "computed by", "device")]
        for one in rows:
            high, memory = one.times.p90_ms, one.memory_mb
            times = (f"{one.times.ms:.4g}", f"{high:.4g}" if high else "", str(one.times.runs))
            last = (f"{memory:.4g}" if memory else "", one.accelerator, one.device.name)
            lines.append((one.model, one.component, *times, *last))
        print(f"{origin}:\n{columns(lines, indent='  ')}")
        for one in rows:
            for note in one.notes:
                print(f"  note: {one.model}: {note}")
    for told in state:
        busy = f"load {told['load_before']:.2f} before, {told['load_after']:.2f} after"
        print(f"host: {busy}; a matrix product reaches {told['peak_gmacs']:.1f} GMAC/s")
