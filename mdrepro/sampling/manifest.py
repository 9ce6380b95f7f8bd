"""A folder of generated images: settings, written before the first image, and a manifest, written after the last.

``settings.json`` keeps other shards and later runs from adding images with other settings. ``manifest.json`` is written
by the process that completes the set: the settings, and for each image its prompt, the seed of its generator and the
SHA-256 of its file. It holds neither times nor paths: equal images give equal bytes. Imports no torch.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from PIL import Image

from mdrepro.core.errors import BadInput
from mdrepro.core.files import sha256, sweep, write_text
from mdrepro.core.reading import read_json

SETTINGS, MANIFEST = "settings.json", "manifest.json"


@dataclass(frozen=True)
class Entry:
    """One image: index of its prompt, prompt, seed of its generator, file name and SHA-256 of the file."""

    index: int
    prompt: str
    seed: int
    file: str
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The ``images`` that exist in a folder, in the prompts' order.

    ``settings`` are pipeline, hash of its weights, sampler, scheduler, steps, guidance, seed, batch, number of images
    and hash of the prompts.
    """

    folder: Path
    settings: Mapping[str, Any]
    images: tuple[Entry, ...]

    @property
    def complete(self) -> bool:
        """Whether there is an image for each prompt."""
        return len(self.images) == self.settings["images"]

    @property
    def files(self) -> list[Path]:
        """The images' files, in the prompts' order."""
        return [self.folder / entry.file for entry in self.images]

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Self:
        """The manifest of a complete set. Raises BadInput where it is missing, counting the images, or unreadable."""
        root = Path(folder)
        if not (root / MANIFEST).is_file():
            count = f"; {len(list(root.glob('*.png')))} images are there" if (root / SETTINGS).is_file() else ""
            raise BadInput(f"{root} holds no {MANIFEST}{count}: generate the set, or continue it, first")
        written = _json(root / MANIFEST)
        try:
            return cls(root, written["settings"], tuple(Entry(**entry) for entry in written["images"]))
        except (KeyError, TypeError) as error:
            raise BadInput(f"{root / MANIFEST} is no manifest of images ({error})") from error

    def check(self) -> None:
        """Compare every file with its hash. Raises BadInput that names the first file that is missing or differs."""
        for entry in self.images:
            file = self.folder / entry.file
            if not file.is_file() or sha256(file) != entry.sha256:
                state = "not the generated one" if file.is_file() else "missing"
                raise BadInput(f"{file} is {state}: delete it, and generate the set again with the same settings")

    def text(self) -> str:
        """The bytes of ``manifest.json``, as text."""
        return _text({"settings": dict(self.settings), "images": [asdict(entry) for entry in self.images]})


def begin(folder: Path, settings: Mapping[str, Any]) -> None:
    """Start or continue a set of images. Raises BadInput where there are images of other settings, or other files."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / SETTINGS
    if not file.exists():
        foreign = any(not other.name.startswith(".") for other in folder.iterdir())
        if foreign and not file.exists():  # another shard may have begun in between
            raise BadInput(f"{folder} holds files but no {SETTINGS}: choose a new or an empty folder")
        write_text(file, _text(settings))
    written = _json(file)
    if differing := [name for name in {**written, **settings} if written.get(name) != settings.get(name)]:
        changes = "; ".join(f"{name}: there {written.get(name)!r}, now {settings.get(name)!r}" for name in differing)
        raise BadInput(f"{folder} holds images of other settings ({changes}): use the same settings, or another folder")


def end(folder: Path, settings: Mapping[str, Any], prompts: Sequence[str], seeds: Sequence[int]) -> Manifest:
    """The whole images in the folder; writes ``manifest.json`` where none is missing.

    Raises BadInput where there is a manifest already, and an image differs from it.
    """
    there = Path.is_file if (folder / MANIFEST).is_file() else whole  # with a manifest, hashes are compared
    entries = [
        Entry(index, prompt, seed, name(index), sha256(folder / name(index)))
        for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
        if there(folder / name(index))
    ]
    manifest = Manifest(folder, settings, tuple(entries))
    if not manifest.complete:
        return manifest
    if (folder / MANIFEST).is_file():
        before = set(Manifest.read(folder).images)
        if changed := [entry.file for entry in manifest.images if entry not in before]:
            raise BadInput(
                f"{folder}: {changed[0]} differs from {MANIFEST}: it was altered, or generated again by other "
                "versions or hardware; delete it to generate it again, or the folder to start over"
            )
        return manifest
    sweep(folder)
    write_text(folder / MANIFEST, manifest.text())
    return manifest


def whole(file: Path) -> bool:
    """Whether an image is there with all of its chunks, each as its own checksum says; an empty or cut one is not."""
    try:
        with Image.open(file, formats=["PNG"]) as picture:
            picture.verify()
    except Exception:  # whatever a damaged file makes Pillow raise
        return False
    return True


def name(index: int) -> str:
    """The file of image ``index``; files sort as the prompts do."""
    return f"{index:06}.png"


def _text(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = read_json(path, dict[str, Any])
    except BadInput as error:
        raise BadInput(f"{error}: choose another folder, or delete this one") from error
    return value
