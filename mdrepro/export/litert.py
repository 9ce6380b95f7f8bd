"""A component as a LiteRT file: converted by litert-torch, its layers rewritten, its weights shrunk.

fp16 and int8 are of weights alone: operations compute in float32 on a processor, in float16 where a phone's delegate
chooses to. int8 has one scale per output channel. int8-dynamic ("dynamic range" in LiteRT's words) multiplies in 8-bit
integers, inputs scaled by their own range while the network runs, in linear layers and convolutions over all channels.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mdrepro.core.errors import BadInput
from mdrepro.core.files import sha256
from mdrepro.export import flatbuffer, parity
from mdrepro.export.components import Component, Inputs
from mdrepro.export.needs import needed
from mdrepro.export.parity import Parity
from mdrepro.export.reauthor import Reauthored
from mdrepro.export.runner import LiteRTNetwork
from mdrepro.export.stages import Stages
from mdrepro.export.target import refusing

SHRUNK = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "EMBEDDING_LOOKUP")  # operations whose weights are shrunk
INTEGER = ("FULLY_CONNECTED", "CONV_2D")
"""Of them, those that int8-dynamic computes in integers: XNNPACK has no such depthwise convolution."""
LARGEST = 2**31  # bytes that a file of float32 weights may have: what a flatbuffer can address


class _Rewritten(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, **inputs: Tensor) -> Inputs:
        with Reauthored():
            outputs: Inputs = self.module(**inputs)
        return outputs


class LiteRT:
    """The `Target` of LiteRT files."""

    name, suffix, bundles = "litert", ".tflite", True
    precisions: Mapping[str, int] = {"fp32": 4, "fp16": 2, "int8": 1, "int8-dynamic": 1}

    def check(self, component: Component, precision: str) -> int:
        if precision == "fp32" and component.parameters * self.precisions["fp32"] > LARGEST:
            raise BadInput(
                f"{component.name} has {component.parameters / 1e6:.0f}M weights: in fp32 they are over 2 GB, more "
                f"than a .tflite file should hold; expected {', '.join([*self.precisions][1:])}"
            )
        return component.parameters * (self.precisions["fp32"] + 2 * self.precisions[precision]) + 2**26

    def export(
        self,
        component: Component,
        precisions: Sequence[str],
        folder: Path,
        metadata: Mapping[str, Any],
        stages: Stages,
        *,
        plain: bool = False,
    ) -> Iterator[tuple[str, Path]]:
        raw, head = folder / "raw.tflite", {**metadata, "layers": "the converter's" if plain else "written again"}
        with stages.stage("converting"):
            _convert(component, raw, component.module if plain else _Rewritten(component.module))
        for precision in precisions:
            source, file = raw, folder / f"{component.name}-{precision}{self.suffix}"
            with stages.stage(f"writing {precision}"):
                if precision != "fp32":
                    source = folder / f"raw-{precision}.tflite"
                    _shrink(raw, source, precision)
                flatbuffer.rewrite(source, file, head | {"precision": precision})
                if source is not raw:
                    source.unlink()
            if precision == precisions[-1]:
                raw.unlink()
            yield precision, file

    def measure(self, file: Path, component: Component, threads: int | None = None) -> Parity:
        network = LiteRTNetwork(file, threads)
        return parity.measure(component, lambda inputs: network(**inputs)[component.output])

    def describe(self, file: Path) -> dict[str, Any]:
        return flatbuffer.read(file).describe() | {"sha256": sha256(file)}


def _convert(component: Component, target: Path, module: nn.Module) -> None:
    converter = needed("litert_torch")
    layouts = converter.config.layout_optimize_partitioner
    try:
        converter.config.layout_optimize_partitioner = "GREEDY"  # channels last wherever they can be
        with refusing(f"{component.name} cannot be converted to LiteRT"):
            converter.convert(module.eval(), sample_kwargs=component.draw(0)).export(str(target))
    finally:
        converter.config.layout_optimize_partitioner = layouts


def _shrink(source: Path, target: Path, precision: str) -> None:
    quantizer, kinds = needed("ai_edge_quantizer.quantizer"), needed("ai_edge_quantizer.qtyping")
    tool = quantizer.Quantizer(str(source))

    if precision == "fp16":
        weights = kinds.TensorQuantizationConfig(num_bits=16, dtype=kinds.TensorDataType.FLOAT)
        algorithm = quantizer.AlgorithmName.FLOAT_CASTING
    else:
        weights = kinds.TensorQuantizationConfig(num_bits=8, granularity=kinds.QuantGranularity.CHANNELWISE)
        algorithm = quantizer.AlgorithmName.MIN_MAX_UNIFORM_QUANT
    for operation in SHRUNK:
        compute = "INTEGER" if precision == "int8-dynamic" and operation in INTEGER else "FLOAT"
        config = kinds.OpQuantizationConfig(
            weight_tensor_config=weights,
            compute_precision=kinds.ComputePrecision[compute],
            explicit_dequantize=compute == "FLOAT",
        )
        tool.update_quantization_recipe(".*", kinds.TFLOperationName[operation], config, algorithm)
    with refusing(f"the weights cannot be made {precision}, take another precision"), _of_two_dimensions():
        tool.quantize(serialize_to_path=str(target), enable_progress_report=False)


@contextlib.contextmanager
def _of_two_dimensions() -> Iterator[None]:
    """Inside it, weights of several dimensions come to the quantizer as rows, one per output channel.

    Of weights over 32 MB ai-edge-quantizer 0.10 takes a part at a time, and then its scale per output channel fits no
    convolution's weights.
    """
    module: Any = needed("ai_edge_quantizer.algorithms.uniform_quantize.uniform_quantize_tensor")
    theirs = module.uniform_quantize

    def ours(tensor: Any, parameters: Any, is_blockwise_quant: bool = False) -> Any:
        if tensor.ndim < 3 or is_blockwise_quant or parameters.quantized_dimension != 0:
            return theirs(tensor, parameters, is_blockwise_quant)
        rows = dataclasses.replace(
            parameters, scale=parameters.scale.reshape(-1, 1), zero_point=parameters.zero_point.reshape(-1, 1)
        )
        return theirs(tensor.reshape(len(tensor), -1), rows).reshape(tensor.shape)

    module.uniform_quantize = ours
    try:
        yield
    finally:
        module.uniform_quantize = theirs
