"""``mdrepro latency``: how long networks take, here or on a phone. Thin calls into `mdrepro.latency`."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from mdrepro.cli.options import Accelerator, Host, Json, Part, ReportKind, check_out, print_json
from mdrepro.core.errors import BadInput

if TYPE_CHECKING:
    from mdrepro.latency.records import Record

Result = TypeVar("Result")


def latency(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="Networks (.tflite), or a report with --import.")
    ] = None,
    where: Annotated[Host, typer.Option("--on", help="Where the networks run.")] = "host",
    accelerator: Annotated[
        Accelerator | None, typer.Option("--accelerator", help="On Android: cpu, gpu; on Apple: all, cpu, gpu, ane.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; 1 here, 4 on a phone.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="Lower bound of runs, after the warm-up.")] = 10,
    tool: Annotated[Path | None, typer.Option(help="On Android: benchmark_model for the phone.")] = None,
    serial: Annotated[str | None, typer.Option(help="The phone, where several are attached.")] = None,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", metavar="DIR", help="Pack the networks for a machine with a phone.")
    ] = None,
    collect: Annotated[
        Path | None, typer.Option("--collect", metavar="DIR", help="Read what a bundle brought back.")
    ] = None,
    kind: Annotated[ReportKind | None, typer.Option("--import", help="Read reports of others, of this kind.")] = None,
    model: Annotated[
        str | None, typer.Option(help="The network, if file or report does not say; those of `mdrepro export` do.")
    ] = None,
    component: Annotated[Part | None, typer.Option(help="Which network it is; likewise.")] = None,
    device: Annotated[str | None, typer.Option(help="With --import: the device, if the report does not say.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the records there, as JSON.")] = None,
    as_json: Json = False,
) -> None:
    """Latency of networks on this host or an Android phone; a bundle for a phone elsewhere; others' reports."""
    from mdrepro.latency import file_metadata, records

    named = list(files or [])
    if sum(value is not None for value in (bundle, collect, kind)) > 1:
        raise BadInput("--bundle, --collect and --import exclude each other: give one")
    check_out(out)
    metadata = partial(file_metadata.read, model=model, component=component)
    if bundle is not None:
        from mdrepro.latency import bundle as packing

        print(f"{packing.write(named, bundle, metadata)}: on a machine with a phone: sh run.sh BENCHMARK_MODEL")
        return
    states: list[dict[str, float]] = []
    failed: dict[str, str] = {}
    if collect is not None:
        if model or component:
            raise BadInput("--model and --component are given when a bundle is packed: leave them out with --collect")
        from mdrepro.latency import bundle as packing

        measured, failed = packing.collect(collect)
    elif not named:
        raise BadInput("name a network (.tflite), or give --collect DIR")
    elif kind is not None:
        from mdrepro.latency import imports

        known = {"model": model, "component": component, "device": {"name": device} if device else None}
        read, failed = _each(named, lambda file: imports.read(kind, file, known))
        measured = [one for of_a_file in read for one in of_a_file]
    elif where == "android":
        from mdrepro.latency import adb, android

        phone = adb.phone(serial)
        if tool is None:
            raise BadInput("--tool is needed: benchmark_model for the phone")
        measure = partial(
            android.measure, tool=tool, phone=phone, accelerator=accelerator or "cpu", threads=threads or 4
        )
        measured, failed = _each(named, lambda file: measure(file, metadata=metadata(file), runs=runs))
    elif where == "apple":
        from mdrepro.latency import apple

        units = accelerator or "all"
        measured, failed = _each(named, lambda file: apple.measure(file, units, metadata=metadata(file), runs=runs))
    else:
        from mdrepro.latency import host

        host.cores(threads or 1)
        pairs, failed = _each(named, lambda file: host.measure(file, threads or 1, metadata=metadata(file), runs=runs))
        measured, states = [record for record, _ in pairs], [state for _, state in pairs]
    if out is not None:
        records.save(out, measured)
    if as_json:
        rows = [one.model_dump(mode="json", exclude_defaults=True) for one in measured]
        print_json({"records": rows, "host": states, "failed": failed})
    else:
        _print(measured, states)
        for name, why in failed.items():
            print(f"no result: {name}: {why}")
    if failed:
        raise typer.Exit(1)


def _each(files: Sequence[Path], work: Callable[[Path], Result]) -> tuple[list[Result], dict[str, str]]:
    """``work`` of each file, and why those that could not be taken failed.

    Raises BadInput where none could: what the first said.
    """
    results: list[Result] = []
    failed: dict[str, str] = {}
    for file in files:
        try:
            results.append(work(file))
        except BadInput as error:
            failed[str(file)] = str(error)
    if failed and not results:
        raise BadInput(next(iter(failed.values())))
    return results, failed


def _print(measured: "list[Record]", states: list[dict[str, float]]) -> None:
    """Measured and imported ones in tables of their own."""
    from mdrepro.core.console import columns
    from mdrepro.latency import records

    for origin, rows in records.split(measured).items():
        if not rows:
            continue
        lines = [("model", "component", "ms", "90 %", "runs", "memory (MB)", "computed by", "device")]
        for one in rows:
            high, memory = one.times.p90_ms, one.memory_mb
            times = (f"{one.times.ms:.4g}", f"{high:.4g}" if high else "", str(one.times.runs))
            computed = f"{one.accelerator} ({one.residency})" if one.residency else one.accelerator
            last = (f"{memory:.4g}" if memory else "", computed, one.device.name)
            lines.append((one.model, one.component, *times, *last))
        print(f"{origin}:\n{columns(lines, indent='  ')}")
        for one in rows:
            for note in one.notes:
                print(f"  note: {one.model}: {note}")
            if one.check:
                outcome = one.fault or f"its outputs are at {one.check.psnr_db:.1f} dB from PyTorch's"
                print(f"  check: {one.model} {one.component}, {one.accelerator}: {outcome}")
    for host in states:
        busy = f"load {host['load_before']:.2f} before, {host['load_after']:.2f} after"
        print(f"host: {busy}; a matrix product reaches {host['peak_gmacs']:.1f} GMAC/s")
