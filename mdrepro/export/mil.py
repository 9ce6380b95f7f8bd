"""The program inside a Core ML package, read and computed without Core ML.

Core ML runs on macOS alone, but a package can be read anywhere. `Program` computes it with PyTorch, operation by
operation, each result in float32 or, where the program has float16, rounded to it, as Core ML's own engines do but for
the order of sums. That finds a wrong conversion, a wrong weight and a wrong name; it tells nothing about speed.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mdrepro.core.errors import BadInput
from mdrepro.core.reading import parse_json
from mdrepro.export.components import Component
from mdrepro.export.flatbuffer import METADATA, Port, Summary
from mdrepro.export.needs import needed

Value = Any  # of an argument: a tensor, a number, a string, a list of them; None where there is none
Values = Mapping[str, Value]
"""The arguments of an operation by name."""
Array = NDArray[Any]


class Variable(Protocol):
    """A variable of coremltools' programs."""

    name: str
    val: Any
    dtype: Any
    child_ops: "Sequence[Operation]"


class Operation(Protocol):
    """An operation of coremltools' programs."""

    op_type: str
    inputs: Mapping[str, "Sequence[Variable] | Variable | None"]
    outputs: Sequence[Variable]

    def materialized_val_inference(self) -> Any:
        """The value of a weight that is stored smaller."""


ARRAYS = {65552: "float16", 65568: "float32", 131104: "int32"}  # types of inputs and outputs by Core ML's number


def read(path: Path) -> Summary:
    """What a package holds. Raises BadInput where it is not whole, and NotAttempted without coremltools."""
    return _summary(path, _spec(path))


def _summary(path: Path, spec: Any) -> Summary:
    def ports(features: Iterable[Any]) -> tuple[Port, ...]:
        kinds = {feature.name: feature.type.multiArrayType for feature in features}
        return tuple(
            Port(name, tuple(kinds[name].shape), ARRAYS.get(kinds[name].dataType, "other")) for name in sorted(kinds)
        )

    blocks = [b for function in spec.mlProgram.functions.values() for b in function.block_specializations.values()]
    operations = Counter(operation.type for block in blocks for operation in block.operations)
    kept = {name: number for name, number in operations.most_common() if name != "const"}
    fields = spec.description.metadata.userDefined
    metadata = parse_json(fields[METADATA], path, dict[str, Any]) if METADATA in fields else {}
    size = sum(part.stat().st_size for part in path.rglob("*") if part.is_file())
    return Summary(ports(spec.description.input), ports(spec.description.output), kept, metadata, size)


def _spec(path: Path) -> Any:
    utils = needed("coremltools.models.utils")
    try:
        spec = utils.load_spec(str(path))
    except Exception as error:  # it raises Exception and protobuf's own
        raise BadInput(f"{path} is no package of Core ML that can be read ({error}): export it again") from error
    if spec.WhichOneof("Type") != "mlProgram":
        raise BadInput(f"{path} holds no ML program: expected a package of `mdrepro export --target coreml`")
    return spec


class Program:
    """The program of a package, ready to be computed. Raises as `read`."""

    def __init__(self, path: Path) -> None:
        spec = _spec(path)
        self.path, self.summary = path, _summary(path, spec)
        loader = needed("coremltools.converters.mil.frontend.milproto.load")
        weights = path / "Data" / "com.apple.CoreML" / "weights"
        try:
            program = loader.load(spec, spec.specificationVersion, str(weights))
        except Exception as error:  # a missing or short file of weights
            raise BadInput(f"{path} is cut off or damaged ({error}): export it again") from error
        self._function = program.functions["main"]

    def check(self, component: Component) -> None:
        """Raise BadInput if inputs, outputs or operations are not the component's."""
        expected = {name: tuple(value.shape) for name, value in component.draw(0).items()}
        inputs = {port.name: port.shape for port in self.summary.inputs}
        if inputs != expected:
            raise BadInput(f"{self.path.name} takes {inputs}: expected {expected}")
        if [port.name for port in self.summary.outputs] != [component.output]:
            raise BadInput(f"{self.path.name} gives {self.summary.outputs}: expected {component.output}")
        if unknown := sorted(set(self.summary.operations) - set(OPERATIONS) - DECOMPRESSING):
            raise BadInput(f"{self.path.name} has operations that are not known here: {', '.join(unknown)}")

    @torch.inference_mode()
    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name, for inputs by name."""
        held: dict[str, Value] = {name: torch.from_numpy(value) for name, value in inputs.items()}
        uses = Counter(var.name for op in self._function.operations for var in _variables(op))
        wanted = [var.name for var in self._function.outputs]

        def value(var: Sequence[Variable] | Variable | None) -> Value:
            if var is None:
                return None
            if isinstance(var, Sequence):
                return [value(one) for one in var]
            return held[var.name] if var.name in held else _constant(var.val)

        for operation in self._function.operations:
            if operation.op_type == "const":
                continue
            if operation.op_type in DECOMPRESSING:
                result = _constant(operation.materialized_val_inference())
            else:
                arguments = defaultdict(lambda: None, {name: value(var) for name, var in operation.inputs.items()})
                result = OPERATIONS[operation.op_type](arguments)
            results = result if isinstance(result, (list, tuple)) else [result]
            for var, one in zip(operation.outputs, results, strict=True):
                held[var.name] = _rounded(one, var)
            for var in _variables(operation):
                uses[var.name] -= 1
                if not uses[var.name] and var.name not in wanted:
                    held.pop(var.name, None)
        return {name: held[name].numpy() for name in wanted}


def _variables(operation: Operation) -> list[Variable]:
    variables: list[Variable] = []
    for var in operation.inputs.values():
        variables += var if isinstance(var, Sequence) else [] if var is None else [var]
    return variables


def _constant(value: Value) -> Value:
    """A constant's value: arrays as tensors, halves widened."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.astype(np.float32) if value.dtype == np.float16 else value)
    return value.item() if isinstance(value, np.generic) else value


def _rounded(result: Tensor, var: Variable) -> Tensor:
    name = var.dtype.__name__ if isinstance(var.dtype, type) else str(var.dtype)
    if name == "fp16":
        return result.half().float()
    return result.float() if result.is_floating_point() else result


def _list(value: Value) -> list[int]:
    return [int(one) for one in (value.tolist() if isinstance(value, Tensor) else value)]


def _tensor(value: Value) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float32)


def _conv(a: Values) -> Tensor:
    x, kind, sides = a["x"], a["pad_type"], a["x"].ndim - 2
    if kind == "custom":
        pads = _list(a["pad"])
        x = F.pad(x, [edge for axis in reversed(range(sides)) for edge in pads[2 * axis : 2 * axis + 2]])
    elif kind != "valid":
        raise BadInput(f"convolutions of padding {kind} are not supported here")
    convolve: Callable[..., Tensor] = {1: F.conv1d, 2: F.conv2d}[sides]
    options = {"stride": _list(a["strides"]), "dilation": _list(a["dilations"]), "groups": int(a["groups"])}
    return convolve(x, a["weight"], a["bias"], **options)


def _matmul(a: Values) -> Tensor:
    x, y = _tensor(a["x"]), _tensor(a["y"])
    return (x.mT if a["transpose_x"] else x) @ (y.mT if a["transpose_y"] else y)


def _layer_norm(a: Values) -> Tensor:
    axes = _list(a["axes"])
    assert axes in ([-1], [a["x"].ndim - 1])
    return F.layer_norm(a["x"], a["x"].shape[-1:], a["gamma"], a["beta"], float(a["epsilon"]))


def _slice(a: Values) -> Tensor:
    x, begin, end = a["x"], _list(a["begin"]), _list(a["end"])
    strides = [1] * x.ndim if a["stride"] is None else _list(a["stride"])
    given = (a["begin_mask"], a["end_mask"], a["squeeze_mask"])
    masks = ([False] * x.ndim if mask is None else mask for mask in given)
    index: list[int | slice] = []
    for low, high, stride, first, last, squeezed in zip(begin, end, strides, *masks, strict=True):
        index.append(low if squeezed else slice(None if first else low, None if last else high, stride))
    return x[tuple(index)]


def _split(a: Values) -> Sequence[Tensor]:
    x, sizes, axis = a["x"], a["split_sizes"], int(a["axis"])
    return x.chunk(int(a["num_splits"]), axis) if sizes is None else x.split(_list(sizes), axis)


def _cast(a: Values) -> Tensor:
    kinds = {"fp16": torch.float32, "fp32": torch.float32, "int32": torch.int32, "bool": torch.bool}
    return _tensor(a["x"]).to(kinds.get(a["dtype"], torch.int32))


def _gather(a: Values) -> Tensor:
    x, indices, axis = a["x"], _tensor(a["indices"]).long(), int(a["axis"])
    if not indices.ndim:
        return x.select(axis, int(indices))
    return x.index_select(axis, indices.reshape(-1)).unflatten(axis, indices.shape)


def _upsample(a: Values) -> Tensor:
    factors = [float(a["scale_factor_height"]), float(a["scale_factor_width"])]
    return F.interpolate(a["x"], scale_factor=factors, mode="nearest")


def _expand_dims(a: Values) -> Tensor:
    axes = _list(a["axes"])
    rank = a["x"].ndim + len(axes)
    new, sides = {axis % rank for axis in axes}, iter(a["x"].shape)
    return a["x"].reshape([1 if axis in new else next(sides) for axis in range(rank)])


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Values], Tensor]:
    return lambda a: function(_tensor(a["x"]), _tensor(a["y"]))


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[Values], Tensor]:
    return lambda a: function(a["x"])


OPERATIONS: Mapping[str, Callable[[Values], Tensor | Sequence[Tensor]]] = {
    **{name: _binary(getattr(torch, name)) for name in ("add", "sub", "mul", "pow", "maximum", "minimum")},
    **{
        name: _unary(getattr(torch, name)) for name in ("abs", "exp", "sin", "cos", "sqrt", "square", "relu", "sigmoid")
    },
    "real_div": _binary(torch.div),
    "greater_equal": _binary(torch.ge),
    "select": lambda a: torch.where(a["cond"].bool(), _tensor(a["a"]), _tensor(a["b"])),
    "silu": _unary(F.silu),
    "rsqrt": lambda a: torch.rsqrt(a["x"] + float(a["epsilon"])),
    "gelu": lambda a: F.gelu(a["x"], approximate="none" if a["mode"] == "EXACT" else "tanh"),
    "clip": lambda a: a["x"].clamp(float(a["alpha"]), float(a["beta"])),
    "softmax": lambda a: a["x"].softmax(int(a["axis"])),
    "reduce_mean": lambda a: a["x"].mean(_list(a["axes"]), keepdim=bool(a["keep_dims"])),
    "layer_norm": _layer_norm,
    "batch_norm": lambda a: F.batch_norm(
        a["x"], a["mean"], a["variance"], a["gamma"], a["beta"], eps=float(a["epsilon"])
    ),
    "conv": _conv,
    "linear": lambda a: F.linear(a["x"], a["weight"], a["bias"]),
    "matmul": _matmul,
    "scaled_dot_product_attention": lambda a: F.scaled_dot_product_attention(
        a["query"], a["key"], a["value"], a["attn_mask"]
    ),
    "upsample_nearest_neighbor": _upsample,
    "cast": _cast,
    "gather": _gather,
    "concat": lambda a: torch.cat([_tensor(one) for one in a["values"]], int(a["axis"])),
    "split": _split,
    "slice_by_index": _slice,
    "reshape": lambda a: a["x"].reshape(_list(a["shape"])),
    "transpose": lambda a: a["x"].permute(_list(a["perm"])),
    "expand_dims": _expand_dims,
    "squeeze": lambda a: a["x"].squeeze(_list(a["axes"])),
    "tile": lambda a: a["x"].repeat(_list(a["reps"])),
    "identity": _unary(torch.clone),
}
"""What can be computed, by Core ML's names."""

DECOMPRESSING = frozenset(
    {"constexpr_affine_dequantize", "constexpr_lut_to_dense", "constexpr_blockwise_shift_scale", "constexpr_cast"}
)
"""Operations that make a weight out of how it is stored."""
