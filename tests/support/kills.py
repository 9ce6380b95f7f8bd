"""A file layer that ends the process at one chosen operation: before it, after it, or half-way through a write."""

import builtins
import io
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import safetensors.numpy
import safetensors.torch

from mdrepro.core import files

KILLED = 77
WHOLE = bool(os.environ.get("MDREPRO_FAULTS"))
"""Whether all points of all writers are tried, as by ``make faults``."""
EVENTS = (
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.truncate",
    "os.link",
    "os.symlink",
    "os.chmod",
    "os.utime",
)
"""Python's own events of what changes a disk; renames of `os.replace` are among them."""


class _Written:
    """A file opened for writing: the process can end before each write, with half of it written."""

    def __init__(self, file: Any, point: Callable[..., None]) -> None:
        self._file, self._point = file, point

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Any:
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        self._point(self._file.flush)
        return self._file.__exit__(*error)

    def write(self, content: Any) -> Any:
        def half() -> None:
            self._file.write(content[: len(content) // 2])
            self._file.flush()

        self._point(half)
        return self._file.write(content)


def _layer(point: Callable[..., None]) -> None:
    """Puts the layer under this process, which is a fork for one action."""

    def watch(event: str, _: tuple[Any, ...]) -> None:
        if event in EVENTS:
            point()

    plain_open, flush, exchanging = io.open, os.fsync, files._exchanging

    def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if not set(mode) & set("wax+"):
            return plain_open(file, mode, *arguments, **options)
        point()
        made = plain_open(file, mode, *arguments, **options)
        point()
        return _Written(made, point)

    def flushed(handle: int) -> None:
        point()
        flush(handle)

    def exchange() -> Callable[[bytes, bytes], int] | None:
        call = exchanging()

        def pointed(new: bytes, final: bytes) -> int:
            assert call is not None
            point()
            return call(new, final)

        return call and pointed

    def serialised(module: Any) -> None:
        whole = module.serialize_file

        def write(tensors: Any, filename: Any, **options: Any) -> None:
            point()
            whole(tensors, filename, **options)
            point(lambda: os.truncate(filename, os.path.getsize(filename) // 2))

        module.serialize_file = write

    builtins.open = io.open = opened  # type: ignore[assignment]
    os.fsync = flushed
    files._exchanging = exchange  # type: ignore[assignment]
    serialised(safetensors.torch)
    serialised(safetensors.numpy)
    sys.addaudithook(watch)


def killed_at(number: int, action: Callable[[Path], Any], folder: Path) -> bool:
    """Whether a fork that did ``action`` ended at its file operation ``number``; False where it had fewer."""
    child = os.fork()
    if not child:
        _child(number, action, folder)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, KILLED), f"operation {number}: code {code}"
    return code == KILLED


def _child(number: int, action: Callable[[Path], Any], folder: Path) -> NoReturn:
    left, ending = iter(range(number)), False

    def point(last: Callable[[], Any] | None = None) -> None:
        nonlocal ending
        if not ending and next(left, None) is None:
            ending = True
            if last is not None:
                last()
            os._exit(KILLED)

    try:
        _layer(point)
        action(folder)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def report(name: str, count: int) -> None:
    """Add a count to what ``make faults`` prints."""
    if WHOLE:
        with open(os.environ["MDREPRO_FAULTS_LOG"], "a") as log:
            print(f"{name}\t{count}", file=log)
