"""What commands print for people: tables that fit the terminal, verdicts in colour, progress on one line.

A table on a terminal is never wider than it; piped, every row is one line of full width that can be searched. Colour is
for terminals alone, and not where ``NO_COLOR`` is set. Tables are laid out here, because rich takes a tenth of a second
to import, and cuts names in their middle; it is loaded for the live lines of what runs for long.
"""

import datetime
import io
import math
import os
import re
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, zip_longest
from typing import TYPE_CHECKING, Self, TextIO, TypeVar

if TYPE_CHECKING:
    import rich.progress

T = TypeVar("T")
MINUS, NONE = "−", "–"
PROSE = 20  # columns with texts of several words give up width first, down to so many characters
LINE_SECONDS = 15.0
"""Between two plain lines of progress where there is no terminal."""
QUIET = "MDREPRO_QUIET"
TICKER = "mdrepro waiting"  # the thread's name
_DIGITS = r"[+−-]?[\d,]*\.?\d+(?:e[+−-]?\d+)?"
NUMBER = re.compile(rf"{_DIGITS}( \([\w :]+\))?|\[{_DIGITS}, {_DIGITS}\]")  # or an interval
PIECE = re.compile(r"[^/_-]*[/_-]+|[^/_-]+")  # what a long word may be broken after
GREEN, YELLOW, RED, DIM, BOLD = 32, 33, 31, 2, 1
STYLES = {
    **dict.fromkeys(("reproduced", "holds", "agrees", "ok", "yes", "ready", "trained", "published"), GREEN),
    **dict.fromkeys(("within noise", "bed not sensitive", "unconfirmed", "missing", "needs data"), YELLOW),
    **dict.fromkeys(("differs", "does not hold", "DIFFERS", "FAILED", "NO", "not ready", "NOT verified"), RED),
    **dict.fromkeys(("by construction", "not attempted", "not comparable", "no paper figure", "no"), DIM),
}


def on_terminal(stream: TextIO) -> bool:
    """Whether a stream is a terminal that can do more than print."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def quiet() -> bool:
    """Whether progress is left out: ``MDREPRO_QUIET`` is set, as `quietly` does for this process and its children."""
    return bool(os.environ.get(QUIET))


@contextmanager
def quietly() -> Iterator[None]:
    """No progress inside."""
    before = os.environ.get(QUIET)
    os.environ[QUIET] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[QUIET]
        else:
            os.environ[QUIET] = before


def width() -> int | None:
    """Characters in a line of the terminal, or None where standard output is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def styled(text: str, code: int | None = None) -> str:
    """A text in colour, by default the one of the verdict that it is; as it stands where no terminal takes colour."""
    code = STYLES.get(text) if code is None else code
    if code is None or os.environ.get("NO_COLOR") or not on_terminal(sys.stdout):
        return text
    return f"\x1b[{code}m{text}\x1b[0m"


def paragraph(text: str, indent: str = "", *, hanging: int = 4, mark: str = "") -> str:
    """A text without line breaks, wrapped on a terminal, ``indent`` before each line.

    ``hanging``: spaces before all lines but the first. ``mark``: the verdict in the text, shown in its colour.
    """
    if (limit := width()) is not None:
        options = {"subsequent_indent": " " * hanging, "break_on_hyphens": False}
        text = "\n".join(textwrap.wrap(text, max(limit - len(indent), hanging + 1), **options))  # type: ignore[arg-type]
    return textwrap.indent(text.replace(mark, styled(mark), 1), indent)


def columns(lines: Sequence[Sequence[str]], indent: str = "  ") -> str:
    """A table as text: its header, then a line for each row; numbers to the right, with one kind of minus.

    Columns that are empty in every row are left out. On a terminal that is too narrow cells are wrapped, texts of
    several words first; rows that begin with the same cell share a heading; and where even that does not fit, a row
    becomes a block of ``name  value`` lines. ``lines``: the header, then the rows, all of equal length.
    """
    table = [[cell.replace("-", MINUS) if NUMBER.fullmatch(cell) else cell for cell in line] for line in lines]
    kept = [index for index in range(len(table[0])) if len(table) == 1 or any(row[index] for row in table[1:])]
    table = [[line[index] for index in kept] for line in table]
    room = None if (limit := width()) is None else limit - len(indent)
    natural = [max(map(len, column)) for column in zip(*table, strict=True)]
    first = [row[0] for row in table[1:]]
    if room is not None and _total(natural) > room and 2 * len(set(first)) <= len(first):
        head, *rows = _fitted([line[1:] for line in table], room - 2)
        texts = [head] if head else []
        for title, group in groupby(zip(first, rows, strict=True), lambda pair: pair[0]):
            texts += [styled(part, BOLD) for part in _wrapped(title, room)]
            texts += [textwrap.indent(text, "  ") for _, text in group]
    else:
        texts = [text for text in _fitted(table, room) if text]
    return textwrap.indent("\n".join(texts).rstrip("\n"), indent)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + 2 * (len(widths) - 1)


def _fitted(table: list[list[str]], room: int | None) -> list[str]:
    """The text of each line of a table, wrapped to ``room`` characters; no header where rows become blocks."""
    body = list(zip(*table[1:], strict=True)) or [()] * len(table[0])
    right = [
        any(map(NUMBER.fullmatch, column)) and all(cell in ("", NONE) or NUMBER.fullmatch(cell) for cell in column)
        for column in body
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    if room is None or _total(widths) <= room:
        return [_line(line, widths, right, header=line is table[0]) for line in table]
    least = [max(map(_longest, column)) for column in zip(*table, strict=True)]
    several = [any(" " in cell for cell in column) for column in body]
    kept = [PROSE if words else wide for wide, words in zip(widths, several, strict=True)]
    floors = [max(low, min(wide, keep)) for low, wide, keep in zip(least, widths, kept, strict=True)]
    for lowest in (floors, least):
        for cap in range(max(widths), 0, -1):
            if _total(widths) > room:
                widths = [max(low, min(wide, cap)) for low, wide in zip(lowest, widths, strict=True)]
    if _total(widths) <= room:
        return [_line(line, widths, right, header=line is table[0]) for line in table]
    left = min(max(map(len, table[0])), room // 2 - 1)
    texts = [""]
    for row in table[1:]:
        pairs = (pair for pair in zip(table[0], row, strict=True) if pair[1])
        texts.append("\n".join(_line(pair, [left, room - left - 2], [False, False]) for pair in pairs) + "\n")
    return texts


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool], header: bool = False) -> str:
    """One line of a table; several where cells are wider than their columns."""
    parts = [_wrapped(cell, wide) for cell, wide in zip(cells, widths, strict=True)]
    if header:  # at the bottom
        tall = max(map(len, parts))
        parts = [[""] * (tall - len(part)) + part for part in parts]
    texts = []
    for pieces in zip_longest(*parts, fillvalue=""):
        padded = []
        for piece, cell, wide, number in zip(pieces, cells, widths, right, strict=True):
            blank = " " * (wide - len(piece))
            shown = styled(piece, BOLD if header else STYLES.get(cell)) if piece else ""
            padded.append(blank + shown if number else shown + blank)
        texts.append("  ".join(padded).rstrip())
    return "\n".join(texts)


def _wrapped(text: str, wide: int) -> list[str]:
    """Lines of at most ``wide`` characters; words that are longer are broken after hyphens and the like if possible."""
    texts = [""]
    for word in text.split():
        pieces = [word] if len(word) <= wide else PIECE.findall(word)
        for number, piece in enumerate(pieces):
            gap = " " if texts[-1] and not number else ""
            if texts[-1] and len(texts[-1] + gap + piece) > wide:
                texts.append("")
                gap = ""
            texts[-1] += gap + piece
            while len(texts[-1]) > wide:
                texts[-1:] = [texts[-1][:wide], texts[-1][wide:]]
    return texts


def _longest(cell: str) -> int:
    return max((len(piece) for word in cell.split() for piece in PIECE.findall(word)), default=0)


_live: "rich.progress.Progress | None" = None
_spoken = -math.inf  # when the last plain line was printed, by `time.monotonic`


class Progress:
    """How far something is: a live line on a terminal, elsewhere a plain line at most every `LINE_SECONDS`.

    Args:
        title, unit: what runs, and what is counted.
        total, done: how many there are to do; how many were done before, by earlier runs.
        show, file: False for a process that stays silent; where it is shown, None for standard error.
    """

    def __init__(
        self, title: str, total: int, unit: str = "", *, done: int = 0, show: bool = True, file: TextIO | None = None
    ) -> None:
        self.title, self.total, self.unit, self.done = title, total, unit, done
        show = show and not quiet()
        self._before, self._show, self._file, self._note = done, show, file, ""
        self._began = self._last = time.monotonic()
        self._task = self._line() if show and on_terminal(file or sys.stderr) else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def advance(self, count: int = 1) -> None:
        """So many more are done."""
        self.done += count
        self._update()

    def note(self, text: str) -> None:
        """What stands at the end of the line from now on, such as losses."""
        self._note = text
        self._update()

    def close(self) -> None:
        """Take the live line away."""
        global _live
        if self._task is not None and _live is not None:
            _live.remove_task(self._task)
            if not _live.tasks:
                _live.stop()
                _live = None
        self._task = None

    def facts(self) -> str:
        """Count, rate, time that is left, and the note."""
        passed, new = time.monotonic() - self._began, self.done - self._before
        facts = [f"{self.done:,} of {self.total:,}"]
        if new and passed:
            left = datetime.timedelta(seconds=round((self.total - self.done) * passed / new))
            facts += [f"{new / passed:.3g} {self.unit}/s", f"{left} left"]
        return ", ".join(filter(None, [*facts, self._note]))

    def _update(self) -> None:
        if self._task is not None and _live is not None:
            _live.update(self._task, completed=self.done, facts=self.facts())
        elif self._show and self._task is None and time.monotonic() - self._last >= LINE_SECONDS:
            self._last = time.monotonic()
            print(f"{self.title}: {self.facts()}", file=self._file or sys.stderr, flush=True)
            spoken()

    def _line(self) -> "rich.progress.TaskID":
        global _live
        if _live is None:
            _live = _screen(self._file or sys.stderr)
            _live.start()
        return _live.add_task(self.title, total=self.total, completed=self.done, facts="")


def spoken() -> None:
    """A line was printed now: `waiting` counts from it."""
    global _spoken
    _spoken = time.monotonic()


@contextmanager
def waiting(title: str) -> Iterator[None]:
    """A line on standard error after every `LINE_SECONDS` without one while something runs: what, and for how long.

    A thread prints it, so nothing that is timed may run inside. Where a live line is shown, or progress is left out,
    nothing is printed.
    """
    ended, begun = threading.Event(), time.monotonic()

    def print_lines() -> None:
        global _spoken
        pause = LINE_SECONDS
        while not ended.wait(pause):
            now = time.monotonic()
            pause = LINE_SECONDS - (now - max(begun, _spoken))
            if pause <= 0:
                pause, _spoken = LINE_SECONDS, now
                if _live is None and not quiet():
                    print(f"{title}: {now - begun:.0f} s so far", file=sys.stderr, flush=True)

    thread = threading.Thread(target=print_lines, name=TICKER, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def track(values: Sequence[T], title: str, unit: str = "") -> Iterator[T]:
    """The values, one after the other, with a `Progress` of them."""
    with Progress(title, len(values), unit) as progress:
        for value in values:
            yield value
            progress.advance()


def _screen(file: TextIO) -> "rich.progress.Progress":
    """One live display for everything that runs; what is printed meanwhile appears above it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    class Screen(Console):
        def show_cursor(self, show: bool = True) -> bool:
            """Leave the cursor: a killed process could not bring it back."""
            return False

    return Progress(
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(bar_width=16),
        TextColumn("{task.fields[facts]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
        console=Screen(file=file),
        refresh_per_second=2,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    )


class Prefixed(io.TextIOBase):
    """Passes whole lines on to ``stream``, each after its name in brackets: jobs side by side share one terminal.

    Empty lines are dropped; ``\\r`` ends a line too.
    """

    def __init__(self, name: str, stream: TextIO) -> None:
        self.prefix, self.stream, self.rest = f"[{name}] ", stream, ""

    def write(self, text: str) -> int:
        *lines, self.rest = re.split(r"[\r\n]", self.rest + text)
        for line in lines:
            if line.strip():
                self.stream.write(self.prefix + line.rstrip() + "\n")
        self.stream.flush()
        return len(text)

    def flush(self) -> None:
        self.stream.flush()
