"""LiteRT's ``benchmark_model``: its command line, and what it prints.

Read are the edition of TensorFlow Lite (also inside LiteRT's Android builds) and newer ones that add percentiles. Times
are printed in microseconds, rounded to six digits at times (2.95034e+06).
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mdrepro.core.errors import BadInput, check
from mdrepro.core.reading import checked
from mdrepro.latency.records import Times

ACCELERATORS = {"cpu": "--use_xnnpack=true", "gpu": "--use_gpu=true"}  # what computes, and the option for it
RUNS, WARM_UP, LIMIT = 10, 3, 600
"""Lower bounds of runs and of warm-up runs, and seconds that either may take."""
NUMBER = r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)"
ITERATIONS = re.compile(r"^(?!.*(?:Timings|Memory) \().*\bcount=(\d+)\b(?=.*\b(?:curr|avg)=)(.*)", re.M)
"""A line of the runs themselves, not one of the profiler's ("Timings (microseconds): count=...")."""
FIELD = re.compile(rf"\b(first|curr|min|max|avg|std|p5|p10|median|p50|p90|p95)={NUMBER}")
SUMMARY = re.compile(
    rf"Inference timings in us: Init: {NUMBER}, First inference: {NUMBER}, Warmup \(avg\): {NUMBER}, "
    rf"Inference \(avg\): {NUMBER}"
)
MEMORY = re.compile(rf"(?:[Mm]emory footprint)[^:\n]*:\s*(?:init={NUMBER}\s+overall={NUMBER}|{NUMBER}\s*$)", re.M)
REPLACING = re.compile(r"Replacing (\d+) out of (\d+) node\(s\) with delegate \(([^)]*)\)(?:.* subgraph (\d+))?")
EXECUTED = re.compile(
    r"Explicitly applied (\S+) delegate, and the model graph will be (?:completely|partially) executed"
)
IGNORED = re.compile("graph will not be executed by the delegate")
THOUGH = re.compile(r"Though (\S+)(?: delegate)? is explicitly applied")
FELL_BACK = re.compile("will not be executed by the delegate|falling back|Failed to apply|not supported on this device")
BEGINS = re.compile("STARTING!")
NEXT = re.compile(r"BENCHMARK RESULTS|benchmark_litert_model|litert/tools/benchmark")
"""What LiteRT 2's tool prints."""
HEADER = re.compile(
    r"Log parameter values|Min num runs: \[|Num threads: \[|Graph: \[|Use \w+: \[|Loaded model "
    r"|Created TensorFlow Lite |Explicitly applied |Replacing \d+ out of |Inference timings in us"
)
"""What only the next call can have printed, once a call has printed its timings."""
GRAPH = re.compile(r"(?:Loaded model |Graph: \[)([^\]\n]*)")
CPU, ON_CPU = "CPU", ("xnnpack",)
"""What computes where no accelerator does; delegates that compute on the CPU, in lower case."""
REFUSED = "the GPU delegate took no node: this is the CPU's time"


@dataclass(frozen=True)
class Report:
    """What one call printed.

    Args:
        graph: file name of the network; "" where it says nothing.
        memory_mb: overall footprint since the tool began.
        accelerator: `CPU`, which XNNPACK is too, or the delegate that took nodes, such as "GPU delegate".
        delegated: (nodes on that delegate, nodes); None on the CPU, and where it gives no numbers.
        notes: lines that limit the number, such as a delegate that was refused.
    """

    graph: str
    times: Times
    memory_mb: float | None
    accelerator: str
    delegated: tuple[int, int] | None
    notes: tuple[str, ...]


def refused(asked: str, accelerator: str) -> bool:
    """Whether the GPU was asked for and took nothing (`REFUSED`), by `Report.accelerator`."""
    return asked == "gpu" and accelerator == CPU


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


def inputs(shapes: Iterable[Sequence[int]], folder: str) -> list[str]:
    """Options that give a network its inputs, in the interpreter's order, from ``input-0.bin`` on in ``folder``."""
    sizes = [",".join(map(str, shape)) for shape in shapes]
    names = [f"i{number}" for number in range(len(sizes))]
    files = ",".join(f"{name}:{folder}/input-{number}.bin" for number, name in enumerate(names))
    return [
        f"--input_layer={','.join(names)}",
        f"--input_layer_shape={':'.join(sizes)}",
        f"--input_layer_value_files={files}",
    ]


def parse(printed: str) -> Report:
    """What one call printed, standard output and error together.

    Raises BadInput where it has no result, with the tool's own error where there is one, or where several calls did.
    """
    found = reports(printed)
    if len(found) > 1:
        raise BadInput(f"holds {len(found)} runs of benchmark_model: expected one")
    return found[0]


def reports(printed: str) -> list[Report]:
    """What each of one or several calls printed, in their order; errors as for `parse`, naming the call."""
    calls = _calls(printed)
    found = []
    for number, call in enumerate(calls, 1):
        try:
            found.append(_report(call))
        except ValueError as error:  # numbers of more digits than Python reads are among them
            raise BadInput(f"run {number} of {len(calls)}: {error}" if len(calls) > 1 else str(error)) from error
    return found


def _calls(printed: str) -> list[str]:
    """The text of each call. One begins with STARTING!, or with what can follow the timings of another only."""
    calls: list[list[str]] = [[]]
    begun = timed = False
    for line in printed.splitlines():
        loaded = "Loaded model " in line
        if (begun and BEGINS.search(line)) or (timed and (HEADER.search(line) or ITERATIONS.match(line))):
            calls.append([])
            begun = timed = False
        calls[-1].append(line)
        begun, timed = begun or loaded or bool(BEGINS.search(line)), timed or bool(SUMMARY.search(line))
    return ["\n".join(lines) for lines in calls]


def _report(printed: str) -> Report:
    summary = SUMMARY.search(printed)
    if summary is None and NEXT.search(printed):
        raise BadInput(
            "this is the log of LiteRT 2's benchmark_model, which is not read: expected that of TensorFlow Lite's "
            "edition, with a line of inference timings in us"
        )
    if summary is None:
        raise BadInput(f"benchmark_model gave no timings: {_complaint(printed)}")
    init, first, _, mean = (float(value) / 1000 for value in summary.groups())
    counted = ITERATIONS.findall(printed, 0, summary.start())
    if len(counted) < 2:
        raise BadInput("benchmark_model gave no line of its runs (count=...): the output was cut")
    runs, numbers = counted[-1]
    fields = {name: float(value) / 1000 for name, value in FIELD.findall(numbers)}
    times = {"runs": int(runs), "mean_ms": mean, "median_ms": fields.get("median", fields.get("p50"))}
    times |= {f"{name}_ms": fields.get(name) for name in ("p10", "p90", "min", "max", "std")}
    times |= {"first_ms": first, "load_ms": init}
    memory = MEMORY.findall(printed)
    overall = next((float(both or alone) for _, both, alone in reversed(memory) if both or alone), None)
    if overall is not None and not math.isfinite(overall):
        raise BadInput("benchmark_model's memory is not finite")
    notes = tuple(dict.fromkeys(line.strip() for line in printed.splitlines() if FELL_BACK.search(line)))
    graph = GRAPH.search(printed)
    name = graph[1].strip().rsplit("/", 1)[-1] if graph else ""
    checked_times = checked(times, Times, "benchmark_model's times", strict=None)
    return Report(name, checked_times, overall or None, *_delegate(printed), notes)


def _delegate(printed: str) -> tuple[str, tuple[int, int] | None]:
    """`Report.accelerator` and `Report.delegated`, by the lines that name a delegate, the last word on each."""
    taken: dict[str, dict[str, tuple[int, int]]] = {}  # by label: nodes by subgraph
    for line in printed.splitlines():
        if match := REPLACING.search(line):
            taken.setdefault(_label(match[3]), {})[match[4] or "0"] = int(match[1]), int(match[2])
        elif match := EXECUTED.search(line):
            taken.setdefault(_label(match[1]), {})
        elif IGNORED.search(line):
            named = THOUGH.search(line)
            for label in [_label(named[1])] if named else list(taken):
                taken.pop(label, None)
    taken.pop(CPU, None)
    sums = {label: [sum(both) for both in zip(*nodes.values(), strict=True)] for label, nodes in taken.items()}
    ran = {label: both for label, both in sums.items() if not both or both[0]}
    if not ran:
        return CPU, None
    label, nodes = max(ran.items(), key=lambda one: one[1])
    return label, (nodes[0], nodes[1]) if nodes else None


def _label(delegate: str) -> str:
    """What computes by a delegate's own name, such as TfLiteGpuDelegateV2 or GPU: "GPU delegate"."""
    name = re.sub(r"^TfLite|Delegate(V\d+)?$", "", delegate)
    if name.lower() in ON_CPU:
        return CPU
    return f"{'GPU' if 'gpu' in name.lower() else name} delegate"


def _complaint(printed: str) -> str:
    """The line that says why, or else the last one."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    blamed: Sequence[str] = [line for line in lines if re.search(r"error|fail|cannot|not found|denied", line, re.I)]
    return (blamed or lines or ["no output"])[-1]
