"""The process that `mdrepro.latency.host` measures in, without torch where LiteRT runs. It ends with the result, JSON.

Where ``request["served"]`` is set, it makes one run for every line that it reads, and prints the seconds, so that
several such processes can take turns (`mdrepro.latency.host_torch`).
"""

import contextlib
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mdrepro.core import machine

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Run = Callable[[], object]
Prepare = Callable[[dict[str, Any]], tuple[Run, str]]
"""From a request to what is timed, and the name and version of the runtime."""
LEAST = 3  # runs that count, however long they take
ENOUGH = 10_000  # runs after which the seconds no longer count


def main(request: dict[str, Any], prepare: Prepare | None = None) -> dict[str, Any]:
    """Load, warm up, run; see `mdrepro.latency.host.run`."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, request["cores"])
    load_before = os.getloadavg()[0]
    peak = _peak(request["side"])
    began = time.perf_counter()
    run, runtime = (prepare or (pytorch if "model" in request else litert))(request)
    load = time.perf_counter() - began
    first, *_ = [timed(run) for _ in range(request["warm_up"])]
    loading = machine.peak_memory()
    _forget()
    seconds: list[float] = []
    if request.get("served"):
        print(json.dumps({"ready": runtime}), flush=True)
        for _ in sys.stdin:
            seconds.append(timed(run))
            print(json.dumps({"seconds": seconds[-1]}), flush=True)
    else:
        seconds += repeated(run, request["runs"], request["seconds"], request.get("most"))
    return {
        "load": load,
        "first": first,
        "seconds": seconds,
        "load_before": load_before,
        "load_after": os.getloadavg()[0],
        "peak_bytes": machine.peak_memory(),
        "loading_bytes": loading,
        "peak_gmacs": max(peak, _peak(request["side"])),
        "runtime": runtime,
        "cpu": machine.processor(),
    }


def litert(request: dict[str, Any]) -> tuple[Run, str]:
    """A ``.tflite`` file on LiteRT, which takes XNNPACK where it can."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-untyped]

    interpreter = Interpreter(model_path=request["file"], num_threads=request["threads"])
    interpreter.allocate_tensors()
    random = np.random.default_rng(0)
    for tensor in interpreter.get_input_details():
        interpreter.set_tensor(tensor["index"], _values(random, tensor))
    return interpreter.invoke, f"LiteRT {importlib.metadata.version('ai-edge-litert')}"


def pytorch(request: dict[str, Any]) -> tuple[Run, str]:
    """A component of a model in torch, eager or compiled, with the inputs that its exported file is compared on."""
    import torch

    from mdrepro.export import components

    torch.set_num_threads(request["threads"])
    model = components.find(request["model"], request["resolution"])
    component = model.component(request["component"], request["branches"])
    inputs, module = component.draw(0), component.module
    if request["compiled"]:
        module = torch.compile(module)  # type: ignore[assignment]

    def run() -> object:
        with torch.inference_mode():
            return module(**inputs)

    return run, f"torch {torch.__version__}, {'torch.compile' if request['compiled'] else 'eager'}"


def enough(count: int, passed: float, runs: int, seconds: float, most: float | None = None) -> bool:
    """Whether ``count`` runs of ``passed`` seconds are enough.

    That is ``runs`` and ``seconds`` (or `ENOUGH` runs) are both reached, or ``most`` seconds (None: no upper bound) and
    `LEAST` runs.
    """
    whole = count >= runs and (passed >= seconds or count >= ENOUGH)
    return whole or (most is not None and count >= LEAST and passed >= most)


def repeated(run: Run, runs: int, seconds: float, most: float | None = None) -> list[float]:
    """Seconds of each run, until there are `enough`."""
    times: list[float] = []
    passed = 0.0
    while not enough(len(times), passed, runs, seconds, most):
        times.append(timed(run))
        passed += times[-1]
    return times


def timed(run: Run) -> float:
    """Seconds of a run."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _values(random: "np.random.Generator", tensor: dict[str, Any]) -> "NDArray[np.generic]":
    import numpy as np

    shape, kind = tuple(tensor["shape"]), tensor["dtype"]
    if np.issubdtype(kind, np.integer):
        return np.ones(shape, kind)  # a token that every vocabulary has
    return random.standard_normal(shape).astype(kind)


def _forget() -> None:
    """Reset `machine.peak_memory` where the system can, so that what loading needed for a moment is not in it."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="utf-8") as file:
        file.write("5")


def _peak(side: int, rounds: int = 5) -> float:
    """10^9 multiply-accumulates a second of a float32 matrix product, the best of some."""
    import numpy as np

    a = np.ones((side, side), np.float32)
    return side**3 / min(timed(lambda: a @ a) for _ in range(rounds)) / 1e9


def cli(prepare: Prepare | None = None) -> None:
    """Answer the one argument, JSON; an error is one line on standard error."""
    try:
        print(json.dumps(main(json.loads(sys.argv[1]), prepare)))
    except (ValueError, RuntimeError, ImportError) as error:
        print(f"{type(error).__name__}: {(str(error).strip().splitlines() or ['?'])[0]}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    cli()
