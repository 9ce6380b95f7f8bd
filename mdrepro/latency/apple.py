"""Latency of a Core ML package by ``predict`` on the Mac that runs this. iPhones: by Xcode's performance report."""

import importlib
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from mdrepro.core.errors import BadInput, NotAttempted, check
from mdrepro.core.files import sha256
from mdrepro.latency import file_metadata
from mdrepro.latency.file_metadata import FileMetadata
from mdrepro.latency.host import RUNS, SECONDS, WARM_UP, summary
from mdrepro.latency.host_child import repeated, timed
from mdrepro.latency.records import Device, Record, today

UNITS = {
    "all": ("ALL", "all"),
    "cpu": ("CPU_ONLY", "CPU"),
    "gpu": ("CPU_AND_GPU", "CPU and GPU"),
    "ane": ("CPU_AND_NE", "CPU and Neural Engine"),
}
"""Compute units by name: coremltools' name, and ours."""
ELSEWHERE = """Core ML runs on macOS alone. On a Mac:
    mdrepro latency MODEL.mlpackage --on apple --accelerator ane
For an iPhone, open the package in Xcode, make a performance report, write what it shows into a form (docs/use.md), and:
    mdrepro latency FORM.yaml --import xcode"""


def measure(
    package: Path,
    units: str = "all",
    *,
    metadata: FileMetadata | None = None,
    runs: int = RUNS,
    seconds: float = SECONDS,
) -> Record:
    """Latency of an ``.mlpackage`` on this Mac, by a row of `UNITS`.

    ``metadata``: of the package; None for what it says of itself. ``runs``, ``seconds``: as for `host.measure`.
    Raises BadInput for other units, or no such package, and NotAttempted where this is no Mac, or coremltools is not
    installed; the message has the commands.
    """
    check("compute units", units, UNITS)
    if not package.is_dir():
        raise BadInput(f"{package}: no such package")
    if sys.platform != "darwin":
        raise NotAttempted(ELSEWHERE)
    try:
        coremltools: Any = importlib.import_module("coremltools")
    except ModuleNotFoundError:
        raise NotAttempted("coremltools is not installed: pip install mdrepro[export]") from None
    began = time.perf_counter()
    loaded = coremltools.models.MLModel(str(package), compute_units=getattr(coremltools.ComputeUnit, UNITS[units][0]))
    load = time.perf_counter() - began
    inputs = {feature.name: _values(feature) for feature in loaded.get_spec().description.input}
    first, *_ = [timed(lambda: loaded.predict(inputs)) for _ in range(WARM_UP)]
    times = repeated(lambda: loaded.predict(inputs), runs, seconds)
    weights = next((f"SHA-256 {sha256(file)}" for file in sorted(package.rglob("weight.bin"))), "in the program")
    return Record(
        origin="measured",
        device=Device(name=platform.machine(), system=f"macOS {platform.mac_ver()[0]}"),
        runtime=f"Core ML, coremltools {coremltools.__version__}",
        accelerator=UNITS[units][1],
        times=summary([1000 * value for value in times], first_ms=1000 * first, load_ms=1000 * load),
        source=f"mdrepro latency by predict; weights {weights}",
        date=today(),
        notes=("predict copies inputs and outputs through Python",),
        **(metadata or file_metadata.read(package)).fields(),
    )


def _values(feature: Any) -> Any:
    array, shape = feature.type.multiArrayType, tuple(feature.type.multiArrayType.shape)
    if array.ArrayDataType.Name(array.dataType) == "INT32":
        return np.ones(shape, np.int32)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)
