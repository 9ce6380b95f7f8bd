"""Facts of this machine: processor, cores, memory, GPUs."""

import functools
import importlib.util
import os
import platform
import resource
import sys
from pathlib import Path
from typing import Any


@functools.cache
def processor() -> str:
    """The processor's model name."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine() or "CPU")


def core_numbers() -> list[int]:
    """Numbers of the processor cores that this process may use, ascending."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def cores() -> int:
    """How many processor cores this process may use."""
    return len(core_numbers())


def peak_memory() -> int:
    """Bytes of memory, the most that this process held.

    A process that another starts inherits that one's ``ru_maxrss`` on Linux; ``VmHWM`` is its own.
    """
    try:
        with open("/proc/self/status", encoding="utf-8") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@functools.cache
def hardware() -> dict[str, Any]:
    """Processor, cores, memory in GiB, and GPUs by name."""
    import psutil

    gpus = []
    if importlib.util.find_spec("torch"):
        import torch

        gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    memory = round(psutil.virtual_memory().total / 2**30, 1)
    return {"cpu": processor(), "cores": cores(), "memory_gib": memory, "gpus": gpus}
