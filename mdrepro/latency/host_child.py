"""The process that `mdrepro.latency.host` measures in; it imports no torch. Prints one line of JSON."""

import importlib.metadata
import json
import os
import resource
import sys
import time
from typing import Any


def main(asked: dict[str, Any]) -> dict[str, Any]:
    """Load, warm up, run; see `mdrepro.latency.host.measure`."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, asked["cores"])
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-untyped]

    load_before = os.getloadavg()[0]
    peak = _peak(asked["side"])
    began = time.perf_counter()
    interpreter = Interpreter(model_path=asked["file"], num_threads=asked["threads"])
    interpreter.allocate_tensors()
    load = time.perf_counter() - began
    random = np.random.default_rng(0)
    for told in interpreter.get_input_details():
        interpreter.set_tensor(told["index"], _values(random, told))
    first = _run(interpreter)
    for _ in range(asked["warm_up"] - 1):
        _run(interpreter)
    seconds: list[float] = []
    while len(seconds) < asked["runs"] or sum(seconds) < asked["seconds"]:
        seconds.append(_run(interpreter))
    return {
        "load": load,
        "first": first,
        "seconds": seconds,
        "load_before": load_before,
        "load_after": os.getloadavg()[0],
        "peak_gmacs": max(peak, _peak(asked["side"])),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "version": importlib.metadata.version("ai-edge-litert"),
        "cpu": _cpu(),
    }


def _run(interpreter: Any) -> float:
    began = time.perf_counter()
    interpreter.invoke()
    return time.perf_counter() - began


def _values(random: Any, told: dict[str, Any]) -> Any:
    import numpy as np

    shape, kind = tuple(told["shape"]), told["dtype"]
    if np.issubdtype(kind, np.integer):
        return np.ones(shape, kind)  # a token that every vocabulary has
    return random.standard_normal(shape).astype(kind)


def _peak(side: int, rounds: int = 5) -> float:
    """10^9 multiply-accumulates a second of a float32 matrix product, the best of some."""
    import numpy as np

    a = np.ones((side, side), np.float32)
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - began)
    return float(side**3 / best / 1e9)


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    import platform

    return (names or [platform.processor() or platform.machine() or "CPU"])[0]


if __name__ == "__main__":
    try:
        print(json.dumps(main(json.loads(sys.argv[1]))))
    except (ValueError, RuntimeError, ImportError) as error:
        print(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}", file=sys.stderr)
        sys.exit(1)
