"""What a network's file says of itself, so that a record of its latency says which network ran.

Files of ``mdrepro export`` carry model, component, precision, branches and resolution inside. Others say nothing: their
records have the file's name.
"""

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast, get_args

from mdrepro.core.errors import BadInput, NotAttempted, unknown
from mdrepro.latency.records import Component


@dataclass(frozen=True)
class About:
    """Fields of `mdrepro.latency.records.Record`, as there.

    Raises:
        BadInput: an unknown component.
    """

    model: str
    component: Component = "other"
    precision: str = ""
    batch: int = 1
    resolution: int | None = None

    def __post_init__(self) -> None:
        if self.component not in get_args(Component):
            raise unknown("component", self.component, get_args(Component))

    def told(self) -> dict[str, Any]:
        """As fields of a record."""
        return asdict(self)


def of(file: Path, model: str | None = None, component: str | None = None) -> About:
    """What a ``.tflite`` or ``.mlpackage`` says of itself.

    Args:
        file: the network.
        model, component: for a file that says nothing; its name and ``other`` where they are None.

    Raises:
        BadInput: an unknown component.
    """
    return _inside(file) or About(model or file.stem, cast(Component, component or "other"))


def _inside(file: Path) -> About | None:
    """None for a file that is not ours, or cannot be read: whatever is to run it will say so."""
    try:
        said = _metadata(file)
        branches, pixels = said.get("branches", 1), said.get("resolution")
        kind = said["component"]
        return About(
            model=str(said["model"]),
            component=kind,
            precision=str(said["precision"]),
            batch=int(branches),
            resolution=None if kind == "text-encoder" or pixels is None else int(pixels),
        )
    except NotAttempted as error:
        print(f"{file.name}: what it says of itself was not read: {error}", file=sys.stderr)
    except (BadInput, KeyError, TypeError, ValueError):
        pass
    return None


def _metadata(file: Path) -> Mapping[str, Any]:
    if file.suffix == ".mlpackage":
        from mdrepro.export import mil

        return mil.read(file).metadata
    from mdrepro.export import flatbuffer

    return flatbuffer.read(file).metadata
