"""A ``.tflite`` file without weights, and a component of its input."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
import torch

from mdrepro.export import flatbuffer

OUTPUT = np.linspace(0, 1, 4096, dtype=np.float32)
"""PyTorch's output of `component`."""


def component(name: str = "x") -> Any:
    """As `mdrepro.export.components.Component`, with the input of `exported`'s files."""
    answer = torch.from_numpy(OUTPUT)
    return SimpleNamespace(draw=lambda _: {name: torch.tensor([0.25])}, reference=lambda _: answer)


def exported(folder: Path, **says: Any) -> Path:
    """A file that says of itself what one of ``mdrepro export`` does."""
    from ai_edge_litert import schema_py_generated as schema

    bare = folder / "bare.tflite"
    folder.mkdir(exist_ok=True)
    tensor = schema.TensorT(shape=[1], name=b"x")
    signature = schema.SignatureDefT(
        inputs=[schema.TensorMapT(name=b"x", tensorIndex=0)],
        outputs=[schema.TensorMapT(name=b"x", tensorIndex=0)],
        signatureKey=b"serving_default",
    )
    graph = schema.SubGraphT(tensors=[tensor], inputs=[0], outputs=[0], operators=[])
    buffers = [schema.BufferT()]
    model = schema.ModelT(version=3, subgraphs=[graph], buffers=buffers, signatureDefs=[signature], operatorCodes=[])
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    bare.write_bytes(builder.Output())
    file = folder / f"{says['component']}-{says['precision']}.tflite"
    flatbuffer.rewrite(bare, file, says)
    bare.unlink()
    return file
