"""Real photographs: those that installed packages ship, or a folder of the user's.

The split of the packages' photographs was fixed before anything was measured: natural scenes, sorted by name, are held
out and trained on in turn, the first held out (the two motorcycle views are one scene); textures and scientific images
are only trained on. A folder is split by the SHA-256 of each file's name: sorted by it, the first quarter is held out.
"""

import functools
import hashlib
import importlib.util
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mdrepro.core import paths
from mdrepro.core.errors import BadInput
from mdrepro.core.files import digest, sha256
from mdrepro.data.examples import Batch
from mdrepro.data.pixels import FORMATS, rgb, tensor, unread

PACKAGES = "packages"
TILE = 256  # px; also the least height and width of a photograph
LEAST = 4  # photographs in a folder

_SKIMAGE, _SKLEARN, _MATPLOTLIB = "skimage/data", "sklearn/datasets/images", "matplotlib/mpl-data/sample_data"
NATURAL_SCENES = {
    "astronaut": (f"{_SKIMAGE}/astronaut.png",),
    "camera": (f"{_SKIMAGE}/camera.png",),
    "chelsea": (f"{_SKIMAGE}/chelsea.png",),
    "china": (f"{_SKLEARN}/china.jpg",),
    "coffee": (f"{_SKIMAGE}/coffee.png",),
    "flower": (f"{_SKLEARN}/flower.jpg",),
    "grace_hopper": (f"{_MATPLOTLIB}/grace_hopper.jpg",),
    "motorcycle": (f"{_SKIMAGE}/motorcycle_left.png", f"{_SKIMAGE}/motorcycle_right.png"),
    "rocket": (f"{_SKIMAGE}/rocket.jpg",),
}
_OTHERS = "brick.png coins.png grass.png gravel.png hubble_deep_field.jpg ihc.png moon.png retina.jpg"
OTHERS = tuple(f"{_SKIMAGE}/{name}" for name in _OTHERS.split(" "))

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Photograph:
    """A photograph on disk: its name, unique in its split, such as "coffee", and its file here.

    ``origin`` is where it is found again: "package:skimage/data/coffee.png", or a path relative to the repository.
    """

    name: str
    origin: str
    path: Path

    def pixels(self) -> Tensor:
        """The picture as uint8, (3, h, w); see `mdrepro.data.pixels.rgb`.

        Raises BadInput if it is unreadable, not PNG, JPEG or WebP, has more than 8 bits a channel, or under 256 px.
        """
        picture = rgb(self.path, f"the photograph {self.path}")
        if min(picture.size) < TILE:
            width, height = picture.size
            raise BadInput(f"the photograph {self.path} has {width} x {height} px: at least {TILE} x {TILE} are needed")
        return tensor(picture)


@dataclass(frozen=True)
class Split:
    """Training and held-out photographs, in order of name, and the rule that separated them."""

    train: tuple[Photograph, ...]
    held_out: tuple[Photograph, ...]
    rule: str


def split(photos: str = PACKAGES) -> Split:
    """The photographs of the "packages", or of a folder that is searched recursively for .png, .jpg, .jpeg and .webp.

    Hidden files are left out, and so are pictures of other formats and links that lead nowhere, which a warning counts;
    of files with equal content only the first counts. Raises BadInput where a photograph or
    the folder is missing, unreadable, too small, or holds too few photographs.
    """
    parts = _packages() if photos == PACKAGES else _folder(Path(photos))
    for photograph in (*parts.train, *parts.held_out):
        photograph.pixels()
    return parts


def tiles(image: Tensor, size: int = TILE) -> Tensor:
    """All tiles of a centred grid without overlap: (3, h, w) to (n, 3, size, size), same type, row by row."""
    _, height, width = image.shape
    rows, columns = height // size, width // size
    top, left = (height - rows * size) // 2, (width - columns * size) // 2
    grid = image[:, top : top + rows * size, left : left + columns * size]
    return grid.reshape(3, rows, size, columns, size).permute(1, 3, 0, 2, 4).reshape(-1, 3, size, size).contiguous()


def random_crops(images: Sequence[Tensor], size: int, count: int, generator: torch.Generator) -> Tensor:
    """Training crops, uint8, (count, 3, size, size), of uint8 pictures (3, h, w) at least ``size`` px high and wide.

    Random are the photograph (each equally likely), the position, and a mirror image half of the time.
    """
    crops = []
    for choice, *corner, flip in torch.rand(count, 4, generator=generator, dtype=torch.float64).tolist():
        image = images[int(choice * len(images))]
        top, left = (int(u * (side - size + 1)) for u, side in zip(corner, image.shape[1:], strict=True))
        crop = image[:, top : top + size, left : left + size]
        crops.append(crop.flip(-1) if flip < 0.5 else crop)
    return torch.stack(crops)


class Crops:
    """Examples: ``count`` random crops of ``size`` px, each a function of its index, size and seed; key ``pixels``.

    Photographs are read when the first crop is asked for, or at once for crops larger than 256 px. Raises BadInput for
    a size that is no multiple of 8 or that some photograph does not have, or a count below 1.
    """

    def __init__(self, photographs: Sequence[Photograph], size: int, count: int, seed: int = 0) -> None:
        self.photographs, self.size, self.count, self.seed = tuple(photographs), size, count, seed
        least = min(min(image.shape[1:]) for image in _images(self.photographs)) if size > TILE else TILE
        if size % 8 or not 8 <= size <= least:
            raise BadInput(f"crops of {size} px: must be a multiple of 8 up to {least}, the smallest photograph's side")
        if count < 1:
            raise BadInput(f"{count} crops: must be 1 or more")
        self.fingerprint = digest([size, count, seed, *(sha256(each.path) for each in self.photographs)])

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Sequence[int]) -> Batch:
        return {"pixels": torch.cat([self._crop(index) for index in indices])}

    def _crop(self, index: int) -> Tensor:
        address = hashlib.blake2b(f"{self.seed} {self.size} {index}".encode(), digest_size=8)
        rng = torch.Generator().manual_seed(int.from_bytes(address.digest()) >> 1)
        return random_crops(_images(self.photographs), self.size, 1, rng)


@functools.lru_cache(maxsize=1)  # crops of several sizes share them
def _images(photographs: tuple[Photograph, ...]) -> list[Tensor]:
    return [photograph.pixels() for photograph in photographs]


def to_network(pixels: Tensor) -> Tensor:
    """uint8 in 0..255 to float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def to_uint8(network: Tensor) -> Tensor:
    """[-1, 1] to uint8 in 0..255: clamped, and quantised once, by rounding."""
    return ((network.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def _packages() -> Split:
    names = list(OTHERS), list[str]()
    for position, scene in enumerate(sorted(NATURAL_SCENES)):
        names[0 if position % 2 else 1].extend(NATURAL_SCENES[scene])
    train, held_out = (tuple(map(_shipped, sorted(part, key=lambda name: Path(name).stem))) for part in names)
    rule = "natural scenes by name in turn, the first held out; textures and scientific images only trained on"
    return Split(train, held_out, rule)


def _shipped(name: str) -> Photograph:
    package, inside = name.split("/", 1)
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / inside).is_file():
            return Photograph(Path(name).stem, f"package:{name}", Path(folder) / inside)
    raise BadInput(
        f"the installed package {package} does not ship {inside}: "
        "install the versions in requirements.lock, or name a folder of photographs instead"
    )


def _folder(folder: Path) -> Split:
    if not folder.is_dir():
        raise BadInput(f'photos: {folder} is neither "{PACKAGES}" nor a folder')
    by_content: dict[str, Photograph] = {}
    passed: list[str] = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if any(part.startswith(".") for part in inside.parts):
            continue
        if reason := unread(path):
            passed.append(f"{inside} {reason}")
        elif path.suffix.lower() in FORMATS and path.is_file():
            try:
                content = sha256(path)
            except OSError as error:
                raise BadInput(f"cannot read the photograph {path}: {error.strerror}") from error
            by_content.setdefault(content, Photograph(inside.as_posix(), paths.relative(path), path))
    if passed:
        logger.warning("%s: %d pictures are left out: %s", folder, len(passed), "; ".join(passed[:3]))
    if len(by_content) < LEAST:
        raise BadInput(
            f"photos: {folder} holds {len(by_content)} different photographs: at least {LEAST} are needed, "
            f"as {', '.join(FORMATS)}, each at least {TILE} x {TILE} px"
        )
    ranked = sorted(by_content.values(), key=lambda p: hashlib.sha256(p.name.encode()).hexdigest())
    cut = max(2, math.ceil(len(ranked) / 4))
    held_out, train = (tuple(sorted(part, key=lambda p: p.name)) for part in (ranked[:cut], ranked[cut:]))
    return Split(train, held_out, "sorted by the SHA-256 of the file name, the first quarter (at least two) held out")
