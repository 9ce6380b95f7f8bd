"""A ``.tflite`` file without weights."""

from pathlib import Path
from typing import Any

import flatbuffers  # type: ignore[import-untyped]

from mdrepro.export import flatbuffer


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
