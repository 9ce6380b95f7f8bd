"""``.tflite`` files read and written as data, without torch: inputs, outputs, operations, metadata.

A file is a small flatbuffer with the weights behind it: buffers of a kilobyte or more lie after the flatbuffer, which
names their offsets and sizes, so that no file is too large for it and none is held in memory.
"""

import json
import mmap
import os
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mdrepro.core.errors import BadInput
from mdrepro.core.reading import parse_json
from mdrepro.export.needs import needed

METADATA = "mdrepro"  # the name of our entry in a file's metadata, which is JSON
OUTSIDE = 1024  # buffers of so many bytes or more lie behind the flatbuffer
ALIGNED = 64
Generated = Any  # an object of the classes that flatc generated, which have no types


@dataclass(frozen=True)
class Port:
    """An input or output, in print ``sample: float32 (1, 8, 64, 64)``; the type as numpy calls it."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} {self.shape}"


@dataclass(frozen=True)
class Summary:
    """What a file of ``size`` bytes holds.

    Args:
        inputs, outputs: of its one signature, in alphabetical order.
        operations: how often each occurs.
        metadata: ours; empty in a file that is not.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    operations: Mapping[str, int]
    metadata: Mapping[str, Any]
    size: int

    def describe(self) -> dict[str, Any]:
        """``bytes``, ``inputs``, ``outputs`` and ``operations``, as JSON values."""
        return {
            "bytes": self.size,
            "inputs": [str(port) for port in self.inputs],
            "outputs": [str(port) for port in self.outputs],
            "operations": dict(self.operations),
        }


def read(path: str | os.PathLike[str]) -> Summary:
    """What a file holds; every buffer's offset is checked.

    Raises BadInput where it cannot be read, is no ``.tflite`` file, is cut off, or has no single signature, and
    NotAttempted without ai-edge-litert.
    """
    file = Path(path)
    view, schema = _mapped(file), needed("ai_edge_litert.schema_py_generated")
    try:
        model = schema.Model.GetRootAs(view, 0)
        _check_buffers(model, len(view))
        operations = Counter(_operations(model, schema))
        inputs, outputs = _ports(model, schema)
        summary = Summary(inputs, outputs, dict(operations.most_common()), _metadata(model), len(view))
    except (struct.error, IndexError, TypeError, ValueError, OverflowError, AttributeError, MemoryError) as error:
        raise BadInput(f"{file} is cut off or damaged: export it again") from error
    if not inputs:
        raise BadInput(f"{file} has no signature, or several: expected a file of `mdrepro export`")
    return summary


def _mapped(file: Path) -> mmap.mmap:
    """The bytes of a ``.tflite`` file, not read; the mapping is closed with the last array that looks into it."""
    try:
        with open(file, "rb") as opened:
            if opened.read(8)[4:] == b"TFL3":
                return mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise BadInput(f"{file} cannot be read ({error.strerror})") from error
    raise BadInput(f"{file} is no .tflite file: expected a file of `mdrepro export --target litert`")


def _check_buffers(model: Generated, size: int) -> None:
    for index in range(model.BuffersLength()):
        buffer = model.Buffers(index)
        inside = buffer.DataLength()
        ends = buffer._tab.Vector(buffer._tab.Offset(4)) + inside if inside else buffer.Offset() + buffer.Size()
        if ends > size:
            raise IndexError(f"buffer {index} ends at {ends} of {size}")


def _operations(model: Generated, schema: ModuleType) -> Iterator[str]:
    names = _numbers(schema.BuiltinOperator)
    for part in range(model.SubgraphsLength()):
        graph = model.Subgraphs(part)
        for index in range(graph.OperatorsLength()):
            code = model.OperatorCodes(graph.Operators(index).OpcodeIndex())
            custom = code.CustomCode()
            yield custom.decode() if custom else names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]


def _ports(model: Generated, schema: ModuleType) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    if model.SignatureDefsLength() != 1:
        return (), ()
    signature, types = model.SignatureDefs(0), _numbers(schema.TensorType)
    graph = model.Subgraphs(signature.SubgraphIndex())

    def port(entry: Generated) -> Port:
        tensor = graph.Tensors(entry.TensorIndex())
        shape = tuple(tensor.Shape(axis) for axis in range(tensor.ShapeLength()))
        return Port(entry.Name().decode(), shape, types[tensor.Type()].lower())

    inputs = [port(signature.Inputs(index)) for index in range(signature.InputsLength())]
    outputs = [port(signature.Outputs(index)) for index in range(signature.OutputsLength())]
    return tuple(sorted(inputs, key=lambda p: p.name)), tuple(sorted(outputs, key=lambda p: p.name))


def input_order(path: str | os.PathLike[str]) -> list[str]:
    """Names of a file's inputs in the interpreter's order. Raises BadInput and NotAttempted as `read`."""
    read(path)
    view, schema = _mapped(Path(path)), needed("ai_edge_litert.schema_py_generated")
    model = schema.Model.GetRootAs(view, 0)
    signature = model.SignatureDefs(0)
    graph = model.Subgraphs(signature.SubgraphIndex())
    entries = [signature.Inputs(index) for index in range(signature.InputsLength())]
    names = {entry.TensorIndex(): entry.Name().decode() for entry in entries}
    return [names[graph.Inputs(index)] for index in range(graph.InputsLength())]


def _numbers(enumeration: type) -> dict[int, str]:
    """Names by number of an enumeration that flatc generated."""
    return {number: name for name, number in vars(enumeration).items() if isinstance(number, int)}


def _metadata(model: Generated) -> dict[str, Any]:
    for index in range(model.MetadataLength()):
        entry = model.Metadata(index)
        if entry.Name() == METADATA.encode():
            return dict(parse_json(model.Buffers(entry.Buffer()).DataAsNumpy().tobytes(), METADATA, dict[str, Any]))
    return {}


def rewrite(
    source: Path, target: Path, metadata: Mapping[str, Any], change: Callable[[Generated], None] | None = None
) -> None:
    """Write a file again, with metadata of ours and its weights outside of the flatbuffer.

    ``metadata``: JSON values; they take the place of ours in ``source``. ``change``: is given the file as a ``ModelT``
    to alter in place. Raises BadInput where ``source`` cannot be read, and OSError where ``target`` cannot be written.
    """
    schema, view = needed("ai_edge_litert.schema_py_generated"), _mapped(source)
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(view, 0))
    for buffer in model.buffers:
        if buffer.data is None and buffer.offset > 1:
            buffer.data = np.frombuffer(view, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    if change is not None:
        change(model)
    kept = [entry for entry in model.metadata or [] if entry.name != METADATA.encode()]
    model.buffers.append(
        schema.BufferT(data=np.frombuffer(json.dumps(metadata, ensure_ascii=False).encode(), np.uint8))
    )
    model.metadata = [*kept, schema.MetadataT(name=METADATA, buffer=len(model.buffers) - 1)]
    model.description = f"{metadata['model']} {metadata['component']} by mdrepro"
    _write(model, target, inside={entry.buffer for entry in model.metadata})


def _write(model: Generated, target: Path, inside: set[int]) -> None:
    """``inside``: buffers that stay in the flatbuffer, where other programs look for metadata."""
    import flatbuffers  # type: ignore[import-untyped]

    schema = needed("ai_edge_litert.schema_py_generated")
    tools = needed("ai_edge_litert.tools.flatbuffer_utils")
    outside: dict[int, np.ndarray] = {}
    for index, buffer in enumerate(model.buffers):
        if buffer.data is not None and len(buffer.data) >= OUTSIDE and index not in inside:
            outside[index] = np.ascontiguousarray(buffer.data).view(np.uint8).reshape(-1)
            buffer.data, buffer.offset, buffer.size = None, 1, 1
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    head = builder.Output()
    packed, offset = schema.Model.GetRootAs(head, 0), _aligned(len(head))
    for index, data in outside.items():
        tools.update_packed_buffer(packed.Buffers(index), offset, len(data))
        offset = _aligned(offset + len(data))
    with open(target, "wb") as file:
        file.write(head)
        for data in outside.values():
            file.write(bytes(_aligned(file.tell()) - file.tell()))
            file.write(data.data)


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNED) * ALIGNED
