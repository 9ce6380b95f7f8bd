"""Recomputes the hashes of trained runs, published and of this machine: each record followed to every file it names."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mdrepro.core.files import sha256
from mdrepro.core.paths import published, relative, runs
from mdrepro.core.reading import read_json
from mdrepro.papers.schema import Tier
from mdrepro.training.runs.model_folders import WEIGHTS
from mdrepro.training.runs.session import RECORD
from mdrepro.training.runs.store import SHARED


def problems(tier: Tier) -> Iterator[str]:
    """What is wrong with the trained runs at a tier; each line names the file."""
    for folder in _folders(published(tier)):
        yield from _record(folder, published=True)
    for folder in _folders(runs() / tier):
        if (folder / RECORD).is_file():  # else it is being trained
            yield from _record(folder, published=False)


def _folders(home: Path) -> list[Path]:
    return [folder for folder in sorted((home / "checkpoints").glob("[!.]*")) if folder.is_dir()]


def _record(folder: Path, *, published: bool) -> Iterator[str]:
    file = folder / RECORD
    if not file.exists():
        yield f"{relative(file)}: is gone"
        return
    try:
        record = read_json(file, dict[str, Any])
        own, shared, size = _own(folder, record), _shared(folder, record), int(record["bytes"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        yield f"{relative(file)}: not a readable record ({error})"
        return
    for path, expected in (own | shared).items():
        if not path.is_file():
            yield f"{relative(path)}: is gone; {relative(file)} names it"
        elif sha256(path) != expected:
            yield f"{relative(path)}: is not what {relative(file)} says"
    if all(path.is_file() for path in own) and size != sum(path.stat().st_size for path in own):
        yield f"{relative(file)}: its files have not the {size} bytes that it says"
    if published:
        there = {path for path in folder.rglob("*") if path.is_file()} - {file}
        yield from (f"{relative(path)}: is not named by {relative(file)}" for path in sorted(there - own.keys()))


def _own(folder: Path, record: dict[str, Any]) -> dict[Path, str]:
    """The files that a record names, and their hashes. Raises ValueError for none, or one outside the folder."""
    files = {folder / name: str(value) for name, value in record["files"].items()}
    if not files:
        raise ValueError("it names no files")
    for path in files:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"it names a file outside its folder: {path.name}")
    return files


def _shared(folder: Path, record: dict[str, Any]) -> dict[Path, str]:
    """The files of parents that it shares weights with, and their hashes. Raises ValueError for one elsewhere."""
    files = {}
    for part, shared in record.get(SHARED, {}).items():
        path = folder.parent / shared["recipe"] / part / WEIGHTS
        if len(path.resolve().relative_to(folder.parent.resolve()).parts) != 3:
            raise ValueError(f"it shares weights with {shared['recipe']!r}, which is no recipe")
        files[path] = str(shared["sha256"])
    return files
