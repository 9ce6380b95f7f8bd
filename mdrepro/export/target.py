"""What a file format must offer to be exported to: a `Target`. `mdrepro.export.commands.TARGETS` has them by name."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.export.parity import Parity
from mdrepro.export.stages import Stages

if TYPE_CHECKING:
    from mdrepro.export.components import Component


class Target(Protocol):
    """A file format that components are exported to.

    Attributes:
        name: on the command line.
        suffix: of its files, with the dot.
        precisions: bytes of a weight by precision, the default first; each has a gate in `mdrepro.export.parity.GATES`.
        bundles: whether `mdrepro.export.runner` makes images with its files.
    """

    name: str
    suffix: str
    precisions: Mapping[str, int]
    bundles: bool

    def check(self, component: "Component", precision: str) -> int:
        """Bytes of disk that an export needs meanwhile. Raises BadInput for a network that is too large."""

    def export(
        self,
        component: "Component",
        precisions: Sequence[str],
        folder: Path,
        metadata: Mapping[str, Any],
        stages: Stages,
        *,
        plain: bool = False,
    ) -> Iterator[tuple[str, Path]]:
        """Convert a component once; yields each precision with its file, in ``folder``.

        Args:
            folder: for unfinished files alone.
            metadata: JSON values for the files.
            stages: one stage for the conversion, and one for writing each precision.
            plain: leave the layers to the converter.

        Raises BadInput where the format has no such operation, and NotAttempted where a package is not installed.
        """

    def measure(self, file: Path, component: "Component", threads: int | None = None) -> Parity:
        """How far a file's output is from PyTorch's. See `mdrepro.export.parity`."""

    def describe(self, file: Path) -> dict[str, Any]:
        """``bytes``, ``sha256``, ``inputs``, ``outputs`` and ``operations`` (counts by name), as JSON values."""


@runtime_checkable
class Joining(Protocol):
    """A target that writes all three components of a model as one file."""

    def join(self, files: Mapping[str, Path], file: Path) -> None:
        """Write one file that holds several, by component; each is in it what it was alone."""


@contextlib.contextmanager
def refusing(message: str) -> Iterator[None]:
    """Turns an error of a converter, which may be of any kind, into BadInput: ``message`` and its first line."""
    try:
        yield
    except (OSError, MemoryError, NotAttempted):
        raise
    except Exception as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise BadInput(f"{message}: {reason.strip()}") from error
