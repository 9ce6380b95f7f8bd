"""The loss curve of a run, as JSON lines and for tensorboard, and its clock."""

import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

from mdrepro.core.errors import BadInput
from mdrepro.core.files import write_text
from mdrepro.core.reading import parse_json

FILE, EVENTS = "losses.jsonl", "tensorboard"

Row = dict[str, float]
logger = logging.getLogger(__name__)


class Curve:
    """The rows of a run, in a file and in tensorboard: those of earlier runs up to ``step``, and those added.

    Later rows, of a run that was killed, are dropped. ``write`` is whether this process writes.
    """

    def __init__(self, folder: Path, step: int, write: bool) -> None:
        self._file = folder / FILE
        self.rows = [row for row in read(self._file) if row["step"] <= step]
        self._board = _board(folder / EVENTS, step) if write else None
        if write:
            write_text(self._file, "".join(map(_line, self.rows)))

    def add(self, row: Row) -> None:
        """One more row; ``step`` is the steps done."""
        self.rows.append(row)
        if self._board is not None:
            with open(self._file, "a") as file:
                file.write(_line(row))
            for name, value in row.items():
                self._board.add_scalar(name, value, int(row["step"]))

    def close(self) -> None:
        """Write out what tensorboard holds back."""
        if self._board is not None:
            self._board.close()


def read(file: Path) -> list[Row]:
    """The whole rows of a file, which a kill may have cut in the middle of its last line.

    Other lines that are none, of a damaged file, are left out with a warning: no checkpoint rests on them.
    """
    rows, lines = list[Row](), file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            row = parse_json(line, f"{file}, line {number}", dict[str, float])
            rows.append(row | {"step": row["step"]})
        except (BadInput, KeyError) as error:
            logger.warning("left out: %s, line %d: %s", file, number, error)
    return rows


def clear(folder: Path) -> None:
    """Remove the curve of a run."""
    (folder / FILE).unlink(missing_ok=True)
    shutil.rmtree(folder / EVENTS, ignore_errors=True)


def losses(row: Row) -> str:
    """The step and the losses of a row, in one line."""
    each = [f"{name.removesuffix('/loss')} {value:.4g}" for name, value in row.items() if name.endswith("/loss")]
    return ", ".join([f"step {row['step']:.0f}", *each])


class Clock:
    """Seconds of training, those of earlier runs included."""

    def __init__(self, before: float) -> None:
        self.before, self._began = before, time.monotonic()

    @property
    def now(self) -> float:
        """Since this run began."""
        return time.monotonic() - self._began

    @property
    def total(self) -> float:
        """Of all runs."""
        return round(self.before + self.now, 3)


def _line(row: Row) -> str:
    return json.dumps(row) + "\n"


def _board(folder: Path, step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step or None)
