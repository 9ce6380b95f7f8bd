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
from typing import Any, Self, get_type_hints

from PIL import Image

from mdrepro.core.errors import BadInput
from mdrepro.core.files import sha256, sweep, write_text
from mdrepro.core.reading import checked, inside, read_json

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
        """The manifest of a complete set.

        Raises BadInput where it is missing, counting the images, unreadable, or not of the folder's settings, each
        prompt once.
        """
        root = Path(folder)
        if not (root / MANIFEST).is_file():
            count = f"; {len(list(root.glob('*.png')))} images are there" if (root / SETTINGS).is_file() else ""
            raise BadInput(f"{root} holds no {MANIFEST}{count}: generate the set, or continue it, first")
        source = root / MANIFEST
        written = _json(source)
        other = f"{source} is no manifest of images"
        settings = checked(written.get("settings"), dict[str, Any], f"{other}: settings")
        listed = checked(written.get("images"), list[dict[str, int | str]], f"{other}: images")
        count = checked(settings.get("images"), int, f"{other}: their number")
        images = tuple(_entry(root, fields, source) for fields in listed)
        if [entry.index for entry in images] != [*range(count)] or len({entry.file for entry in images}) < count:
            raise BadInput(f"{source} is no manifest of {count} images, each once and in order")
        if (root / SETTINGS).is_file() and _json(root / SETTINGS) != settings:
            raise BadInput(f"{source} and {SETTINGS} have different settings: generate the set again in a new folder")
        return cls(root, settings, images)

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


def _entry(folder: Path, fields: Mapping[str, int | str], source: Path) -> Entry:
    kinds = get_type_hints(Entry)
    if {name: type(value) for name, value in fields.items()} != kinds:
        raise BadInput(f"{source}: an image has other fields than {', '.join(kinds)}, or of other types")
    entry = Entry(**fields)  # type: ignore[arg-type]
    inside(folder, entry.file, source)
    return entry


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
        value: dict[str, Any] = read_json(path, dict[str, Any], infinite=True)  # settings hold a scheduler's config
    except BadInput as error:
        raise BadInput(f"{error}: choose another folder, or delete this one") from error
    return value
