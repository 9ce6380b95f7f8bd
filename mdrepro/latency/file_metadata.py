"""What a network's file says of itself, so that a record of its latency names the network that ran.

Files of ``mdrepro export`` carry model, component, precision, branches and resolution. Others are named after the file.
"""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast, get_args

from mdrepro.core.errors import BadInput, NotAttempted, check
from mdrepro.latency.records import Component


@dataclass(frozen=True)
class FileMetadata:
    """Fields of `mdrepro.latency.records.Record`, as there. Raises BadInput for an unknown component."""

    model: str
    component: Component = "other"
    precision: str = ""
    batch: int = 1
    resolution: int | None = None

    def __post_init__(self) -> None:
        check("component", self.component, get_args(Component))

    def fields(self) -> dict[str, Any]:
        """As fields of a record."""
        return asdict(self)


def read(file: Path, model: str | None = None, component: str | None = None) -> FileMetadata:
    """What a ``.tflite`` or ``.mlpackage`` says of itself. Raises BadInput for an unknown component.

    ``file``: the network. ``model``, ``component``: for a file without metadata; the file's name and ``other`` where
    they are None.
    """
    from mdrepro.export import flatbuffer, mil

    try:
        entries = (mil if file.suffix == ".mlpackage" else flatbuffer).read(file).metadata
        kind, pixels = entries["component"], entries.get("resolution")
        return FileMetadata(
            model=str(entries["model"]),
            component=kind,
            precision=str(entries["precision"]),
            batch=int(entries.get("branches", 1)),
            resolution=None if kind == "text-encoder" or pixels is None else int(pixels),
        )
    except NotAttempted as error:
        print(f"{file.name}: its metadata was not read: {error}", file=sys.stderr)
    except (BadInput, KeyError, TypeError, ValueError):
        pass  # not ours, or it cannot be read: the runtime that is to run it will report that
    return FileMetadata(model or file.stem, cast(Component, component or "other"))
