"""Latency of a ``.tflite`` on this machine: LiteRT with XNNPACK, in a process of its own on pinned cores.

One process a file, so that peak memory and caches are the file's own. It loads the file, runs it `WARM_UP` times, and
then until both `RUNS` runs and some seconds have passed. The peak of a matrix product (numpy, float32) on the same
cores is measured in the same process before and after, and the rate that the network reached is set beside it.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mdrepro import paths
from mdrepro.errors import BadInput
from mdrepro.latency.records import Component, Device, Record, Times, today
from mdrepro.metrics.bootstrap import LEVEL

WARM_UP, RUNS, SECONDS = 2, 10, 5.0
RESAMPLES = 2000
SIDE = 1024
"""Rows and columns of the matrices whose product is the machine's peak."""


def measure(
    file: Path,
    threads: int = 1,
    *,
    model: str = "",
    component: Component = "other",
    precision: str = "",
    macs: int | None = None,
    runs: int = RUNS,
    seconds: float = SECONDS,
) -> tuple[Record, dict[str, float]]:
    """Latency of a file, and how the machine was.

    Args:
        file: the network.
        threads: and cores that the process is pinned to.
        model, component, precision: what the file is; its name where nothing is said.
        macs: multiply-accumulates of one run, where known.
        runs, seconds: both are at least reached.

    Returns:
        the record; and ``load_before``, ``load_after`` (the system's load average), ``peak_gmacs`` (10^9
        multiply-accumulates a second of a matrix product) and, where ``macs`` is known, the network's own ``gmacs`` and
        its ``share`` of the peak.

    Raises:
        BadInput: more threads than cores, or a file that LiteRT cannot run.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    if not 1 <= threads <= len(cores):
        raise BadInput(f"threads {threads}: allowed are 1 to {len(cores)}, the cores of this process")
    if not file.is_file():
        raise BadInput(f"{file}: no such file")
    told = _child(file, threads, cores[:threads], runs, seconds)
    times = np.array(told["seconds"]) * 1000
    state = {name: told[name] for name in ("load_before", "load_after", "peak_gmacs")}
    if macs:
        state["gmacs"] = macs / float(np.median(times)) / 1e6
        state["share"] = state["gmacs"] / state["peak_gmacs"]
    record = Record(
        origin="measured",
        model=model or file.stem,
        component=component,
        device=Device(name=told["cpu"], system=platform.platform(), chip=told["cpu"]),
        runtime=f"LiteRT {told['version']}",
        accelerator="CPU, XNNPACK",
        precision=precision,
        threads=threads,
        times=summary(times.tolist(), first_ms=told["first"] * 1000, load_ms=told["load"] * 1000),
        memory_mb=told["peak_bytes"] / 1e6,
        macs=macs,
        model_sha256=paths.sha256(file),
        source=f"mdrepro latency on this host, cores {', '.join(map(str, cores[:threads]))}",
        date=today(),
    )
    return record, state


def summary(times_ms: Sequence[float], *, first_ms: float | None = None, load_ms: float | None = None) -> Times:
    """What is told of some runs, with a percentile bootstrap of the median."""
    values = np.asarray(times_ms, np.float64)
    drawn = np.random.default_rng(0).choice(values, size=(RESAMPLES, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    p10, p50, p90 = np.percentile(values, [10, 50, 90]).tolist()
    return Times(
        runs=len(values),
        mean_ms=float(values.mean()),
        median_ms=p50,
        p10_ms=p10,
        p90_ms=p90,
        min_ms=float(values.min()),
        max_ms=float(values.max()),
        std_ms=float(values.std()),
        low_ms=low,
        high_ms=high,
        first_ms=first_ms,
        load_ms=load_ms,
    )


def _child(file: Path, threads: int, cores: Sequence[int], runs: int, seconds: float) -> dict[str, Any]:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    asked = json.dumps(
        {"file": str(file), "threads": threads, "cores": list(cores), "runs": runs, "seconds": seconds, "side": SIDE}
        | {"warm_up": WARM_UP}
    )
    done = subprocess.run(
        [sys.executable, "-m", "mdrepro.latency.host_child", asked],
        capture_output=True,
        text=True,
        errors="replace",
        env=os.environ | dict.fromkeys(names, str(threads)),
    )
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        why = f"killed by signal {-done.returncode}" if done.returncode < 0 else (said or ["it said nothing"])[-1]
        raise BadInput(f"LiteRT cannot run {file}: {why}")
    told: dict[str, Any] = json.loads(lines[-1])
    return told
