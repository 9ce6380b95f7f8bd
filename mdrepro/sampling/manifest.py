"""What a folder of generated images is: settings that stand before the first image, and a manifest after the last.

``settings.json`` is written when the set is begun, so that no shard and no later run adds images made otherwise.
``manifest.json`` is written by whoever finds all images there: the settings again, and for each image its prompt, the
seed of its generator and the SHA-256 of its file. No times and no places are in it: equal images give equal bytes.
Importing this module imports no torch.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from mdrepro.core.errors import BadInput
from mdrepro.core.files import sha256, sweep, write_text

SETTINGS, MANIFEST = "settings.json", "manifest.json"


@dataclass(frozen=True)
class Entry:
    """One image: its place among the prompts, prompt, seed of its generator, file name and SHA-256 of the file."""

    index: int
    prompt: str
    seed: int
    file: str
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The images that a folder holds.

    Args:
        folder: where they are.
        settings: how they were made: pipeline, hash of its weights, sampler, scheduler, steps, guidance, seed, batch,
            number of images and hash of the prompts.
        images: those there are, in order of the prompts.
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
        """The images' files, in order of the prompts."""
        return [self.folder / entry.file for entry in self.images]

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Self:
        """The manifest of a complete set.

        Raises:
            BadInput: there is none (the message says how far the set is), or it cannot be read.
        """
        place = Path(folder)
        if not (place / MANIFEST).is_file():
            begun = f"; {len(list(place.glob('*.png')))} images are there" if (place / SETTINGS).is_file() else ""
            raise BadInput(f"{place} holds no {MANIFEST}{begun}: generate the set, or go on with it, first")
        written = _json(place / MANIFEST)
        try:
            return cls(place, written["settings"], tuple(Entry(**entry) for entry in written["images"]))
        except (KeyError, TypeError) as error:
            raise BadInput(f"{place / MANIFEST} is no manifest of images ({error})") from error

    def check(self) -> None:
        """Do nothing where every file is the one that was made. Raises BadInput that names the first that is not."""
        for entry in self.images:
            file = self.folder / entry.file
            if not file.is_file() or sha256(file) != entry.sha256:
                state = "not what was made" if file.is_file() else "missing"
                raise BadInput(f"{file} is {state}: delete it, and generate the set again with the same settings")

    def text(self) -> str:
        """The bytes of ``manifest.json``, as text."""
        return _text({"settings": dict(self.settings), "images": [asdict(entry) for entry in self.images]})


def begin(folder: Path, settings: Mapping[str, Any]) -> None:
    """Open a folder for images of these settings.

    Raises:
        BadInput: it holds images of other settings, or files that are no set of images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / SETTINGS
    if not place.exists():
        foreign = any(not file.name.startswith(".") for file in folder.iterdir())
        if foreign and not place.exists():  # another shard may have begun in between
            raise BadInput(f"{folder} holds files but no {SETTINGS}: choose a new or an empty folder")
        write_text(place, _text(settings))
    written = _json(place)
    differing = [name for name in {**written, **settings} if written.get(name) != settings.get(name)]
    if differing:
        changes = "; ".join(f"{name}: there {written.get(name)!r}, now {settings.get(name)!r}" for name in differing)
        raise BadInput(
            f"{folder} holds images made otherwise ({changes}): go on with the same settings, or choose another folder"
        )


def end(folder: Path, settings: Mapping[str, Any], prompts: Sequence[str], seeds: Sequence[int]) -> Manifest:
    """The images that are there, and ``manifest.json`` where they are all.

    Raises:
        BadInput: a manifest is there already, and an image is not what it says.
    """
    entries = [
        Entry(index, prompt, seed, name(index), sha256(folder / name(index)))
        for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
        if (folder / name(index)).is_file()
    ]
    manifest = Manifest(folder, settings, tuple(entries))
    if not manifest.complete:
        return manifest
    if (folder / MANIFEST).is_file():
        before = Manifest.read(folder)
        changed = [new.file for new, old in zip(manifest.images, before.images, strict=True) if new != old]
        if changed:
            raise BadInput(
                f"{folder}: {changed[0]} is not the file that {MANIFEST} tells of: it was altered, or made anew by "
                "other versions or hardware; delete it to have it made again, or the folder to make the set anew"
            )
        return manifest
    sweep(folder)
    write_text(folder / MANIFEST, manifest.text())
    return manifest


def name(index: int) -> str:
    """The file of image ``index``; files sort as the prompts do."""
    return f"{index:06}.png"


def _text(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read ({error}): choose another folder, or delete this one") from error
    if not isinstance(value, dict):
        raise BadInput(f"{path} is no JSON object: choose another folder, or delete this one")
    return value
