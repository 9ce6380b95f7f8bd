"""Fixed inputs of an exported network, and PyTorch's output for them, beside its file: what another device is held to.

``unet-fp16.tflite`` has ``unet-fp16.reference.safetensors``: tensors ``input/NAME`` and ``output``, and in the metadata
the SHA-256 of the file that they are of.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mdrepro.core.errors import BadInput
from mdrepro.core.files import replacing, sha256
from mdrepro.core.reading import read_header
from mdrepro.export.parity import GATES, Outputs, compare

if TYPE_CHECKING:
    from mdrepro.export.components import Component

SUFFIX = ".reference.safetensors"
DRAW = 1  # of the component's inputs; the export compares it too
ACCELERATED = 35.0
"""Least PSNR on an accelerator, dB, which computes in half precision: that of 8-bit weights on a processor."""


@dataclass(frozen=True)
class Reference:
    """Inputs by name, and PyTorch's float32 output."""

    inputs: dict[str, Outputs]
    output: Outputs

    def psnr(self, raw: bytes) -> float:
        """PSNR in dB of an output's bytes, as a runtime keeps them. Raises BadInput for another size."""
        if len(raw) != self.output.nbytes:
            raise BadInput(f"an output of {len(raw)} bytes: expected {self.output.nbytes}, {self.output.shape} float32")
        with np.errstate(invalid="ignore", over="ignore"):
            return compare([self.output], [np.frombuffer(raw, "<f4")]).psnr_db


def least(precision: str, accelerator: str) -> float:
    """PSNR that outputs must reach: on the CPU what the export asks of this precision, dB."""
    exported = GATES.get(precision, ACCELERATED)
    return exported if accelerator == "cpu" else min(exported, ACCELERATED)


def path(file: Path) -> Path:
    """Where the reference of an exported network is."""
    return file.with_name(file.stem + SUFFIX)


def write(component: "Component", file: Path) -> Path:
    """Write the reference of an exported network beside it."""
    from safetensors.numpy import save_file

    tensors = {f"input/{name}": value.numpy() for name, value in component.draw(DRAW).items()}
    tensors["output"] = component.reference(DRAW).numpy()
    with replacing(target := path(file)) as aside:
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, aside, {"of": sha256(file)})
    return target


def read(file: Path) -> Reference | None:
    """The reference beside an exported network; None where there is none. Raises BadInput for that of another file."""
    return read_from(path(file), sha256(file), file.name) if path(file).exists() else None


def read_from(source: Path, digest: str, name: str) -> Reference:
    """A file's reference at ``source``, which must be of the network of that SHA-256, called ``name``.

    Raises BadInput for another or a damaged file.
    """
    from safetensors import SafetensorError, safe_open

    read_header(source)
    try:
        with safe_open(source, framework="numpy") as opened:
            of = (opened.metadata() or {}).get("of")
            tensors = {one: opened.get_tensor(one) for one in list(opened.keys())}
    except (OSError, SafetensorError, TypeError) as error:
        raise BadInput(f"{source} cannot be read ({error}): export the network again") from None
    if of != digest:
        raise BadInput(f"{source} is of another file than {name}: export the network again")
    inputs = {one.removeprefix("input/"): value for one, value in tensors.items() if one.startswith("input/")}
    output = tensors.get("output")
    if not inputs or output is None or output.dtype != np.float32 or not np.isfinite(output).all():
        raise BadInput(f"{source} holds no inputs, or no finite float32 output: export the network again")
    return Reference(inputs, output)
