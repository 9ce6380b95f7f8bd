"""ExecuTorch's ``.pte`` files: what is in them, and several made one."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdrepro.core.errors import BadInput
from mdrepro.export.needs import needed

METADATA = "metadata"
"""A method's metadata are the constant method ``<method>_metadata``."""
MAGIC, HEADER, START = b"ET12", b"eh00", 64
"""At byte 4 of a file; at byte 8, of the header that says how large the program is; and bytes that are read for it."""
ALIGNMENT = 64  # bytes, of weights that XNNPACK reads


def check(path: Path) -> tuple[int, int]:
    """Bytes of the program, and offset of the weights after it. Raises BadInput for no such file, or one cut off."""
    try:
        with path.open("rb") as file:
            head = file.read(START)
        size = path.stat().st_size
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror})") from error
    if head[4:8] != MAGIC or head[8:12] != HEADER:
        raise BadInput(f"{path} is no .pte file of ExecuTorch with weights apart")
    program, base, weights = (int.from_bytes(head[at : at + 8], "little") for at in (16, 24, 32))
    if size < max(program, base + weights):
        raise BadInput(f"{path} is cut off: {size} bytes, and {max(program, base + weights)} are needed")
    return program, base


def read(path: Path) -> list[Any]:
    """Execution plans of a file's networks, as of ``executorch.exir.schema``, without weights. Raises BadInput."""
    size, _ = check(path)
    library = needed("executorch.exir._serialize._program")
    with path.open("rb") as file:
        content = file.read(size)
    try:
        plans = library._flatbuffer_to_program(content).execution_plan
    except Exception as error:  # whatever a damaged flatbuffer leads to
        raise BadInput(f"{path} is damaged ({type(error).__name__}): export it again") from error
    return [plan for plan in plans if not plan.name.endswith(f"_{METADATA}")]


def operations(plan: Any) -> Counter[str]:
    """Calls of a plan by name: ``XNNPACK`` for each piece that is delegated, or a kernel's name."""
    schema, counts = needed("executorch.exir.schema"), Counter[str]()
    for chain in plan.chains:
        for instruction in chain.instructions:
            call = instruction.instr_args
            if isinstance(call, schema.DelegateCall):
                counts["XNNPACK"] += 1
            elif isinstance(call, schema.KernelCall):
                counts[plan.operators[call.op_index].name] += 1
    return counts


def ports(plan: Any, indices: Sequence[int]) -> list[str]:
    """Inputs or outputs of a plan, such as ``denoise: float32 (1, 4, 64, 64)``."""
    kinds = {6: "float32", 3: "int32", 4: "int64"}
    tensors = [plan.values[index].val for index in indices]
    return [f"{plan.name}: {kinds.get(int(one.scalar_type), '?')} {tuple(one.sizes)}" for one in tensors]


def join(files: Sequence[Path], target: Path) -> None:
    """Write one file with all methods of several. Equal weights are there once. Raises BadInput for damaged ones."""
    library = needed("executorch.exir._serialize._program")
    parts = []
    for file in files:
        check(file)
        parts.append(library.deserialize_pte_binary(file.read_bytes()))
    whole = parts[0]
    for part in parts[1:]:
        _append(whole, part)
    for entry in whole.named_data.pte_data.values() if whole.named_data else ():
        entry.alignment = ALIGNMENT
    with target.open("wb") as opened:
        library.serialize_pte_binary(whole, extract_delegate_segments=True).write_to_file(opened)


def _append(whole: Any, part: Any) -> None:
    """Add a file's plans to another's, with indices into what is shared moved on."""
    program, added = whole.program, part.program
    constants, delegates = max(0, len(program.constant_buffer) - 1), len(program.backend_delegate_data)
    for plan in added.execution_plan:
        for value in plan.values:
            if getattr(value.val, "data_buffer_idx", 0):
                value.val.data_buffer_idx += constants  # 0 is of tensors without data
        for delegate in plan.delegates:
            delegate.processed.index += delegates
    program.execution_plan += added.execution_plan
    program.constant_buffer += added.constant_buffer[1:] if program.constant_buffer else added.constant_buffer
    program.backend_delegate_data += added.backend_delegate_data
    if part.named_data is None:
        return
    if whole.named_data is None:
        whole.named_data = part.named_data
        return
    for name, entry in part.named_data.pte_data.items():
        if name not in whole.named_data.pte_data:
            whole.named_data.buffers.append(part.named_data.buffers[entry.buffer_index])
            entry.buffer_index = len(whole.named_data.buffers) - 1
            whole.named_data.pte_data[name] = entry
