"""Locks between processes, by the filelock package; the system frees a lock when its process ends, even by a kill."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mdrepro.core.errors import BadInput


@contextmanager
def hold(file: Path, *, busy: Callable[[], None] | None = None, refuse: str = "") -> Iterator[None]:
    """Hold the lock ``file`` inside the block; its folder is created where it is missing, and it stays afterwards.

    ``busy``: called once when another process holds the lock, before waiting for it. ``refuse``: raise BadInput with
    this message instead of waiting.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file)
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        if refuse:
            raise BadInput(refuse) from None
        if busy:
            busy()
        held = lock.acquire()
    with held:
        yield
