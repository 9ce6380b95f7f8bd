"""Mean and covariance of image features as sums that stream, merge and are stored.

A set of features keeps its number n, mean m and scatter S = sum (x - m)(x - m)^T, in float64. Two sets join by Chan,
Golub and LeVeque's update (1979): with d = m2 - m1 and n = n1 + n2,

    m = m1 + d n2 / n,    S = S1 + S2 + d d^T n1 n2 / n,

which loses no digits to a mean that is large beside the spread, as raw sums of products do.
"""

import functools
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import lapack  # type: ignore[import-untyped]
from torch import Tensor

from mdrepro.core import distributed
from mdrepro.core.errors import BadInput
from mdrepro.core.files import replacing
from mdrepro.core.reading import read_header, read_npz

Array = NDArray[np.float64]
Features: TypeAlias = "ArrayLike | Tensor"
"""Features of images, (n, width), an array or a tensor of any real type."""
FORMAT = "mdrepro feature statistics 1"


@dataclass(frozen=True)
class Convention:
    """Network and layer, SHA-256 of its weights, and how images reach it (size, filter, range).

    Only features of one convention are comparable.
    """

    encoder: str = ""
    weights_sha256: str = ""
    preprocessing: str = ""

    def agree(self, other: "Convention") -> None:
        """Do nothing where both are the same. Raises BadInput that names what differs."""
        mine, theirs = asdict(self), asdict(other)
        differing = [f"{name} {mine[name]!r} and {theirs[name]!r}" for name in mine if mine[name] != theirs[name]]
        if differing:
            raise BadInput(f"features of two conventions cannot be joined or compared: {'; '.join(differing)}")


class Statistics:
    """Streaming statistics of features, (n, width), from a number, mean (width,) and scatter (width, width) on.

    From a covariance the scatter is ``(n - 1) * covariance``. Where ``counted`` is False, n is the least number of
    images that a covariance of this rank can be of, as a foreign file holds none.
    """

    counted = True

    def __init__(
        self,
        convention: Convention | None = None,
        n: int = 0,
        mean: ArrayLike = (),
        scatter: ArrayLike = np.empty((0, 0)),
    ) -> None:
        self.convention = convention or Convention()
        self.n, self._mean, self._scatter = n, np.asarray(mean, np.float64), np.asarray(scatter, np.float64)

    @classmethod
    def of(cls, features: Features, convention: Convention | None = None) -> Self:
        """Statistics of one array of features, (n, width)."""
        return cls(convention).add(features)

    @classmethod
    def combined(cls, parts: Iterable["Statistics"]) -> Self:
        """Statistics of the union of disjoint parts (shards) of one convention. Raises BadInput for no part."""
        parts = list(parts)
        if not parts:
            raise BadInput("no statistics to combine: at least one is needed")
        return functools.reduce(cls.merge, parts, cls(parts[0].convention))

    @property
    def width(self) -> int:
        """Features of an image; 0 before the first."""
        return len(self._mean)

    @property
    def mean(self) -> Array:
        return self._mean.copy()

    @property
    def covariance(self) -> Array:
        """The unbiased covariance, over n - 1: (width, width). Raises BadInput for fewer than 2 images."""
        if self.n < 2:
            raise BadInput(f"a covariance needs at least 2 images, got {self.n}")
        return self._scatter / (self.n - 1)

    def add(self, features: Features) -> Self:
        """Take in more images' features. Raises BadInput for another shape or width, or values that are not finite."""
        x_nd = as_features(features)
        if not len(x_nd):
            return self
        mean = x_nd.mean(axis=0)
        centred = x_nd - mean
        self._join(len(x_nd), mean, centred.T @ centred)
        return self

    def merge(self, other: "Statistics") -> Self:
        """Take in another part's images. Raises BadInput where convention or width differ."""
        self.convention.agree(other.convention)
        if not other.counted:
            raise BadInput("statistics without their number of images cannot be joined with others")
        if other.n:
            self._join(other.n, other._mean, other._scatter)
        return self

    def over_processes(self, width: int) -> Self:
        """Statistics of the images of all processes of a launcher, each of which holds a part, the same on each.

        The update above for any number of parts: m = sum n_i m_i / n, S = sum S_i + n_i (m_i - m)(m_i - m)^T.
        """
        mean = self._mean if self.n else np.zeros(width)
        n = int(distributed.total(torch.tensor(self.n)))
        whole = distributed.total(torch.from_numpy(self.n * mean)).numpy() / max(n, 1)
        step = mean - whole
        part = (self._scatter if self.n else np.zeros((width, width))) + self.n * np.outer(step, step)
        return type(self)(self.convention, n, whole, distributed.total(torch.from_numpy(part)).numpy())

    def _join(self, n: int, mean: Array, scatter: Array) -> None:
        if not self.n:
            self.n, self._mean, self._scatter = n, mean.copy(), scatter.copy()
            return
        if len(mean) != self.width:
            raise BadInput(f"features of width {len(mean)} cannot join features of width {self.width}")
        total, step = self.n + n, mean - self._mean
        self._mean += step * (n / total)
        self._scatter += scatter
        self._scatter += np.outer(step, step * (self.n * n / total))
        self.n = total

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, whole or not at all, with the convention in its metadata.

        A path ending in .npz gets ``mu`` and ``sigma`` (the unbiased covariance), as pytorch-fid and clean-fid read
        them, and beside them ``n`` and the convention. Raises BadInput for fewer than 2 images there.
        """
        from safetensors.numpy import save_file

        if Path(path).suffix == ".npz":
            arrays: dict[str, Any] = {"mu": self._mean, "sigma": self.covariance, **asdict(self.convention)}
            arrays |= {"n": self.n} if self.counted else {}
            with replacing(Path(path)) as aside, open(aside, "wb") as file:
                np.savez(file, **arrays)
            return
        tensors = {"n": np.array([self.n]), "mean": self._mean, "scatter": self._scatter}
        with replacing(Path(path)) as aside:
            save_file(tensors, aside, metadata={"format": FORMAT, **asdict(self.convention)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote, or a .npz with ``mu`` and ``sigma`` of another package, which has no convention.

        Raises BadInput for a file that is missing, damaged or of another kind.
        """
        from safetensors import SafetensorError, safe_open

        if Path(path).suffix == ".npz":
            return cls._load_npz(Path(path))
        shapes = read_header(Path(path))
        try:
            with safe_open(path, framework="numpy") as file:
                written = file.metadata() or {}
                n, mean, scatter = (file.get_tensor(name) for name in ("n", "mean", "scatter"))
        except (OSError, SafetensorError, TypeError) as error:  # TypeError: a type that numpy does not have
            raise BadInput(f"{path} cannot be read as feature statistics ({error})") from error
        width, kind = mean.size, written.pop("format", "of no format")
        if kind != FORMAT or written.keys() != asdict(Convention()).keys():
            raise BadInput(f"{path} is {kind}: expected a file of {FORMAT!r}, as Statistics.save writes it")
        whole = shapes == {"n": (1,), "mean": (width,), "scatter": (width, width)} and n.dtype.kind == "i" and n[0] >= 0
        if not whole or not np.isfinite(scatter).all() or not np.isfinite(mean).all() or (scatter.diagonal() < 0).any():
            raise BadInput(f"{path} is damaged: mean {mean.shape} and scatter {scatter.shape} do not fit or not finite")
        return cls(Convention(**written), int(n[0]), mean, scatter)

    @classmethod
    def _load_npz(cls, path: Path) -> Self:
        names = tuple(asdict(Convention()))
        known = read_npz(path, ("mu", "sigma", "n", *names))
        mean, covariance = (known.get(name, np.empty(0)) for name in ("mu", "sigma"))
        real = all(array.dtype.kind == "f" and array.size and np.isfinite(array).all() for array in (mean, covariance))
        if not real or mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise BadInput(
                f"{path} holds mu {mean.shape} and sigma {covariance.shape}: expected a mean (d,) and a covariance "
                "(d, d), finite, as pytorch-fid and clean-fid write them"
            )
        covariance, n = covariance.astype(np.float64), known.get("n", np.array(2))
        if not np.allclose(covariance, covariance.T, rtol=1e-4, atol=1e-6 * np.abs(covariance).max()):
            raise BadInput(f"{path} holds a sigma that is not symmetric: expected a covariance")
        text = all(known[name].dtype.kind == "U" and not known[name].shape for name in names if name in known)
        if n.dtype.kind not in "iu" or n.shape or n < 2 or (covariance.diagonal() < 0).any() or not text:
            raise BadInput(f"{path} is damaged: a negative variance, or no number or convention of the images")
        convention = Convention(**{name: str(known[name]) for name in names if name in known})
        counted = int(n) if "n" in known else _least(covariance)
        read = cls(convention, counted, mean.astype(np.float64), (counted - 1) * covariance)
        read.counted = "n" in known
        return read


def _least(covariance: Array) -> int:
    """The fewest images of such a covariance: its rank and one, features without variance counted as of full rank."""
    spread = np.diag(covariance)
    still = int((spread <= len(spread) * np.finfo(np.float64).eps * spread.max()).sum())  # LAPACK's own tolerance
    return int(lapack.dpstrf(covariance, lower=1)[2]) + still + 1


def as_features(features: Features) -> Array:
    """Features as float64 (n, width). Raises BadInput where they are not two-dimensional or not finite."""
    values = features.detach().cpu().double().numpy() if isinstance(features, Tensor) else features
    x_nd = np.asarray(values, np.float64)
    if x_nd.ndim != 2:
        raise BadInput(f"features have shape {x_nd.shape}: expected (images, width)")
    broken = ~np.isfinite(x_nd).all(axis=1)
    if broken.any():
        raise BadInput(
            f"features of {broken.sum()} of {len(x_nd)} images are not finite, first at position {broken.argmax()}: "
            "look at that image, and run the encoder in float32"
        )
    return x_nd


def as_pair(first: Features, second: Features) -> tuple[Array, Array]:
    """Two sets of features, as `as_features` gives them. Raises BadInput where they differ in width."""
    x, y = as_features(first), as_features(second)
    if x.shape[1] != y.shape[1]:
        raise BadInput(f"features of width {x.shape[1]} and {y.shape[1]} cannot be compared")
    return x, y
