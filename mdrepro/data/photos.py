"""Real photographs: those of installed packages and of Debian's, or a folder of the user's.

All natural scenes that Python packages ship are held out (the two motorcycle views are one scene) and never trained on.
Trained on are their textures and scientific images, and the photographs of Debian packages that ``make photos`` puts
into ``data/photographs/``: those listed, with licence and SHA-256, in ``photographs.csv``; drawings are left out. Of
these every fifth by the SHA-256 of its name is for validation: crops, sizes and losses are chosen on them. A folder is
split by the SHA-256 of each file's name: sorted by it, the first quarter is held out, and an eighth after it is for
validation.
"""

import copy
import csv
import functools
import hashlib
import importlib.util
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from mdrepro.core import paths
from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.core.files import digest, sha256
from mdrepro.data.examples import Batch
from mdrepro.data.pixels import FILTER, FORMATS, rgb, tensor, unread

PACKAGES = "packages"
TILE = 256  # px; also the least height and width of a photograph
LEAST = 4  # photographs in a folder
FIFTH = 5
LISTED = Path(__file__).with_name("photographs.csv")
"""Photographs of Debian packages: name, package, licence, file inside, SHA-256."""

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

    ``origin`` is where it is found again: "package:skimage/data/coffee.png", "debian:mate-backgrounds/..." or a path
    relative to the repository. ``scene``: photographs of the same one are not independent. ``listed``: the SHA-256 of a
    file that may not be here.
    """

    name: str
    origin: str
    path: Path
    scene: str = ""
    listed: str = ""

    @property
    def sha256(self) -> str:
        """Of its file: the listed one, or else computed."""
        return self.listed or sha256(self.path)

    def picture(self) -> Image.Image:
        """The picture in RGB; see `mdrepro.data.pixels.rgb`.

        Raises BadInput if it is unreadable, not PNG, JPEG or WebP, has more than 8 bits a channel, or under 256 px, and
        NotAttempted if it is a listed one that is not here.
        """
        if self.listed and not self.path.is_file():
            raise NotAttempted(
                f"the photograph {self.name} of {self.origin} is not in {paths.relative(self.path.parent)}; "
                "get it with: make photos"
            )
        picture = rgb(self.path, f"the photograph {self.path}")
        if min(picture.size) < TILE:
            width, height = picture.size
            raise BadInput(f"the photograph {self.path} has {width} x {height} px: at least {TILE} x {TILE} are needed")
        return picture

    def pixels(self, side: int | None = None) -> Tensor:
        """The `picture` as uint8, (3, h, w); a larger one is reduced (Lanczos) so that its shorter side is ``side``."""
        picture = self.picture()
        if side is not None and min(picture.size) > side:
            scale = side / min(picture.size)
            width, height = (max(side, round(scale * length)) for length in picture.size)
            picture = picture.resize((width, height), FILTER)
        return tensor(picture)


@dataclass(frozen=True)
class Split:
    """Photographs to train on, to choose settings on, and held out, in order of name; the rule that separated them."""

    train: tuple[Photograph, ...]
    validation: tuple[Photograph, ...]
    held_out: tuple[Photograph, ...]
    rule: str


def split(photos: str = PACKAGES) -> Split:
    """The photographs of the "packages", or of a folder that is searched recursively for .png, .jpg, .jpeg and .webp.

    Hidden files are left out, and so are pictures of other formats and links that lead nowhere, which a warning counts;
    of files with equal content only the first counts. Raises BadInput where a photograph or the folder is missing,
    unreadable, too small, or holds too few photographs. Listed ones may not be here yet.
    """
    parts = _packages() if photos == PACKAGES else _folder(Path(photos))
    for photograph in (*parts.train, *parts.validation, *parts.held_out):
        if not photograph.listed:
            photograph.picture()
    return parts


def folder() -> Path:
    """Where ``make photos`` puts the listed photographs: ``data/photographs/`` (not committed)."""
    return paths.data() / "photographs"


def listed() -> Iterator[dict[str, str]]:
    """The rows of photographs.csv: ``name``, ``package``, ``licence``, ``file``, ``sha256``."""
    with LISTED.open(newline="") as file:
        yield from csv.DictReader(file)


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
    """Examples: random crops, each a function of its index, its size and the seed; key ``pixels``.

    An index stands for one crop of the largest of ``sizes``, or for as many smaller ones as have its area (rounded), so
    that steps of all sizes cost the same. Each training step has crops of one size, drawn evenly (`of_step`); outside
    training they are of the first.

    Args:
        photographs: read when the first crop is asked for, or at once for crops larger than 256 px.
        sizes: px, multiples of 8.
        count: indices.
        seed: of the crops and of each step's size.
        sides: shorter sides, px, to which larger photographs are reduced; each is drawn as often. None: as they are.

    Raises BadInput for a size that is no multiple of 8 or that some photograph does not have, or a count below 1.
    """

    def __init__(
        self,
        photographs: Sequence[Photograph],
        sizes: Sequence[int],
        count: int,
        seed: int = 0,
        sides: Sequence[int] = (),
    ) -> None:
        self.photographs, self.sizes, self.sides = tuple(photographs), tuple(sizes), tuple(sides)
        self.count, self.seed = count, seed
        wrong = [size for size in self.sizes if size % 8 or size < 8]
        largest = max(self.sizes, default=0)
        least = min(self.sides, default=TILE)
        if largest > TILE:
            self.require()
            least = min(min(image.shape[1:]) for image in self._images())
        if not self.sizes or wrong or largest > least:
            shown = " and ".join(map(str, wrong or [largest]))
            raise BadInput(f"crops of {shown} px: must be multiples of 8 up to {least}, the least side of a photograph")
        if count < 1:
            raise BadInput(f"{count} crops: must be 1 or more")
        self.size = self.sizes[0]
        contents = [photograph.sha256 for photograph in self.photographs]
        self.fingerprint = digest([self.sizes, self.sides, count, seed, *contents])

    def __len__(self) -> int:
        return self.count

    def of_step(self, step: int) -> "Crops":
        """The same with the size of crops of a training step, a function of the seed and the step."""
        one = copy.copy(self)
        one.size = self.sizes[_address(self.seed, "size", step) % len(self.sizes)]
        return one

    def batch(self, indices: Sequence[int]) -> Batch:
        each = round((max(self.sizes) / self.size) ** 2)
        return {"pixels": torch.cat([self._crop(index * each + number) for index in indices for number in range(each)])}

    def require(self) -> None:
        """Raises NotAttempted where a photograph is not on this machine, BadInput where it is another than listed."""
        for photograph in self.photographs:
            if photograph.listed and photograph.path.is_file() and sha256(photograph.path) != photograph.listed:
                raise BadInput(f"{photograph.path} is not the listed photograph: delete it and call make photos")
            if not photograph.path.is_file():
                photograph.picture()

    def _images(self) -> list[Tensor]:
        return _images(self.photographs, self.sides)

    def _crop(self, number: int) -> Tensor:
        rng = torch.Generator().manual_seed(_address(self.seed, self.size, number))
        return random_crops(self._images(), self.size, 1, rng)


def _address(*what: object) -> int:
    """A number of 63 bits that is a function of these."""
    text = " ".join(map(str, what))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


@functools.lru_cache(maxsize=1)  # crops of several sizes share them
def _images(photographs: tuple[Photograph, ...], sides: tuple[int, ...]) -> list[Tensor]:
    return [photograph.pixels(side) for photograph in photographs for side in (sides or (None,))]


def to_network(pixels: Tensor) -> Tensor:
    """uint8 in 0..255 to float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def to_uint8(network: Tensor) -> Tensor:
    """[-1, 1] to uint8 in 0..255: clamped, and quantised once, by rounding."""
    return ((network.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def _packages() -> Split:
    held_out = [_shipped(name, scene) for scene, names in NATURAL_SCENES.items() for name in names]
    rows = [
        Photograph(
            row["name"],
            f"debian:{row['package']}/{row['file']}",
            folder() / f"{row['name']}.jpg",
            row["name"],
            row["sha256"],
        )
        for row in listed()
    ]
    validation = _by_hash(rows)[::FIFTH]
    train = [*map(_shipped, OTHERS), *(row for row in rows if row not in validation)]
    rule = "all natural scenes of Python packages held out; other pictures of theirs, and Debian's, trained on"
    return Split(_by_name(train), _by_name(validation), _by_name(held_out), rule)


def _by_name(photographs: Sequence[Photograph]) -> tuple[Photograph, ...]:
    return tuple(sorted(photographs, key=lambda photograph: photograph.name))


def _by_hash(photographs: Sequence[Photograph]) -> list[Photograph]:
    return sorted(photographs, key=lambda photograph: hashlib.sha256(photograph.name.encode()).hexdigest())


def _shipped(name: str, scene: str = "") -> Photograph:
    package, inside = name.split("/", 1)
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / inside).is_file():
            return Photograph(Path(name).stem, f"package:{name}", Path(folder) / inside, scene or Path(name).stem)
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
            name = inside.as_posix()
            by_content.setdefault(content, Photograph(name, paths.relative(path), path, name))
    if passed:
        logger.warning("%s: %d pictures are left out: %s", folder, len(passed), "; ".join(passed[:3]))
    if len(by_content) < LEAST:
        raise BadInput(
            f"photos: {folder} holds {len(by_content)} different photographs: at least {LEAST} are needed, "
            f"as {', '.join(FORMATS)}, each at least {TILE} x {TILE} px"
        )
    ranked = _by_hash(list(by_content.values()))
    first = max(2, math.ceil(len(ranked) / 4))
    second = first + math.ceil(len(ranked) / 8)
    rule = "sorted by the SHA-256 of the file name, the first quarter (at least two) held out"
    return Split(_by_name(ranked[second:]), _by_name(ranked[first:second]), _by_name(ranked[:first]), rule)
