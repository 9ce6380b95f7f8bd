"""Latency of a ``.tflite`` on an attached Android phone, by LiteRT's own ``benchmark_model``."""

import sys
import tempfile
from pathlib import Path

from mdrepro.core.errors import BadInput
from mdrepro.core.files import sha256
from mdrepro.core.reading import read_bytes
from mdrepro.export import flatbuffer, reference
from mdrepro.latency import benchmark_model, file_metadata
from mdrepro.latency.adb import REMOTE, Phone
from mdrepro.latency.file_metadata import FileMetadata
from mdrepro.latency.records import Check, Record, today

ACCELERATED = {"cpu": "CPU, XNNPACK", "gpu": "GPU delegate"}


def measure(
    file: Path,
    tool: Path,
    phone: Phone,
    accelerator: str = "cpu",
    threads: int = 4,
    *,
    metadata: FileMetadata | None = None,
    runs: int = benchmark_model.RUNS,
) -> Record:
    """Push a file and the tool, run it, read what it prints and puts out, and take all away again.

    Inputs are those that the export wrote beside the file, where it did, and outputs are compared with PyTorch's.

    Args:
        tool: ``benchmark_model`` built for the phone.
        accelerator: ``cpu``, with so many threads, or ``gpu``.
        metadata: of the file; None for what it says of itself.
        runs: at least this many.

    Raises BadInput where a file is missing, or the phone or the tool refused.
    """
    for what, path in (("model", file), ("tool", tool)):
        if not path.is_file():
            raise BadInput(f"{what} {path}: no such file")
    known, names, check = reference.read(file), ["benchmark_model", file.name], None
    try:
        there, graph = phone.push(tool, names[0]), phone.push(file, names[1])
        phone.shell(["chmod", "755", there])
        command = benchmark_model.command(there, graph, accelerator, threads, runs)
        if known is None:
            report = benchmark_model.parse(phone.shell(command))
        else:
            with tempfile.TemporaryDirectory() as folder:
                for number, name in enumerate(flatbuffer.input_order(file)):
                    (part := Path(folder, f"input-{number}.bin")).write_bytes(known.inputs[name].tobytes())
                    names.append(part.name)
                    phone.push(part, part.name)
                names.append("output.bin")
                shapes = [known.inputs[name].shape for name in flatbuffer.input_order(file)]
                command += [*benchmark_model.inputs(shapes, REMOTE), f"--output_filepath={REMOTE}/output.bin"]
                phone.shell(["rm", "-f", f"{REMOTE}/output.bin"])
                report = benchmark_model.parse(phone.shell(command))
                needed = reference.least((metadata or file_metadata.read(file)).precision, accelerator)
                check = _check(phone, known, Path(folder, "output.bin"), needed)
    finally:
        try:
            phone.shell(["rm", "-f", *(f"{REMOTE}/{name}" for name in names)])
        except BadInput as error:
            print(f"left on the phone: {error}", file=sys.stderr)
    refused = benchmark_model.refused(accelerator, report.accelerator)
    return Record(
        origin="measured",
        device=phone.device(),
        runtime=f"LiteRT benchmark_model {sha256(tool)[:12]}",
        accelerator=benchmark_model.CPU if refused else ACCELERATED[accelerator],
        threads=threads,
        times=report.times,
        memory_mb=report.memory_mb,
        delegated=report.delegated,
        model_sha256=sha256(file),
        source=" ".join(command),
        date=today(),
        notes=(*report.notes, benchmark_model.REFUSED) if refused else report.notes,
        check=check,
        **(metadata or file_metadata.read(file)).fields(),
    )


def _check(phone: Phone, known: reference.Reference, file: Path, least: float) -> Check:
    """The output that the phone has, pulled to ``file``, against PyTorch's."""
    try:
        phone.call("pull", f"{REMOTE}/output.bin", str(file))
        return Check(psnr_db=known.psnr(read_bytes(file)), least_db=least)
    except BadInput as error:
        return Check(least_db=least, reason=str(error))
