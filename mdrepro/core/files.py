"""Files and folders that appear whole or not at all: written aside, flushed to disk, renamed into place."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def sha256(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_hashes(folder: Path, names: list[str]) -> dict[str, str]:
    """SHA-256 of files in ``folder``, by their names relative to it."""
    return {name: sha256(folder / name) for name in sorted(names)}


@contextmanager
def replacing(final: Path) -> Iterator[Path]:
    """The path of a new file beside ``final``, which takes its place when the block ends well and disappears otherwise.

    The file is flushed to disk before the rename, so that after a power failure the old file or the new one is there.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=final.parent, prefix=f".{final.name}.")
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        flush(aside)
        aside.chmod(0o644)
        os.replace(aside, final)
    finally:
        aside.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until a file's content is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write text beside ``path`` and rename it into place."""
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, value: Any) -> None:
    """Write JSON beside ``path`` and rename it into place. Raises ValueError for NaN or infinite numbers."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def replacing_folder(final: Path) -> Iterator[Path]:
    """A new folder beside ``final`` that takes its place when the block ends well, and disappears otherwise.

    An older ``final`` stays untouched until then. What killed processes left beside it is removed first.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    for left in final.parent.glob(f".{final.name}.*"):
        process = left.name.removeprefix(f".{final.name}.").split(".")[0]
        if process.isdigit() and not _running(int(process)):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}.{os.getpid()}."))
    folder.chmod(0o755)
    try:
        yield folder
        for file in folder.rglob("*"):
            if file.is_file():
                flush(file)
        swap(folder, final)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def swap(folder: Path, final: Path) -> None:
    """Move ``folder`` to ``final``, replacing what is there; of two processes doing so at once, the later one wins."""
    for attempt in range(100):
        old = folder.with_name(f"{folder.name}.old{attempt}")
        with suppress(FileNotFoundError):
            os.replace(final, old)
        try:
            os.replace(folder, final)
            return
        except OSError:
            if not final.exists() or attempt == 99:
                raise
        finally:
            shutil.rmtree(old, ignore_errors=True)
