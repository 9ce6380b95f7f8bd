"""LiteRT's ``benchmark_model``: its command line, and what it prints.

Read are the edition of TensorFlow Lite (also inside LiteRT's Android builds) and newer ones that add percentiles. Times
are printed in microseconds, rounded to six digits at times (2.95034e+06).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mdrepro.core.errors import BadInput, check
from mdrepro.latency.records import Times

ACCELERATORS = {"cpu": "--use_xnnpack=true", "gpu": "--use_gpu=true"}  # what computes, and the option for it
RUNS, WARM_UP, LIMIT = 10, 3, 600
"""Lower bounds of runs and of warm-up runs, and seconds that either may take."""
NUMBER = r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)"
ITERATIONS = re.compile(r"count=(\d+)\b(?=.*\b(?:curr|avg)=)(.*)")
FIELD = re.compile(rf"\b(first|curr|min|max|avg|std|p5|p10|median|p50|p90|p95)={NUMBER}")
SUMMARY = re.compile(
    rf"Inference timings in us: Init: {NUMBER}, First inference: {NUMBER}, Warmup \(avg\): {NUMBER}, "
    rf"Inference \(avg\): {NUMBER}"
)
MEMORY = re.compile(rf"(?:[Mm]emory footprint)[^:\n]*:\s*(?:init={NUMBER}\s+overall={NUMBER}|{NUMBER}\s*$)", re.M)
DELEGATED = re.compile(r"Replacing (\d+) out of (\d+) node\(s\) with delegate")
FELL_BACK = re.compile("will not be executed by the delegate|falling back|Failed to apply|not supported on this device")
REFUSED = "the GPU delegate took no node: this is the CPU's time"


@dataclass(frozen=True)
class Report:
    """What one call printed.

    Args:
        memory_mb: overall footprint since the tool began.
        delegated: (nodes on the delegate, nodes); None where it says nothing.
        notes: lines that limit the number, such as a delegate that was refused.
    """

    times: Times
    memory_mb: float | None
    delegated: tuple[int, int] | None
    notes: tuple[str, ...]


def refused(accelerator: str, delegated: tuple[int, int] | None) -> bool:
    """Whether the GPU was asked for and took nothing (`REFUSED`), by `Report.delegated`."""
    return accelerator == "gpu" and (delegated is None or delegated[0] == 0)


def command(tool: str, model: str, accelerator: str, threads: int, runs: int = RUNS) -> list[str]:
    """The call of the tool for a model, paths on the machine that runs it. Raises BadInput for what is not allowed."""
    check("accelerator", accelerator, ACCELERATORS)
    return [tool, f"--graph={model}", *options(threads, runs), ACCELERATORS[accelerator]]


def options(threads: int, runs: int = RUNS) -> list[str]:
    """Those of any call: CPU threads and a lower bound of runs. Raises BadInput for numbers below 1."""
    if min(threads, runs) < 1:
        raise BadInput(f"threads {threads}, runs {runs}, warm-up {WARM_UP}: must be at least 1")
    numbers = {"num_threads": threads, "num_runs": runs, "warmup_runs": WARM_UP, "max_secs": LIMIT}
    return [*(f"--{name}={value}" for name, value in numbers.items()), "--report_peak_memory_footprint=true"]


def parse(printed: str) -> Report:
    """What a call printed, standard output and error together.

    Raises BadInput where it has no result, with the tool's own error where there is one.
    """
    summary = SUMMARY.search(printed)
    if summary is None:
        raise BadInput(f"benchmark_model gave no timings: {_complaint(printed)}")
    init, first, _, mean = (float(value) / 1000 for value in summary.groups())
    counted = ITERATIONS.findall(printed)
    if len(counted) < 2:
        raise BadInput("benchmark_model gave no line of its runs (count=...): the output was cut")
    runs, numbers = counted[-1]
    fields = {name: float(value) / 1000 for name, value in FIELD.findall(numbers)}
    times = Times(
        runs=int(runs),
        mean_ms=mean,
        median_ms=fields.get("median", fields.get("p50")),
        **{f"{name}_ms": fields.get(name) for name in ("p10", "p90", "min", "max", "std")},
        first_ms=first,
        load_ms=init,
    )
    memory = MEMORY.findall(printed)
    overall = next((float(both or alone) for _, both, alone in reversed(memory) if both or alone), None)
    placed = [(int(part), int(whole)) for part, whole in DELEGATED.findall(printed)]
    notes = tuple(dict.fromkeys(line.strip() for line in printed.splitlines() if FELL_BACK.search(line)))
    return Report(times, overall or None, placed[-1] if placed else None, notes)


def _complaint(printed: str) -> str:
    """The line that says why, or else the last one."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    blamed: Sequence[str] = [line for line in lines if re.search(r"error|fail|cannot|not found|denied", line, re.I)]
    return (blamed or lines or ["no output"])[-1]
