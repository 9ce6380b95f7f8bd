"""One line of a benchmark: what this project takes beside what a peer takes, measured in turn on the same machine."""

import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Clock = Callable[[], float]


@dataclass(frozen=True)
class Ratio:
    """Ours against a peer's.

    Attributes:
        what: was done.
        peer: who did the same.
        ours, theirs: in ``unit``.
        unit: of seconds, ``s`` or ``CPU s``; of rates, with a slash, such as ``images/s``.
        bar: the ratio that this project means to keep: at most this for seconds, at least this for rates.
        protocol: how often, how many, on how many threads.
    """

    what: str
    peer: str
    ours: float
    theirs: float
    unit: str
    bar: float
    protocol: str

    @property
    def ratio(self) -> float:
        """Ours over theirs."""
        return self.ours / self.theirs

    @property
    def kept(self) -> bool:
        """Whether the ratio is on the right side of the bar."""
        return self.ratio >= self.bar if "/" in self.unit else self.ratio <= self.bar


def in_turn(ours: Callable[[], object], theirs: Callable[[], object], rounds: int, clock: Clock) -> tuple[float, float]:
    """Medians of the seconds that each takes, ``rounds`` in turn after one to warm up."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for run, taken in zip((ours, theirs), seconds, strict=True):
            began = clock()
            run()
            passed = clock() - began
            if number:
                taken.append(passed)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def cpu_with_children() -> float:
    """CPU seconds of this process and of those that it waited for; other work on the machine hardly changes them."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def markdown(rows: Sequence[Ratio]) -> str:
    """A table, one line for each row."""
    lines = [
        "| what | peer | ours | theirs | unit | ratio | bar | kept | protocol |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        sign = "≥" if "/" in row.unit else "≤"
        lines.append(
            f"| {row.what} | {row.peer} | {row.ours:.3g} | {row.theirs:.3g} | {row.unit} | {row.ratio:.2f} "
            f"| {sign} {row.bar} | {'yes' if row.kept else 'NO'} | {row.protocol} |"
        )
    return "\n".join(lines) + "\n"
