"""Captioned pictures on disk as training data: COCO, a folder with metadata.jsonl, or WebDataset shards (`webshards`).

All become `CaptionedPictures`. A sample is a pair of a picture and one of its captions: pictures in the order of their
file, captions in order within a picture, so a picture of COCO gives five samples that lie side by side.

What is broken is reported and left out, up to a stated share. Pictures that are missing or have no caption are known at
once and give no samples. One that turns out unreadable when it is first needed is replaced by the next sample, counted
round from the last to the first, whose picture can be read. So sample i is the same in every run, whatever is read
before it.
"""

import hashlib
import itertools
import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor

from mdrepro.core import machine
from mdrepro.core.errors import BadInput, check
from mdrepro.core.reading import inside, read_json, read_json_lines
from mdrepro.data import pixels

CHOICES = ("all", "first")
METADATA = "metadata.jsonl"
READERS = min(16, machine.cores())  # threads that decode one batch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preparation:
    """How pictures and captions become samples. Raises BadInput for a value that is not allowed.

    Args:
        size: height and width of the pixels, px.
        fit: ``center-crop`` or ``resize`` (squashed); see `mdrepro.data.pixels.square`.
        captions: ``all``: a sample for every caption; ``first``: one for every picture, with its first caption.
        broken: the share of pictures that may be missing, without a caption or unreadable.
    """

    size: int
    fit: str = "center-crop"
    captions: str = "all"
    broken: float = 0.01

    def __post_init__(self) -> None:
        check("fit", self.fit, pixels.FITS)
        check("captions", self.captions, CHOICES)
        if self.size < 1 or not 0 <= self.broken < 1:
            raise BadInput(
                f"size {self.size} px, broken {self.broken}: must be 1 px or more, and a share from 0 to below 1"
            )


@dataclass(frozen=True, slots=True)
class Picture:
    """The bytes of one picture and its captions.

    Args:
        name: unique, and the same wherever the data is.
        file: a picture, or a tar file that holds it at ``offset``, ``size`` bytes long.
        captions: in order; empty ones do not count.
        fault: why it cannot be used; "" where nothing is known against it.
    """

    name: str
    file: Path
    captions: tuple[str, ...]
    offset: int = 0
    size: int = 0
    fault: str = ""

    def pixels(self, preparation: Preparation) -> Tensor:
        """uint8, (3, size, size). Raises BadInput if it cannot be read."""
        try:
            with open(self.file, "rb") as file:
                file.seek(self.offset)
                content = file.read(self.size)
        except OSError as error:
            raise BadInput(f"cannot read the picture ({error.strerror})") from error
        return pixels.tensor(pixels.square(pixels.rgb(content, "the picture"), preparation.size, preparation.fit))


class _Image(BaseModel):
    id: int | str
    file_name: str


class _Caption(BaseModel):
    image_id: int | str
    caption: str


class _Annotations(BaseModel):
    """COCO's captions_train2017.json; other fields are passed over."""

    images: list[_Image]
    annotations: list[_Caption]


class _Line(BaseModel):
    """A line of metadata.jsonl."""

    file_name: str
    text: str


class CaptionedPictures:
    """Pairs of pictures and captions, by number; ``pictures`` are all, the faulty too, called ``source`` in errors.

    ``fingerprint`` is a SHA-256 over names, sizes in bytes and captions of the pictures in order, which it does not
    read, and the preparation.

    Raises BadInput for no pictures, none with a caption, or too large a share of them broken.
    """

    def __init__(self, pictures: Iterable[Picture], preparation: Preparation, source: str) -> None:
        self.preparation, self._source = preparation, source
        self._faults: dict[str, str] = {}
        self._total = 0
        self._pictures: list[Picture] = []
        self._samples: list[tuple[int, str]] = []
        for picture in pictures:
            self._total += 1
            texts = [caption for caption in map(str.strip, picture.captions) if caption]
            if fault := picture.fault or ("" if texts else "no caption"):
                self._note(picture, fault)
                continue
            used = texts if preparation.captions == "all" else texts[:1]
            self._samples += [(len(self._pictures), text) for text in used]
            self._pictures.append(picture)
        self._check_share()
        if not self._pictures:
            raise BadInput(f"{source} holds no captioned pictures: at least one is needed")
        self.fingerprint = self._hash()

    def __len__(self) -> int:
        return len(self._samples)

    def batch(self, indices: Sequence[int]) -> dict[str, Any]:
        """Samples: ``pixels`` uint8 (b, 3, size, size) and ``caption``, b texts. A picture is decoded once per batch.

        Raises BadInput where, with this batch, too large a share of the pictures has turned out broken.
        """
        ready: dict[int, Tensor] = {}
        while True:
            samples = [self._samples[self._usable(index)] for index in indices]
            missing = sorted({number for number, _ in samples} - ready.keys())
            if not missing:
                break
            with ThreadPoolExecutor(min(READERS, len(missing))) as readers:
                for number, result in zip(missing, readers.map(self._read, missing), strict=True):
                    if isinstance(result, Tensor):
                        ready[number] = result
                    else:
                        self._note(self._pictures[number], str(result))
            self._check_share()
        return {
            "pixels": torch.stack([ready[number] for number, _ in samples]),
            "caption": [text for _, text in samples],
        }

    def _usable(self, index: int) -> int:
        index = range(len(self))[index]
        while self._pictures[self._samples[index][0]].name in self._faults:
            index = (index + 1) % len(self)
        return index

    def _read(self, number: int) -> Tensor | BadInput:
        try:
            return self._pictures[number].pixels(self.preparation)
        except BadInput as error:
            return error

    def _note(self, picture: Picture, fault: str) -> None:
        self._faults[picture.name] = fault
        logger.warning("%s: left out %s: %s", self._source, picture.name, fault)

    def _check_share(self) -> None:
        """Raises BadInput if more is broken than allowed, or everything."""
        if self._faults and len(self._faults) > min(self.preparation.broken * self._total, self._total - 1):
            first = "; ".join(f"{name}: {fault}" for name, fault in list(self._faults.items())[:3])
            raise BadInput(
                f"{self._source}: {len(self._faults)} of {self._total} pictures are broken ({first}): "
                f"at most {self.preparation.broken:.3g} of them may be; mend the files, or allow a larger share"
            )

    def _hash(self) -> str:
        prepared = [self.preparation.size, self.preparation.fit, pixels.FILTER.name]
        digest = hashlib.sha256(json.dumps(prepared).encode())
        for entry in itertools.chain(([picture.name, picture.size] for picture in self._pictures), self._samples):
            digest.update(json.dumps(entry).encode())
        return digest.hexdigest()


def coco(annotations: Path, images: Path, preparation: Preparation) -> CaptionedPictures:
    """COCO captions, with ``images``, the folder that ``file_name`` starts from.

    ``annotations`` is JSON with ``images`` (``id``, ``file_name``) and ``annotations`` (``image_id``, ``caption``), as
    captions_train2017.json is. Captions keep their order in the file. Errors are of `listed` and `CaptionedPictures`.
    """
    return CaptionedPictures(_pictures(listed(annotations), images, str(annotations)), preparation, str(annotations))


def listed(annotations: Path) -> list[tuple[str, tuple[str, ...]]]:
    """File names with their captions, both in the order of a file of COCO's captions, as `coco` takes.

    Raises BadInput for another file, or an image id twice or unknown.
    """
    content: _Annotations = read_json(annotations, _Annotations)
    names: dict[int | str, str] = {}
    for number, image in enumerate(content.images):
        if image.id in names:
            raise BadInput(
                f"{annotations}, images[{number}]: the id {image.id!r} occurs twice: every image needs its own"
            )
        names[image.id] = image.file_name
    texts: dict[int | str, list[str]] = {key: [] for key in names}
    for number, entry in enumerate(content.annotations):
        if entry.image_id not in texts:
            where = f"{annotations}, annotations[{number}]"
            raise BadInput(f"{where}: image_id {entry.image_id!r} is not among the images of the file")
        texts[entry.image_id].append(entry.caption)
    return [(names[key], tuple(texts[key])) for key in names]


def folder(root: Path, preparation: Preparation) -> CaptionedPictures:
    """A folder of pictures with ``metadata.jsonl``, as Hugging Face's image folders have it.

    Each of its lines is a JSON object: ``file_name``, relative to the folder, and ``text``. Pictures that it does not
    name are not used. Raises BadInput for no such folder or file, a line with other fields, a file name twice; see
    `CaptionedPictures`.
    """
    metadata = root / METADATA
    lines: list[_Line] = read_json_lines(metadata, _Line)
    pairs = {line.file_name: (line.text,) for line in lines}
    if len(pairs) < len(lines):
        name = next(name for name, count in Counter(line.file_name for line in lines).items() if count > 1)
        raise BadInput(f"{metadata}: {name!r} occurs twice: expected one line for each picture")
    return CaptionedPictures(_pictures(pairs.items(), root, str(metadata)), preparation, str(metadata))


def _pictures(pairs: Iterable[tuple[str, tuple[str, ...]]], root: Path, where: str) -> Iterable[Picture]:
    if not root.is_dir():
        raise BadInput(f"{root} is no folder: the folder of the pictures that {where} names is needed")
    for name, captions in pairs:
        file = inside(root, name, where)
        try:
            size, fault = file.stat().st_size, ""
        except OSError:
            size, fault = 0, "missing"
        yield Picture(name, file, captions, size=size, fault=fault)
