"""Latency of a ``.tflite`` on this machine: LiteRT with XNNPACK, in a process of its own on pinned cores.

One process per file, so that peak memory and caches are its own. It loads the file, runs it `WARM_UP` times, then until
both `RUNS` runs and some seconds have passed, or `host_child.ENOUGH` runs of a very small network. The rate of a matrix
product (numpy, float32) on the same cores is taken in the same process before and after, and stands beside the rate
that the network reached.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from mdrepro.core import machine
from mdrepro.core.errors import BadInput
from mdrepro.core.files import sha256
from mdrepro.latency import file_metadata, host_child
from mdrepro.latency.file_metadata import FileMetadata
from mdrepro.latency.records import Device, Record, Times, today
from mdrepro.metrics.jackknife import LEVEL

WARM_UP, RUNS, SECONDS = 2, 10, 5.0
RESAMPLES = 2000
SIDE = 1024  # rows and columns of the matrices whose product is the machine's peak
CPU = "CPU, XNNPACK"


class ProcessReport(TypedDict):
    """A process's report of its runs: times in seconds, memory in bytes, 10^9 multiply-accumulates a second."""

    load: float
    first: float
    seconds: list[float]
    load_before: float
    load_after: float
    peak_bytes: int
    loading_bytes: int
    peak_gmacs: float
    runtime: str
    cpu: str


def measure(
    file: Path,
    threads: int = 1,
    *,
    metadata: FileMetadata | None = None,
    macs: int | None = None,
    runs: int = RUNS,
    seconds: float = SECONDS,
) -> tuple[Record, dict[str, float]]:
    """Latency of a file and the state of the machine, as `record` returns them.

    Args:
        threads: and cores that the process is pinned to.
        metadata: of the file; None for what it says of itself.
        macs: multiply-accumulates of one run, where known.
        runs, seconds: lower bounds, both reached; seconds only up to `host_child.ENOUGH` runs.

    Raises BadInput for more threads than cores, or a file that LiteRT cannot run.
    """
    report = run(file, threads, runs=runs, seconds=seconds)
    return record([report], threads, metadata or file_metadata.read(file), file=file, macs=macs)


def run(
    file: Path, threads: int = 1, *, runs: int = RUNS, seconds: float = SECONDS, most: float | None = None
) -> ProcessReport:
    """Runs of a file in a process of its own, until `host_child.enough`; otherwise as `measure`."""
    request = shared(threads) | {"file": str(file), "runs": runs, "seconds": seconds, "most": most}
    if not file.is_file():
        raise BadInput(f"{file}: no such file")
    command, env = process(host_child.__name__, request)
    ended = subprocess.run(command, capture_output=True, text=True, errors="replace", env=env)
    return answer(f"LiteRT cannot run {file}", ended.returncode, ended.stdout, ended.stderr)


def record(
    reports: Sequence[ProcessReport],
    threads: int,
    metadata: FileMetadata,
    *,
    file: Path | None = None,
    accelerator: str = CPU,
    macs: int | None = None,
) -> tuple[Record, dict[str, float]]:
    """One record of the runs of one network, in one process or in several one after the other.

    The arguments are as for `measure`, with no file where torch ran.

    Returns:
        the record; and ``load_before``, ``load_after`` (the system's load average), ``peak_gmacs`` (10^9
        multiply-accumulates a second of a matrix product, the most that any process saw), ``loading_mb`` (memory at
        most until the runs began) and, where ``macs`` is known, the network's own ``gmacs`` and its ``share`` of the
        peak.
    """
    times = [1000 * each for one in reports for each in one["seconds"]]
    state = {
        "load_before": reports[0]["load_before"],
        "load_after": reports[-1]["load_after"],
        "peak_gmacs": max(one["peak_gmacs"] for one in reports),
        "loading_mb": max(one["loading_bytes"] for one in reports) / 1e6,
    }
    if macs:
        state["gmacs"] = macs / float(np.median(times)) / 1e6
        state["share"] = state["gmacs"] / state["peak_gmacs"]
    first, cpu = reports[0], reports[0]["cpu"]
    measured = Record(
        origin="measured",
        device=Device(name=cpu, system=platform.platform(), chip=cpu),
        runtime=first["runtime"],
        accelerator=accelerator,
        threads=threads,
        times=summary(times, first_ms=first["first"] * 1000, load_ms=first["load"] * 1000),
        memory_mb=max(one["peak_bytes"] for one in reports) / 1e6,
        macs=macs,
        model_sha256=sha256(file) if file else "",
        source=f"mdrepro latency on this host, cores {', '.join(map(str, cores(threads)))}",
        date=today(),
        **metadata.fields(),
    )
    return measured, state


def medians(times_ms: Sequence[float], seed: int = 0) -> NDArray[np.float64]:
    """Medians of `RESAMPLES` resamples of some runs."""
    drawn = np.random.default_rng(seed).choice(np.asarray(times_ms, np.float64), size=(RESAMPLES, len(times_ms)))
    return np.asarray(np.median(drawn, axis=1))


def interval(drawn: NDArray[np.float64]) -> tuple[float, float]:
    """The two ends of what was drawn, by percentiles."""
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return low, high


def summary(times_ms: Sequence[float], *, first_ms: float | None = None, load_ms: float | None = None) -> Times:
    """Statistics of runs, with a percentile bootstrap of the median."""
    values = np.asarray(times_ms, np.float64)
    low, high = interval(medians(times_ms))
    p10, p50, p90 = np.percentile(values, [10, 50, 90]).tolist()
    ms = {f"{name}_ms": float(getattr(values, name)()) for name in ("mean", "min", "max", "std")}
    ms |= {"p10_ms": p10, "median_ms": p50, "p90_ms": p90, "low_ms": low, "high_ms": high}
    return Times(runs=len(values), first_ms=first_ms, load_ms=load_ms, **ms)


def cores(threads: int) -> list[int]:
    """The first cores of this process, as many as threads. Raises BadInput for more than there are, or none."""
    there = machine.core_numbers()
    if not 1 <= threads <= len(there):
        raise BadInput(f"threads {threads}: must be 1 to {len(there)}, the cores of this process")
    return there[:threads]


def shared(threads: int) -> dict[str, Any]:
    """The part of a request that all processes share. Raises BadInput as `cores`."""
    return {"threads": threads, "cores": cores(threads), "side": SIDE, "warm_up": WARM_UP}


def process(module: str, request: dict[str, Any]) -> tuple[list[str], dict[str, str]]:
    """The command line of a process, and its environment: the threads of the request in every library."""
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = os.environ | dict.fromkeys(variables, str(request["threads"]))
    return [sys.executable, "-m", module, json.dumps(request)], environment


def answer(failure: str, code: int, output: str, errors: str) -> ProcessReport:
    """The report in a process's last line. Raises BadInput that begins with ``failure`` where it ended badly."""
    lines = output.splitlines()
    if code or not lines:
        printed = [line for line in (errors + output).splitlines() if line.strip()]
        why = f"killed by signal {-code}" if code < 0 else (printed or ["no output"])[-1]
        raise BadInput(f"{failure}: {why}")
    report: ProcessReport = json.loads(lines[-1])
    return report
