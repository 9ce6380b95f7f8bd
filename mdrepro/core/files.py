"""Files and folders that appear whole or not at all: written aside, flushed to disk, renamed into place.

Aside is a hidden name beside the final one, ``.NAME.HOST.PROCESS.RANDOM``. What a killed process of this host left is
known by its process number, and removed by `sweep`, at the latest when a process first writes into the same folder;
what is of another host is left alone: it may be at work.
"""

import ctypes
import errno
import functools
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
ASIDE = re.compile(r"\.(?P<name>.+)\.(?P<host>[0-9a-f]{8})\.(?P<process>\d+)\.[0-9a-f]{8}(?P<old>\.old)?")
OCCUPIED = (errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR)
"""Why a rename cannot replace what is there: it is a folder that is not empty, or one of the two is a folder."""
_SWEPT = set[str]()  # folders that this process has swept before it wrote into them
UNKNOWN_CALL = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM)
"""How a system says that it, this file system or this container does not exchange names in one step."""


def sha256(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any, *, compact: bool = True) -> str:
    """SHA-256 of a JSON value, independent of key order, of its text without spaces or with them.

    Each kind of key stays with its form: keys of published checkpoints and of stored features must not change.
    """
    separators = (",", ":") if compact else None
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=separators).encode()).hexdigest()


def file_hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of files in ``folder``, by their names relative to it."""
    return {name: sha256(folder / name) for name in sorted(names)}


def flush(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if path.is_file():  # some file systems cannot flush folders
            raise
    finally:
        os.close(handle)


@contextmanager
def unfinished(final: Path) -> Iterator[Path]:
    """An unused hidden path beside ``final``, on the same file system; what is there when the block ends is removed."""
    final.parent.mkdir(parents=True, exist_ok=True)
    if (here := os.path.abspath(final.parent)) not in _SWEPT:
        _SWEPT.add(here)
        sweep(final.parent)
    aside = final.with_name(f".{final.name}.{HOST}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        yield aside
    finally:
        _erase(aside)


@contextmanager
def replacing(final: Path) -> Iterator[Path]:
    """The path of a new file beside ``final``, which takes its place when the block ends well and disappears otherwise.

    After a kill or a power failure at any moment the old file or the new one is there, whole.
    """
    with unfinished(final) as aside:
        yield aside
        swap(aside, final)


@contextmanager
def replacing_folder(final: Path) -> Iterator[Path]:
    """A new folder beside ``final`` that takes its place when the block ends well, and disappears otherwise.

    An older ``final`` stays untouched until then. What killed processes left beside it is removed first.
    """
    sweep(final.parent, final.name)
    with replacing(final) as aside:
        aside.mkdir()
        yield aside


@contextmanager
def replacing_tree(final: Path) -> Iterator[Path]:
    """A copy of the folder ``final`` that takes its place as `replacing_folder`: all changes to it appear at once.

    Its files are ``final``'s own by hard links, where these can be made: replace them, never write to them.
    """
    with replacing_folder(final) as aside:
        if final.is_dir():
            shutil.copytree(final, aside, symlinks=True, copy_function=_link, dirs_exist_ok=True)
        yield aside


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def write_text(path: Path, text: str) -> None:
    """Write text in UTF-8 beside ``path`` and rename it into place."""
    with replacing(path) as aside:
        aside.write_bytes(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON beside ``path`` and rename it into place. Raises ValueError for NaN or infinite numbers."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def swap(new: Path, final: Path) -> None:
    """Flush a finished file or folder to disk and move it to ``final``, in one step also where one is there.

    Of two processes doing so at once, the later one wins. The old content is then at ``new``, and is removed.
    """
    for path in [new, *(new.rglob("*") if new.is_dir() else ())]:
        if not path.is_symlink():
            flush(path)
    for attempt in range(100):
        try:
            os.replace(new, final)
            break
        except OSError as error:
            if error.errno not in OCCUPIED or attempt == 99:
                raise
        with suppress(FileNotFoundError):  # another process moved it away
            _exchange(new, final)
            break
    flush(final.parent)
    _erase(new)


def remove(folder: Path) -> None:
    """Remove a folder, out of sight first, so that a half-removed one is never taken for a whole one."""
    with unfinished(folder) as aside:
        os.replace(folder, aside)


def sweep(folder: Path, name: str = "*") -> None:
    """Remove what killed processes left unfinished in ``folder``, of everything or of one ``name``.

    What one of them had moved away to make room, and could not replace, gets its name back.
    """
    for left in folder.glob(".*"):
        match = ASIDE.fullmatch(left.name)
        if match is None or name not in ("*", match["name"]) or _alive(match):
            continue
        if match["old"] and not (final := folder / match["name"]).exists():
            with suppress(FileNotFoundError):  # another process was first
                os.replace(left, final)  # killed between two renames
        else:
            _erase(left)


def at_work(final: Path) -> bool:
    """Whether a process that lives, or one of another host, is writing ``final`` aside."""
    found = (ASIDE.fullmatch(path.name) for path in final.parent.glob(".*"))
    return any(match and match["name"] == final.name and not match["old"] and _alive(match) for match in found)


def _alive(aside: re.Match[str]) -> bool:
    """Whether the process of a name aside lives, or is one of another host, of which nothing is known."""
    import psutil

    return aside["host"] != HOST or psutil.pid_exists(int(aside["process"]))


def _erase(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _exchange(new: Path, final: Path) -> None:
    """Exchange two names; by two renames where the system has no call for it, of which `sweep` mends the first."""
    if (call := _exchanging()) is not None:
        if call(os.fsencode(new), os.fsencode(final)) == 0:
            return
        code = ctypes.get_errno()
        if code not in UNKNOWN_CALL:
            raise OSError(code, os.strerror(code), str(final))
    old = new.with_name(f"{new.name}.old")
    os.replace(final, old)
    os.replace(new, final)
    _erase(old)


@functools.cache
def _exchanging() -> Callable[[bytes, bytes], int] | None:
    """The system's call that exchanges two paths in one step (Linux, macOS)."""
    library = ctypes.CDLL(None, use_errno=True)
    if hasattr(library, "renameat2"):
        here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        return lambda new, final: int(library.renameat2(here, new, here, final, exchange))
    if hasattr(library, "renamex_np"):
        return lambda new, final: int(library.renamex_np(new, final, 2))  # RENAME_SWAP
    return None
