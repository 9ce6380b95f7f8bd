"""A component as a Core ML package, through ``torch.export`` and coremltools.

``fp32`` computes in float32. The others compute in float16, but for the embedding of time, whose sines would be of
angles up to 999 rounded to halves; ``int8`` has linear weights, one scale per output channel, ``palette8`` 256 values
per tensor. A package runs on macOS alone: elsewhere `mdrepro.export.mil` computes its program.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mdrepro.core.files import sha256
from mdrepro.export import mil, parity
from mdrepro.export.components import Component
from mdrepro.export.flatbuffer import METADATA
from mdrepro.export.needs import needed
from mdrepro.export.parity import Parity
from mdrepro.export.stages import Stages
from mdrepro.export.target import refusing

Model = Any  # of coremltools, which has no types
EXACT = ("sin", "cos")  # operations that stay in float32, with what leads to them
ANGLES = ("mul", "add", "sub", "real_div", "expand_dims", "squeeze", "reshape", "tile", "concat", "cast")
"""Operations that can lead to them: what angles are made of."""


class CoreML:
    """The `Target` of Core ML packages. Core ML has its own norms and attention, so ``plain`` changes nothing."""

    name, suffix, bundles = "coreml", ".mlpackage", False
    precisions: Mapping[str, int] = {"fp32": 4, "fp16": 2, "int8": 1, "palette8": 1}

    def check(self, component: Component, precision: str) -> int:
        return component.parameters * 3 * self.precisions[precision] + 2**26

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
        tools = needed("coremltools")
        with stages.stage("converting"):
            program = torch.export.export(component.module, (), kwargs=component.draw(0)).run_decompositions({})
            _without_aliases(program)
        halves: Model | None = None
        for precision in precisions:
            file = folder / f"{component.name}-{precision}{self.suffix}"
            with stages.stage(f"writing {precision}"):
                if precision == "fp32":
                    model = _convert(component, program, tools.precision.FLOAT32)
                else:
                    half = tools.transform.FP16ComputePrecision(op_selector=_may_be_half)
                    halves = halves or _convert(component, program, half)
                    model = _smaller(halves, precision)
                _describe(model, dict(metadata) | {"precision": precision})
                model.save(str(file))
                del model
            yield precision, file

    def measure(self, file: Path, component: Component, threads: int | None = None) -> Parity:
        program = mil.Program(file)
        program.check(component)
        if sys.platform != "darwin":
            return parity.measure(component, lambda inputs: program(inputs)[component.output], draws=1)
        tools = needed("coremltools")
        model = tools.models.MLModel(str(file), compute_units=tools.ComputeUnit.ALL)
        return parity.measure(component, lambda inputs: model.predict(dict(inputs))[component.output])

    def describe(self, file: Path) -> dict[str, Any]:
        """As `Target` says; the hash is over program and weights, and ``checked`` says what computed it."""
        parts = sorted((part for part in file.rglob("*") if part.is_file()), key=lambda part: part.suffix == ".json")
        checked = "Core ML" if sys.platform == "darwin" else "its program, computed by mdrepro: Core ML is on macOS"
        digest = hashlib.sha256("".join(map(sha256, parts[:2])).encode()).hexdigest()
        return mil.read(file).describe() | {"sha256": digest, "checked": checked}


def _without_aliases(program: torch.export.ExportedProgram) -> None:
    """Take out nodes that only name a tensor again, which coremltools does not know."""
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten.alias.default:
            node.replace_all_uses_with(node.args[0])
            program.graph_signature.replace_all_uses(node.name, node.args[0].name)
            program.graph.erase_node(node)
    program.graph_module.recompile()


def _may_be_half(operation: mil.Operation) -> bool:
    """Whether an operation may compute in float16: not sines, nor what their angles come from."""
    if operation.op_type in EXACT:
        return False
    users = (user for result in operation.outputs for user in result.child_ops)
    return operation.op_type not in ANGLES or all(map(_may_be_half, users))


def _convert(component: Component, program: torch.export.ExportedProgram, precision: object) -> Model:
    tools = needed("coremltools")
    inputs = [
        tools.TensorType(name=name, shape=tuple(value.shape), dtype=np.int32 if name == "input_ids" else np.float32)
        for name, value in component.draw(0).items()
    ]
    with refusing(f"{component.name} cannot be converted to Core ML"):
        return tools.convert(
            program,
            inputs=inputs,
            outputs=[tools.TensorType(name=component.output, dtype=np.float32)],
            convert_to="mlprogram",
            minimum_deployment_target=tools.target.iOS17,
            compute_precision=precision,
            skip_model_load=True,
        )


def _smaller(model: Model, precision: str) -> Model:
    tools = needed("coremltools.optimize.coreml")
    if precision == "int8":
        config = tools.OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int8")
        return tools.linear_quantize_weights(model, tools.OptimizationConfig(global_config=config))
    if precision == "palette8":
        config = tools.OpPalettizerConfig(mode="uniform", nbits=8)
        return tools.palettize_weights(model, tools.OptimizationConfig(global_config=config))
    return model


def _describe(model: Model, metadata: Mapping[str, Any]) -> None:
    model.author, model.license, model.version = "mdrepro", metadata["licence"], str(metadata["commit"])
    model.short_description = f"{metadata['model']} {metadata['component']}, {metadata['precision']}"
    model.user_defined_metadata[METADATA] = json.dumps(metadata, ensure_ascii=False)
