"""Long work shown while it runs: its stage, time and memory, without the converters' own output."""

import contextlib
import io
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Self, TextIO

import psutil

from mdrepro.core.console import Progress
from mdrepro.core.machine import peak_memory

SECONDS = 0.5  # between two looks at the process's memory


class Stages:
    """The stages of one export: a line of progress, seconds of each, and the most memory that was held.

    ``seconds``: by stage, in their order. ``peak``: bytes of memory, the most that the process held meanwhile; what it
    held before is in it.
    """

    def __init__(self, title: str, count: int) -> None:
        self.seconds: dict[str, float] = {}
        self.peak = 0
        self._title, self._count = title, count

    def __enter__(self) -> Self:
        self._before, self._screen = peak_memory(), _screen()
        self._progress = Progress(self._title, self._count, "stages", file=self._screen)
        self._name, self._ended = "", threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._watcher.join()
        if (largest := peak_memory()) > self._before:
            self.peak = largest
        self._progress.close()
        self._screen.close()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """One stage, such as ``converting``, as `quiet`."""
        self._name, begun = name, time.perf_counter()
        with quiet():
            yield
        self.seconds[name] = round(time.perf_counter() - begun, 2)
        self._progress.advance()

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._ended.wait(SECONDS):
            held = process.memory_info().rss
            self.peak = max(self.peak, held)
            self._progress.note(f"{self._name}, {held / 1e9:.1f} GB")


def _screen() -> TextIO:
    """Standard error, also while `quiet` leads it away."""
    try:
        return os.fdopen(os.dup(sys.stderr.fileno()), "w")
    except (OSError, ValueError, AttributeError, io.UnsupportedOperation):  # a notebook's is no file
        return open(os.devnull, "w")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What Python and C++ write to standard output and standard error inside goes nowhere; and no log is written."""
    level = logging.root.manager.disable
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    kept = os.dup(1), os.dup(2)
    logging.disable(logging.CRITICAL)
    with open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        try:
            for number in (1, 2):
                os.dup2(sink.fileno(), number)
            yield
        finally:
            for number, before in zip((1, 2), kept, strict=True):
                os.dup2(before, number)
                os.close(before)
            logging.disable(level)
