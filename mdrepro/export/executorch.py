"""A component as a method of an ExecuTorch file, for XNNPACK: ``encode``, ``denoise`` or ``decode``.

int8-dynamic multiplies in 8-bit integers, inputs scaled by their own range while the network runs, in linear layers and
convolutions over all channels; weights have one scale per output channel. All between is float32.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mdrepro.core import machine
from mdrepro.core.errors import BadInput
from mdrepro.core.files import sha256
from mdrepro.export import parity, pte
from mdrepro.export.components import Component
from mdrepro.export.needs import needed
from mdrepro.export.parity import Outputs, Parity
from mdrepro.export.stages import Stages, quiet
from mdrepro.export.target import refusing
from mdrepro.export.xnnpack_layers import Rewritten

METHODS: Mapping[str, str] = {"text-encoder": "encode", "unet": "denoise", "decoder": "decode"}
"""Names of methods by component."""


class ExecuTorchMethod:
    """One method of a ``.pte`` file, ready to run on so many threads; None for as many as there are cores.

    ``metadata``: what the file says of it. Raises BadInput where it is no such file, or has no such method, and
    NotAttempted where executorch is not installed.
    """

    def __init__(self, path: Path, method: str, threads: int | None = None) -> None:
        pte.check(path)
        runtime, bindings = needed("executorch.runtime"), needed("executorch.extension.pybindings.portable_lib")
        bindings._unsafe_reset_threadpool(threads or machine.cores())
        try:
            self._program = runtime.Runtime.get().load_program(path)
            names = sorted(set(METHODS.values()) & set(self._program.method_names))
            if method not in names:
                raise BadInput(f"{path} has no method {method}: expected one of {', '.join(names) or 'none'}")
            self._method = self._program.load_method(method)
            text = self._program.load_method(f"{method}_{pte.METADATA}").execute([])[0]
            self.metadata: dict[str, Any] = json.loads(text)
        except (RuntimeError, KeyError, ValueError) as error:
            raise BadInput(f"{path} cannot be run here: {str(error).strip().partition(chr(10))[0]}") from error

    def __call__(self, **inputs: Outputs) -> Outputs:
        """The output for inputs by name. Raises BadInput for other names than the file has."""
        names = self.metadata["inputs"]
        if sorted(inputs) != sorted(names):
            raise BadInput(f"inputs {', '.join(inputs)}: expected {', '.join(names)}")
        with torch.inference_mode():
            output = self._method.execute([torch.from_numpy(inputs[name]) for name in names])[0]
        array: Outputs = output.numpy()
        return array


class ExecuTorch:
    """The `Target` of ExecuTorch files; all three components of a model are methods of one file."""

    name, suffix, bundles = "executorch", ".pte", False
    precisions: Mapping[str, int] = {"fp32": 4, "int8-dynamic": 1}

    def check(self, component: Component, precision: str) -> int:
        return 3 * component.parameters * self.precisions[precision] + 2**26

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
        inputs = component.draw(0)
        about = {**metadata, "layers": "torch's" if plain else "written again", "inputs": list(inputs)}
        module = component.module if plain else Rewritten(component.module)
        fold = needed("executorch.exir.passes.constant_prop_pass").constant_prop_pass
        with stages.stage("converting"), _refusing(component), torch.no_grad():
            program = fold(torch.export.export(module.eval(), (), kwargs=inputs))
        for precision in precisions:
            file = folder / f"{component.name}-{precision}{self.suffix}"
            with stages.stage(f"writing {precision}"), _refusing(component):
                _lower(component, program, about | {"precision": precision}, file)
            yield precision, file

    def measure(self, file: Path, component: Component, threads: int | None = None) -> Parity:
        with quiet():
            method = ExecuTorchMethod(file, METHODS[component.name], threads)
        return parity.measure(component, lambda inputs: method(**inputs))

    def describe(self, file: Path) -> dict[str, Any]:
        """As `Target` says; an operation is what XNNPACK runs in one piece, or a kernel of ExecuTorch's own."""
        plans = pte.read(file)
        operations: Counter[str] = sum((pte.operations(plan) for plan in plans), Counter())
        return {
            "bytes": file.stat().st_size,
            "sha256": sha256(file),
            "inputs": [port for plan in plans for port in pte.ports(plan, plan.inputs)],
            "outputs": [port for plan in plans for port in pte.ports(plan, plan.outputs)],
            "operations": dict(sorted(operations.items())),
        }

    def join(self, files: Mapping[str, Path], file: Path) -> None:
        """Write one file with the methods of several, by component."""
        pte.join(list(files.values()), file)


def _refusing(component: Component) -> contextlib.AbstractContextManager[None]:
    return refusing(f"{component.name} cannot be converted to ExecuTorch")


def _lower(
    component: Component, program: torch.export.ExportedProgram, metadata: Mapping[str, Any], file: Path
) -> None:
    """Delegate an exported program to XNNPACK and write it."""
    exir = needed("executorch.exir")
    partition = needed("executorch.backends.xnnpack.partition.xnnpack_partitioner").XnnpackPartitioner
    method = METHODS[component.name]
    if metadata["precision"] == "int8-dynamic":
        program = _quantised(component, program)
    with torch.no_grad(), _without_patterns():
        lowered = exir.to_edge_transform_and_lower(
            {method: program},
            partitioner=[partition()],
            constant_methods={f"{method}_{pte.METADATA}": json.dumps(dict(metadata), ensure_ascii=False)},
            compile_config=exir.EdgeCompileConfig(_check_ir_validity=False),
        )
        finished = lowered.to_executorch()
    with file.open("wb") as opened:
        finished.write_to_file(opened)


def _quantised(component: Component, program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program with weights in 8 bits and inputs of products quantised while it runs."""
    library = needed("executorch.backends.xnnpack.quantizer.xnnpack_quantizer")
    prepare = needed("torchao.quantization.pt2e.quantize_pt2e")
    quantizer = library.XNNPACKQuantizer()
    quantizer.set_global(library.get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True))
    prepared = prepare.prepare_pt2e(program.module(), quantizer)
    inputs = component.draw(0)
    with torch.no_grad():
        prepared(**inputs)
        return torch.export.export(prepare.convert_pt2e(prepared), (), kwargs=inputs)


@contextlib.contextmanager
def _without_patterns() -> Iterator[None]:
    """Inside it, XNNPACK's passes look for no bilinear upsampling and no attention of torch's.

    Neither is in a rewritten network, and ExecuTorch 1.5 traces examples of both first, which takes seconds.
    """
    bilinear: Any = needed("executorch.backends.xnnpack.partition.graphs.bilinear_2d")
    attention: Any = needed("executorch.backends.xnnpack.partition.graphs.sdpa")
    theirs = bilinear.get_graphs_dict, attention.get_graphs
    bilinear.get_graphs_dict, attention.get_graphs = dict, list
    try:
        yield
    finally:
        bilinear.get_graphs_dict, attention.get_graphs = theirs
