"""Facts of this machine: processor, cores, memory, GPUs."""

import functools
import importlib.util
import os
import platform
from pathlib import Path
from typing import Any


@functools.cache
def processor() -> str:
    """The processor's model name."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return (names or [platform.processor() or platform.machine() or "CPU"])[0]


def core_numbers() -> list[int]:
    """Numbers of the processor cores that this process may use, ascending."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def cores() -> int:
    """How many processor cores this process may use."""
    return len(core_numbers())


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
