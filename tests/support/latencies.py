"""Latencies by arithmetic in place of measured ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdrepro.evaluation.rows import Row
from mdrepro.latency import host
from mdrepro.latency.file_metadata import FileMetadata
from mdrepro.latency.records import Device, Record, Times
from mdrepro.metrics.cost.measure import calculate
from mdrepro.papers import ledger
from mdrepro.reproduce.tables.device_latency import TABLE
from mdrepro.reproduce.tables.host_latency import Measured
from mdrepro.reproduce.workflow.exported import Kept, Piece
from mdrepro.reproduce.workflow.record import complete

PEAK = 60.0
"""GMAC/s of the matrix product."""


def told(times_ms: Sequence[float], memory_mb: float = 100.0) -> host.ProcessReport:
    """What a process says of such runs."""
    return {
        "load": 0.5,
        "first": times_ms[0] / 1000,
        "seconds": [ms / 1000 for ms in times_ms],
        "load_before": 0.1,
        "load_after": 1.9,
        "peak_bytes": int(memory_mb * 1e6),
        "loading_bytes": int(3 * memory_mb * 1e6),
        "peak_gmacs": PEAK,
        "runtime": "LiteRT 0",
        "cpu": "a processor",
    }


def measured(
    network: str, times_ms: Sequence[float], branches: int = 1, memory_mb: float = 100.0, resolution: int = 512
) -> dict[Piece, Measured]:
    """A network with these runs."""
    piece: Any = Piece(network, branches)
    cost = calculate(network, resolution)
    about = FileMetadata(piece.model, piece.component, "fp16", branches, resolution)
    record, state = host.record([told(times_ms, memory_mb)], 1, about, macs=branches * cost.macs)
    kept = Kept(Path("x.tflite"), {"bytes": 10**6, "parity": {"psnr_db": 75.0}, "sha256": "0" * 64})
    return {piece: Measured(piece, cost, record, tuple(times_ms), state, kept, 1)}


def by_work(pieces: Sequence[Piece], speed: float = 40.0, resolution: int = 512) -> dict[Piece, Measured]:
    """All at so many GMAC/s, with runs that differ by a hundredth; memory of the weights and what they work on."""
    found: dict[Piece, Measured] = {}
    for piece in pieces:
        cost = calculate(piece.network, resolution)
        ms = piece.branches * cost.macs / speed / 1e6
        held = cost.params * 4 / 1e6 + 10 * piece.branches * cost.macs / 1e9
        found |= measured(piece.network, [ms * (1 + k / 1000) for k in range(-5, 6)], piece.branches, held, resolution)
    return found


def constant(**ms: float) -> dict[Piece, Measured]:
    """Networks whose runs all take the same; in names, ``_`` stands for ``-``."""
    found: dict[Piece, Measured] = {}
    for name, value in ms.items():
        found |= measured(name.replace("_", "-"), [value] * 5)
    return found


def stubbed(wanted: Sequence[Piece], **named: Any) -> dict[Piece, Measured]:
    """In place of `host_latency.measure`."""
    assert {"precision", "resolution", "threads", "runs", "seconds", "most", "rounds"} == set(named)
    return by_work(wanted, resolution=named["resolution"])


def values(rows: Sequence[Row]) -> dict[tuple[str, str], float | None]:
    """By row and column."""
    return {(row.row, row.column): row.value for row in rows}


def claims(rows: Sequence[Row], table: str = TABLE) -> dict[str, str]:
    """The verdict on each claim, as if all had been read in the paper."""
    spec = ledger.find(table)
    numbers = [vars(row) for row in complete(spec, rows)]
    read = [claim.model_copy(update={"confidence": "read-P"}) for claim in spec.claims]
    return {claim.id: ledger.judge_claim(claim, numbers)[0].value for claim in read}


def of_a_phone(component: str, ms: float, **fields: Any) -> Record:
    """Measured on a phone, 20 runs; ``fields`` of the record, and the device's name."""
    values: dict[str, Any] = {"origin": "measured", "model": "mobilediffusion", "component": component} | fields
    device = Device(name=values.pop("device", "iPhone 15 Pro"))
    times = Times(runs=20, median_ms=ms)
    return Record(**values, device=device, runtime="Core ML", accelerator="Neural Engine", times=times, source="a test")
