"""What a network's file says of itself, so that a record of its latency says which network ran.

Files of ``mdrepro export`` carry model, component, precision, branches and resolution inside. Others say nothing: their
records have the file's name.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from mdrepro.errors import BadInput, NotAttempted, unknown
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
    """What a ``.tflite`` or ``.mlpackage`` says of itself; its name alone where it says nothing.

    Args:
        file: the network.
        model, component: said by the user, and taken before what the file says.

    Raises:
        BadInput: an unknown component.
    """
    said = _inside(file)
    kind: Any = component or said.get("component", "other")
    return About(
        model=model or said.get("model") or file.stem,
        component=kind,
        precision=said.get("precision", ""),
        batch=int(said.get("branches", 1)),
        resolution=None if kind == "text-encoder" else said.get("resolution"),
    )


def _inside(file: Path) -> dict[str, Any]:
    from mdrepro.export import flatbuffer

    try:
        if file.suffix == ".mlpackage":
            from mdrepro.export import mil  # needs torch, which a machine that converts nothing may lack

            return dict(mil.read(file).metadata)
        return dict(flatbuffer.read(file).metadata)
    except (BadInput, NotAttempted, ImportError):
        return {}
